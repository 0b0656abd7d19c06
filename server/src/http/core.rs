//! A core: a thread with a runtime of its own, and the connections that it answers from their first byte to their last.
//!
//! Guarantees: a connection never leaves its core, so that no request waits for another thread to wake; dropping the
//! [`Arrivals`] of a core ends its connections after their requests at hand, within the drain's time. Does not know what
//! a request means.

use std::collections::HashMap;
use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::Front;
use super::connection::Link;
use super::turns::{self, Seat, Totals, Turns};
use crate::allocator;

/// How often a core looks at its connections.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a client may take until its first request has begun, in looks.
const FIRST_LOOKS: u32 = 10;
/// How long a connection may idle, and a further request's head may take, in looks. Longer than load balancers keep idle
/// connections (60 s is usual), so that they never use one that the server is just closing.
const IDLE_LOOKS: u32 = 75;

/// How many connections have held enough memory, of which they may have read 64 KiB each, to give it back once most have ended.
const MANY_CONNECTIONS: usize = 128;

/// The way into a core.
pub(super) struct Arrivals {
    streams: mpsc::Sender<(TcpStream, Place)>,
    connections: Arc<AtomicUsize>,
}

/// A core's end: whether requests were cut off there.
pub(super) struct Ended {
    was_cut_off: oneshot::Receiver<bool>,
    thread: JoinHandle<()>,
}

/// A connection's place among all connections, and among those of its core.
struct Place {
    _permit: OwnedSemaphorePermit,
    connections: Arc<AtomicUsize>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Arrivals {
    /// How many connections the core has.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Gives the core a connection.
    pub(super) fn give(&self, stream: TcpStream, permit: OwnedSemaphorePermit) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        let place = Place { _permit: permit, connections: Arc::clone(&self.connections) };
        // There are as many places in the channel as permits, and a core that ended serves nothing more.
        let _ = self.streams.try_send((stream, place));
    }
}

impl Ended {
    /// Waits until the core has ended, and says whether requests were cut off.
    pub(super) async fn wait(self) -> bool {
        let was_cut_off = self.was_cut_off.await.unwrap_or(true);
        // The word is the thread's last but for the end of its runtime, which waits for a body that is being decoded.
        let joined = tokio::task::spawn_blocking(move || self.thread.join()).await;
        joined.expect("joining a thread does not panic").expect("a core leaves no panic of a connection's through");
        was_cut_off
    }
}

/// Starts a core that serves at most `connections_max` connections with `front`.
pub(super) fn start(
    index: usize,
    seat: Option<Seat>,
    front: Arc<Front>,
    connections_max: usize,
    drain_timeout: Duration,
) -> io::Result<(Arrivals, Ended)> {
    // Large bodies are decoded in the blocking thread; those that wait are bounded by the requests at hand.
    let leave = move || turns::leave(seat.as_ref());
    let runtime = Builder::new_current_thread().max_blocking_threads(1).on_thread_start(leave).enable_all().build()?;
    let (streams, arriving) = mpsc::channel(connections_max);
    let (word, was_cut_off) = oneshot::channel();
    let thread = std::thread::Builder::new().name(format!("core-{index}")).spawn(move || {
        let was_cut_off = runtime.block_on(run(front, Turns::take(seat), arriving, drain_timeout));
        // Whoever started the core may be gone.
        let _ = word.send(was_cut_off);
    })?;
    Ok((Arrivals { streams, connections: Arc::default() }, Ended { was_cut_off, thread }))
}

/// The life of a core. Gives whether requests were cut off at the end.
async fn run(
    front: Arc<Front>,
    mut turns: Option<Turns>,
    mut arriving: mpsc::Receiver<(TcpStream, Place)>,
    drain_timeout: Duration,
) -> bool {
    let mut connections = JoinSet::new();
    let mut links = HashMap::new();
    // The most that were there at once since half of them or more had ended.
    let mut most = 0;
    let mut clock = tokio::time::interval(LOOK_INTERVAL);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            arrived = arriving.recv() => {
                let Some((stream, place)) = arrived else { break };
                let Ok(stream) = tokio::net::TcpStream::from_std(stream) else { continue };
                let link = Arc::new(Link::default());
                let served = Arc::clone(&front).serve(stream, Arc::clone(&link));
                let task = connections.spawn(async move {
                    served.await;
                    drop(place);
                });
                links.insert(task.id(), link);
                most = most.max(links.len());
            }
            Some(ended) = connections.join_next_with_id() => forget(&mut links, ended),
            _ = clock.tick(), if most > 0 => {
                links.values().for_each(|link| link.look(FIRST_LOOKS, IDLE_LOOKS));
                if let Some(turns) = &mut turns {
                    turns.look(Totals { handed_over: front.api.handed_over(), refused: front.api.refused() });
                }
                if links.len() <= most / 2 {
                    if most >= MANY_CONNECTIONS {
                        // Takes some milliseconds; the end of the runtime waits for it.
                        tokio::task::spawn_blocking(allocator::give_back);
                    }
                    most = links.len();
                }
            }
        }
    }
    links.values().for_each(|link| link.end_gracefully());
    let all = async { while connections.join_next().await.is_some() {} };
    tokio::time::timeout(drain_timeout, all).await.is_err()
}

fn forget(
    links: &mut HashMap<tokio::task::Id, Arc<Link>>,
    ended: Result<(tokio::task::Id, ()), tokio::task::JoinError>,
) {
    // A panic has been told by the panic hook, and cost its own connection.
    let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
    links.remove(&id);
}
