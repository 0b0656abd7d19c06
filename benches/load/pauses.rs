//! How long the machine itself stops programs that nothing in it stops.
//!
//! A virtual processor runs when its host lets it. What a server is then charged for is not its own.

use std::thread;
use std::time::{Duration, Instant};

/// Shorter ones are the kernel's own ticks and interrupts.
const PAUSE_MIN: Duration = Duration::from_micros(100);

/// What was lost in pauses.
#[derive(Clone, Copy, Default)]
pub struct Pauses {
    pub longest: Duration,
    /// Of the time of the processor that lost most.
    pub share: f64,
}

/// Keeps every processor busy with looking at the clock for `time`.
pub fn measure(time: Duration) -> Pauses {
    let look = || {
        let begun = Instant::now();
        let (mut last, mut lost, mut longest) = (begun, Duration::ZERO, Duration::ZERO);
        while last - begun < time {
            let now = Instant::now();
            let gap = now - last;
            if gap > PAUSE_MIN {
                lost += gap;
                longest = longest.max(gap);
            }
            last = now;
        }
        Pauses { longest, share: lost.as_secs_f64() / time.as_secs_f64() }
    };
    let processors = thread::available_parallelism().map_or(1, |count| count.get());
    let each: Vec<Pauses> = thread::scope(|scope| {
        let threads: Vec<_> = (0..processors).map(|_| scope.spawn(look)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    each.into_iter().fold(Pauses::default(), |all, one| Pauses {
        longest: all.longest.max(one.longest),
        share: all.share.max(one.share),
    })
}
