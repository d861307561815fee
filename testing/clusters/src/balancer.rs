//! The load balancer in front of the pods of a cluster: it takes connections at the cluster's address and hands them to
//! the pods in turn, whether they act, wait, hang or are dead, as a Service does with pods that were Ready.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// A thread that lives in the cluster's network namespace, until this value is dropped.
#[derive(Debug)]
pub(crate) struct Balancer {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Balancer {
    /// Listens there in the network namespace of a process, before it returns.
    pub(crate) fn start(pid: u32, listen: SocketAddrV4, pods: Vec<Ipv4Addr>) -> Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("balancer".to_owned())
            .spawn(move || run(pid, listen, pods, &tell, stopped))
            .context("start the load balancer's thread")?;
        let balancer = Self { stop: Some(stop), thread: Some(thread) };
        told.recv().context("the load balancer ended at once")??;
        Ok(balancer)
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(
    pid: u32,
    listen: SocketAddrV4,
    pods: Vec<Ipv4Addr>,
    tell: &mpsc::Sender<Result<()>>,
    stopped: oneshot::Receiver<()>,
) {
    let begin = || {
        let namespace = File::open(format!("/proc/{pid}/ns/net")).context("open the cluster's namespace")?;
        setns(namespace, CloneFlags::CLONE_NEWNET).context("enter the cluster's namespace")?;
        // On this thread alone: a socket belongs to the namespace of the thread that makes it.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind(listen)).context("listen for the pods")?;
        Ok((runtime, listener))
    };
    match begin() {
        Ok((runtime, listener)) => {
            let _ = tell.send(Ok(()));
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, pods, listen.port()) => {}
                    _ = stopped => {}
                }
            });
        }
        Err(error) => drop(tell.send(Err(error))),
    }
}

async fn serve(listener: TcpListener, pods: Vec<Ipv4Addr>, port: u16) {
    for pod in pods.iter().cycle() {
        match listener.accept().await {
            Ok((client, _)) => drop(tokio::spawn(forward(client, SocketAddrV4::new(*pod, port).into()))),
            // Out of descriptors, at worst.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Until one side ends. A pod that cannot be reached, or whose connection breaks, is a reset to the client.
async fn forward(mut client: TcpStream, pod: SocketAddr) {
    let _ = client.set_nodelay(true);
    let Ok(mut server) = TcpStream::connect(pod).await else {
        let _ = client.set_zero_linger();
        return;
    };
    let _ = server.set_nodelay(true);
    if tokio::io::copy_bidirectional(&mut client, &mut server).await.is_err() {
        let _ = client.set_zero_linger();
        let _ = server.set_zero_linger();
    }
}
