//! A client's stream of requests that ends where it idles too long, or where the server is stopping.
//!
//! A stream that nobody uses would else hold its connection, and the end of the server, for as long as the client lives.
//! Idle is a stream of whose next request the server waits; the time of its answers does not count.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::codegen::tokio_stream::Stream;

/// How often an idle stream is looked at.
const GLANCE: Duration = Duration::from_millis(250);

/// The requests of `inner`, as long as they come within `idle_max` of the last answer and `is_stopping` is false.
pub(super) struct Patience<S, F> {
    inner: S,
    idle_max: Duration,
    is_stopping: F,
    /// Since when the next request is waited for, and when to look again; none while an answer is made.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
    is_over: bool,
}

impl<S, F: Fn() -> bool> Patience<S, F> {
    pub(super) fn new(inner: S, idle_max: Duration, is_stopping: F) -> Self {
        Self { inner, idle_max, is_stopping, waiting: None, is_over: false }
    }
}

impl<T, S, F> Stream for Patience<S, F>
where
    S: Stream<Item = Result<T, Status>> + Unpin,
    F: Fn() -> bool + Unpin,
{
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.is_over {
            return Poll::Ready(None);
        }
        if let Poll::Ready(item) = Pin::new(&mut this.inner).poll_next(context) {
            this.waiting = None;
            return Poll::Ready(item);
        }
        let (since, look) =
            this.waiting.get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(Duration::ZERO))));
        while look.as_mut().poll(context).is_ready() {
            let end = if (this.is_stopping)() {
                Some(Status::unavailable("the server is stopping"))
            } else if since.elapsed() >= this.idle_max {
                let idle_s = this.idle_max.as_secs();
                Some(Status::deadline_exceeded(format!("no request came on the stream for {idle_s} s; open another")))
            } else {
                None
            };
            if let Some(status) = end {
                this.is_over = true;
                return Poll::Ready(Some(Err(status)));
            }
            look.as_mut().reset(Instant::now() + GLANCE);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::sync::mpsc;
    use tonic::Code;
    use tonic::codegen::tokio_stream::StreamExt;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    /// Messages as they are sent.
    struct Sent(mpsc::Receiver<u32>);

    impl Stream for Sent {
        type Item = Result<u32, Status>;

        fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            self.0.poll_recv(context).map(|item| item.map(Ok))
        }
    }

    #[tokio::test]
    async fn a_stream_ends_where_it_idles_and_not_where_its_client_ends_it() {
        let (send, sent) = mpsc::channel(2);
        let mut stream = Patience::new(Sent(sent), Duration::ZERO, || false);
        send.send(1).await.unwrap();
        send.send(2).await.unwrap();
        assert_eq!((stream.next().await.unwrap().unwrap(), stream.next().await.unwrap().unwrap()), (1, 2));
        assert_eq!(stream.next().await.unwrap().unwrap_err().code(), Code::DeadlineExceeded);
        assert!(stream.next().await.is_none());

        let (send, sent) = mpsc::channel(1);
        let mut stream = Patience::new(Sent(sent), LONG, || false);
        send.send(1).await.unwrap();
        drop(send);
        assert_eq!(stream.next().await.unwrap().unwrap(), 1);
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn a_stream_that_waits_ends_with_the_server() {
        let stopping = std::sync::Arc::new(AtomicBool::new(false));
        let (send, sent) = mpsc::channel(1);
        let seen = std::sync::Arc::clone(&stopping);
        let mut stream = Patience::new(Sent(sent), LONG, move || seen.load(Ordering::Relaxed));
        let waiting = tokio::spawn(async move { stream.next().await });
        stopping.store(true, Ordering::Relaxed);
        assert_eq!(waiting.await.unwrap().unwrap().unwrap_err().code(), Code::Unavailable);
        drop(send);
    }
}
