//! When a core goes on that has been woken: at once, or when whoever computes on its processor sleeps.
//!
//! Requests may come from this machine, from a proxy beside the server above all, which is interrupted at each of them where
//! the core goes on at once: two changes of thread for each request, which cost more than most answers. So where each
//! processor has a core, each keeps to its own and is patient there. That would be wrong beside what computes for long,
//! for then a request waits for the other's turn, some milliseconds: a core takes no time of its own for large requests, but
//! hands them over to threads that compute as long; and other programs may compute for themselves. So a core looks, once a second, whether
//! anything has been handed over, and how long it has waited for its processor; and is hasty for a while if so, on whichever
//! processor is free. Knows processors; does not know connections.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::priority::{self, Processors, Waits, Waking};

/// How long a core may wait for its processor, in the mean of its turns. Beside a program that sends requests over 16 and 64
/// connections it was 0.1 and 0.3 ms, 0.7 at most; beside one that only computes 3 to 4 ms.
const WAIT_MAX: Duration = Duration::from_millis(1);
/// The fewest turns between two looks of which that is told. The looks are turns too, and so are connections that come and go,
/// whose wait matters to nobody.
const TURNS_MIN: u32 = 10;
/// How long a core is hasty after it has waited longer, in looks.
const CROWDED_LOOKS: u32 = 300;
/// How long it is after something has been handed over, in looks.
const HANDED_OVER_LOOKS: u32 = 10;

/// The processor of a core that is nobody else's, and all that the server may use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seat {
    own: Processors,
    all: Processors,
}

/// How a core takes its turns.
pub(super) struct Turns {
    seat: Seat,
    /// For how many looks it is not to be patient.
    hasty_looks: u32,
    /// What had been handed over, and how it had waited, at the last look.
    handed_over: usize,
    waits: Waits,
}

/// A seat for each of so many cores, where there are as many processors.
pub(super) fn seats(cores: NonZeroUsize) -> Vec<Option<Seat>> {
    let seats = |all: Processors| all.each().map(|own| Some(Seat { own, all })).collect::<Vec<_>>();
    let found = Processors::allowed().map(seats).filter(|seats| seats.len() == cores.get());
    found.unwrap_or_else(|| vec![None; cores.get()])
}

impl Seat {
    /// Keeps this thread to its processor, and has it wait there until others are done.
    fn sit(&self) {
        priority::take_short_turns(Waking::Waits);
        self.own.keep();
    }

    /// Lets this thread, a core or one that a core has started, compute wherever the server may, and go first.
    pub(super) fn leave(&self) {
        priority::take_short_turns(Waking::Interrupts);
        self.all.keep();
    }
}

impl Turns {
    /// Those of the core whose thread this is: patient ones, where it has a seat and can know how long it waits.
    pub(super) fn take(seat: Option<Seat>) -> Option<Self> {
        let Some((seat, waits)) = seat.zip(Waits::so_far()) else {
            priority::take_short_turns(Waking::Interrupts);
            return None;
        };
        seat.sit();
        Some(Self { seat, hasty_looks: 0, handed_over: 0, waits })
    }

    /// Has the core be patient or hasty from now on, `handed_over` being what all cores have handed over to other threads so far.
    pub(super) fn look(&mut self, handed_over: usize) {
        let Some(waits) = Waits::so_far() else { return };
        let was_patient = self.hasty_looks == 0;
        self.judge(handed_over, waits);
        let is_patient = self.hasty_looks == 0;
        if is_patient != was_patient {
            tracing::debug!(is_patient, "a core takes its turns in another way");
            if is_patient { self.seat.sit() } else { self.seat.leave() }
        }
    }

    fn judge(&mut self, handed_over: usize, waits: Waits) {
        self.hasty_looks = self.hasty_looks.saturating_sub(1);
        if handed_over != self.handed_over {
            self.handed_over = handed_over;
            self.hasty_looks = self.hasty_looks.max(HANDED_OVER_LOOKS);
        }
        let turns = waits.turns.wrapping_sub(self.waits.turns);
        let waited = waits.total.saturating_sub(self.waits.total);
        if turns >= TURNS_MIN && waited / turns > WAIT_MAX {
            self.hasty_looks = CROWDED_LOOKS;
        }
        self.waits = waits;
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    /// By its number in the kernel.
    fn policy() -> u32 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let (_, behind_name) = stat.rsplit_once(") ").unwrap();
        behind_name.split(' ').nth(38).unwrap().parse().unwrap()
    }

    fn all() -> NonZeroUsize {
        NonZeroUsize::new(Processors::allowed().unwrap().each().count()).unwrap()
    }

    fn on_a_thread(test: impl FnOnce() + Send + 'static) {
        std::thread::spawn(test).join().unwrap();
    }

    #[test]
    fn each_core_has_a_processor_where_there_are_as_many() {
        let seats: Vec<_> = seats(all()).into_iter().map(|seat| seat.unwrap().own).collect();
        let expected: Vec<_> = Processors::allowed().unwrap().each().collect();
        assert_eq!(seats, expected);
        let more = all().saturating_add(1);
        assert!(super::seats(more).iter().all(Option::is_none));
        assert_eq!(super::seats(more).len(), more.get());
    }

    #[test]
    fn a_core_is_patient_until_something_is_handed_over_and_again_afterwards() {
        on_a_thread(|| {
            let seat = seats(all())[0].unwrap();
            let mut turns = Turns::take(Some(seat)).unwrap();
            let is = |policy_expected: i32, processors: Processors| {
                assert_eq!((policy(), Processors::allowed()), (policy_expected as u32, Some(processors)));
            };
            is(libc::SCHED_BATCH, seat.own);
            turns.look(0);
            is(libc::SCHED_BATCH, seat.own);
            for _ in 0..HANDED_OVER_LOOKS {
                turns.look(1);
                is(libc::SCHED_OTHER, seat.all);
            }
            turns.look(1);
            is(libc::SCHED_BATCH, seat.own);
            std::thread::spawn(move || {
                seat.leave();
                assert_eq!((policy(), Processors::allowed()), (libc::SCHED_OTHER as u32, Some(seat.all)));
            })
            .join()
            .unwrap();
        });
    }

    #[test]
    fn a_core_without_a_seat_is_hasty() {
        on_a_thread(|| {
            assert!(Turns::take(None).is_none());
            assert_eq!(policy(), libc::SCHED_OTHER as u32);
        });
    }

    #[test]
    fn a_core_is_hasty_where_it_waits_for_long() {
        let seat = seats(all())[0].unwrap();
        let waits = |turns, total_us| Waits { total: Duration::from_micros(total_us), turns };
        let mut turns = Turns { seat, hasty_looks: 0, handed_over: 0, waits: waits(u32::MAX, 1000) };
        // Few turns tell nothing.
        turns.judge(0, waits(TURNS_MIN - 2, 31_000));
        assert_eq!(turns.hasty_looks, 0);
        turns.judge(0, waits(2 * TURNS_MIN - 2, 61_000));
        assert_eq!(turns.hasty_looks, CROWDED_LOOKS);
        turns.judge(0, waits(100 * TURNS_MIN, 65_000));
        assert_eq!(turns.hasty_looks, CROWDED_LOOKS - 1);
        turns.judge(1, waits(100 * TURNS_MIN, 65_000));
        assert_eq!(turns.hasty_looks, CROWDED_LOOKS - 2);
    }
}
