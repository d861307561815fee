//! The daemon's HTTP endpoints as a probe asks them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Status code and body of a GET.
pub async fn http_get(address: (Ipv4Addr, u16), path: &str) -> Result<(u16, String)> {
    let mut stream =
        TcpStream::connect(SocketAddr::from(address)).await.with_context(|| format!("connect for {path}"))?;
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
        .await?;
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_string(&mut answer)).await??;
    let (head, body) = answer.split_once("\r\n\r\n").context("an HTTP answer")?;
    let code = head.split(' ').nth(1).context("a status line")?.parse()?;
    Ok((code, body.to_owned()))
}
