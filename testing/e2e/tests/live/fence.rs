//! A hook's receiver, as a fence agent has one.
#![allow(clippy::unwrap_used, reason = "a harness may fail loudly")]

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The test's own end of the network that is never cut.
const ADDRESS: (Ipv4Addr, u16) = (Ipv4Addr::new(198, 18, 0, 1), 8099);

/// What it received, and how it answers.
#[derive(Clone)]
pub(crate) struct Fence {
    /// Signatures and bodies.
    received: watch::Sender<Vec<(String, Value)>>,
    answer: watch::Sender<&'static str>,
}

impl Fence {
    /// Where it listens.
    pub(crate) fn url() -> String {
        format!("http://{}:{}/fence", ADDRESS.0, ADDRESS.1)
    }

    /// Fails at first.
    pub(crate) async fn start() -> Result<Self> {
        let listener = TcpListener::bind(ADDRESS).await.context("listen for hooks")?;
        let fence = Self { received: watch::Sender::default(), answer: watch::Sender::default() };
        fence.fails();
        let serving = fence.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let fence = serving.clone();
                tokio::spawn(async move { fence.serve(stream).await });
            }
        });
        Ok(fence)
    }

    pub(crate) fn fails(&self) {
        self.answer.send_replace("503 Service Unavailable");
    }

    pub(crate) fn succeeds(&self) {
        self.answer.send_replace("204 No Content");
    }

    async fn serve(&self, stream: TcpStream) -> Result<()> {
        let mut stream = BufReader::new(stream);
        let (mut length, mut signature) = (0, String::new());
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await?;
            let Some((key, value)) = line.trim().split_once(": ") else {
                if line.trim().is_empty() {
                    break;
                }
                continue;
            };
            match key.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse()?,
                "flagship-signature" => signature = value.to_owned(),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let body = serde_json::from_slice(&body)?;
        self.received.send_modify(|received| received.push((signature, body)));
        let answer = *self.answer.borrow();
        let answer = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        Ok(stream.get_mut().write_all(answer.as_bytes()).await?)
    }

    pub(crate) fn signatures(&self) -> Vec<String> {
        self.received.borrow().iter().map(|(signature, _)| signature.clone()).collect()
    }

    pub(crate) fn bodies(&self, event: &str) -> Vec<Value> {
        of(&self.received.borrow(), event).cloned().collect()
    }

    /// Until it was called so often for this, in all.
    pub(crate) async fn wait(&self, event: &str, times: usize, limit: Duration) -> Result<()> {
        let mut received = self.received.subscribe();
        let called = received.wait_for(|received| of(received, event).count() >= times);
        let called = tokio::time::timeout(limit, called).await;
        called.with_context(|| format!("{event} is not called {times} times within {limit:?}"))??;
        Ok(())
    }

    /// Until it was called for this so often again.
    pub(crate) async fn wait_more(&self, event: &str, times: usize, limit: Duration) -> Result<()> {
        self.wait(event, self.bodies(event).len() + times, limit).await
    }
}

fn of<'a>(received: &'a [(String, Value)], event: &str) -> impl Iterator<Item = &'a Value> {
    received.iter().map(|(_, body)| body).filter(move |body| body["event"] == event)
}
