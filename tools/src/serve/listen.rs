//! Connections: accepted up to a limit, with time limits on what they send and take, and closed gracefully at the end.

use super::refusal::{Dialect, Refusal};
use axum::Router;
use axum::http::StatusCode;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep, timeout};

/// Connections at the same time; others are told to come later.
const CONNECTIONS: usize = 512;
/// The time that a request's head may take, and that an idle connection stays open.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// The time in which a client must take something of what is sent to it.
const WRITE_TIME: Duration = Duration::from_secs(60);
/// The time in which what is still sent is taken before a connection is closed.
const LINGER: Duration = Duration::from_secs(1);
/// The most bytes of a request's head, and the most lines.
pub const HEAD_BYTES: usize = 64 * 1024;
const HEAD_LINES: usize = 100;

/// The time limits of connections.
#[derive(Clone, Copy)]
pub struct Times {
    /// See [`HEAD_TIME`].
    pub head: Duration,
    /// See [`WRITE_TIME`].
    pub write: Duration,
}

impl Default for Times {
    fn default() -> Times {
        Times { head: HEAD_TIME, write: WRITE_TIME }
    }
}

/// Serves until `stop` says true, then lets what is being answered end. The caller drops the future where that takes too long.
pub async fn serve(listener: TcpListener, router: Router, times: Times, mut stop: watch::Receiver<bool>) {
    let (places, mut connections) = (Arc::new(Semaphore::new(CONNECTIONS)), JoinSet::new());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = accepted else {
            // No file descriptor is left, or the client has gone: neither is worth a busy loop.
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        match places.clone().try_acquire_owned() {
            Ok(place) => {
                let (router, stop) = (router.clone(), stop.clone());
                connections.spawn(async move {
                    connection(stream, router, times, stop).await;
                    drop(place);
                });
            }
            Err(_) => {
                connections.spawn(async move {
                    let full = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "too many connections");
                    let mut stream = stream;
                    let _ = timeout(LINGER, say(&mut stream, &full)).await;
                });
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn connection(stream: TcpStream, router: Router, times: Times, mut stop: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true); // tokens are small and must not wait for each other
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request| Box::pin(router.call(request)));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(times.head).max_buf_size(HEAD_BYTES).max_headers(HEAD_LINES);
    let mut connection = builder.serve_connection(TokioIo::new(Paced::new(stream, times.write)), service);
    let done = {
        let mut served = std::pin::pin!(poll_fn(|context| connection.poll_without_shutdown(context)));
        tokio::select! {
            done = &mut served => Some(done),
            _ = stop.wait_for(|stop| *stop) => None,
        }
    };
    let done = match done {
        Some(done) => done,
        None => {
            Pin::new(&mut connection).graceful_shutdown();
            poll_fn(|context| connection.poll_without_shutdown(context)).await
        }
    };
    let parts = connection.into_parts();
    let mut stream = parts.io.into_inner().stream;
    // A head that began and did not end; an idle connection is closed without a word.
    if done.is_err_and(|error| error.is_timeout()) && !parts.read_buf.is_empty() {
        let _ =
            say(&mut stream, &Refusal::new(StatusCode::REQUEST_TIMEOUT, "the request did not arrive in time")).await;
    }
    let _ = timeout(LINGER, linger(stream)).await;
}

/// Takes what is still sent: a connection that is closed before may lose the answer on its way.
async fn linger(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = [0; 4096];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

/// Sends a refusal where no request has been read.
async fn say(stream: &mut TcpStream, refusal: &Refusal) -> io::Result<()> {
    let (status, body) = (refusal.status, refusal.body(Dialect::OpenAi).to_string());
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await
}

/// A stream that fails where the other side takes nothing for too long.
struct Paced {
    stream: TcpStream,
    limit: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Paced {
    fn new(stream: TcpStream, limit: Duration) -> Paced {
        Paced { stream, limit, waiting: None }
    }

    /// What a write says, unless it has waited too long.
    fn paced<T>(&mut self, context: &mut Context<'_>, wrote: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            self.waiting = None;
            return wrote;
        }
        let deadline = Instant::now() + self.limit;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        waiting.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Paced {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, to)
    }
}

impl AsyncWrite for Paced {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.paced(context, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.paced(context, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
