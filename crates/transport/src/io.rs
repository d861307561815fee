//! Byte streams that count what the network carries, and that remember why they failed: HTTP/2 and gRPC hide the
//! cause.

use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::stats::Counters;

/// A TCP connection that counts its bytes: TLS and HTTP/2 are in them, the headers of TCP and IP are not.
pub(crate) struct CountedTcp {
    tcp: TcpStream,
    counters: Arc<Counters>,
}

impl CountedTcp {
    pub(crate) fn new(tcp: TcpStream, counters: Arc<Counters>) -> Self {
        Self { tcp, counters }
    }

    fn sent(&self, written: io::Result<usize>) -> io::Result<usize> {
        if let Ok(bytes) = written {
            self.counters.wire_sent.fetch_add(bytes as u64, Relaxed);
        }
        written
    }
}

impl AsyncRead for CountedTcp {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.tcp).poll_read(cx, buf))?;
        self.counters.wire_received.fetch_add((buf.filled().len() - before) as u64, Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for CountedTcp {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.tcp).poll_write(cx, buf));
        Poll::Ready(self.sent(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs));
        Poll::Ready(self.sent(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }
}

/// Where the first failure of a stream is kept.
#[derive(Clone, Default)]
pub(crate) struct FailureSlot(Arc<Mutex<Option<io::Error>>>);

impl FailureSlot {
    /// The first failure, given away once.
    pub(crate) fn take(&self) -> Option<io::Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn keep(&self, error: io::Error) -> io::Error {
        let kind = error.kind();
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.get_or_insert(error);
        kind.into()
    }
}

/// A stream that keeps its first failure.
pub(crate) struct RememberingIo<S> {
    inner: S,
    failure: FailureSlot,
}

impl<S> RememberingIo<S> {
    pub(crate) fn new(inner: S) -> (Self, FailureSlot) {
        let failure = FailureSlot::default();
        (Self { inner, failure: failure.clone() }, failure)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for RememberingIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.inner).poll_read(cx, buf));
        Poll::Ready(result.map_err(|e| self.failure.keep(e)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for RememberingIo<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = ready!(Pin::new(&mut self.inner).poll_write(cx, buf));
        Poll::Ready(result.map_err(|e| self.failure.keep(e)))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.inner).poll_flush(cx));
        Poll::Ready(result.map_err(|e| self.failure.keep(e)))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.inner).poll_shutdown(cx));
        Poll::Ready(result.map_err(|e| self.failure.keep(e)))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, bufs));
        Poll::Ready(result.map_err(|e| self.failure.keep(e)))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
