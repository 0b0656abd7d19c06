//! When a core goes on that has been woken: at once, or when whoever computes on its processor sleeps.
//!
//! Requests may come from this machine, from a proxy beside the server above all, which is interrupted at each of them where
//! the core goes on at once: two changes of thread for each request, which cost more than most answers. So where each
//! processor has a core, each keeps to its own and is patient there. That would be wrong beside what computes for long,
//! for then a request waits for the other's turn, some milliseconds: a core takes no time of its own for large requests, but
//! hands them over to threads that compute as long; and other programs may compute for themselves. So a core looks, once a second, whether
//! anything has been handed over, and how long it has waited for its processor; and is hasty for a while if so, on whichever
//! processor is free. Where much is refused as well, it is patient all the same: to change threads for each refusal is what an overloaded
//! server has no time for. Knows processors; does not know connections.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::priority::{self, Processors, Waits};

/// How long others may go on where a patient core is woken.
const PATIENCE: Duration = Duration::from_micros(100);
/// How long they may where it refuses much: longer than most runs of a worker, which lets a core go on after each.
const REFUSING_PATIENCE: Duration = Duration::from_millis(1);
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
/// How many requests must have been refused between two looks for a core to be patient although something is handed over.
const REFUSED_MIN: usize = 1000;

/// The processor of a core that is nobody else's, and all that the server may use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seat {
    own: Processors,
    all: Processors,
}

/// What all cores have done with requests so far that they have not answered themselves.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Totals {
    /// How many times another thread has computed for one.
    pub handed_over: usize,
    /// How many times there was no place for one.
    pub refused: usize,
}

/// How a core takes its turns.
pub(super) struct Turns {
    seat: Option<Seat>,
    /// How long others may go on where it is woken; none for a hasty core.
    patience: Option<Duration>,
    /// For how many looks others compute on its processor for themselves.
    crowded_looks: u32,
    /// For how many looks something has just been handed over.
    handed_over_looks: u32,
    /// What had been done, and how it had waited, at the last look.
    totals: Totals,
    waits: Waits,
}

/// A seat for each of so many cores, where there are as many processors.
pub(super) fn seats(cores: NonZeroUsize) -> Vec<Option<Seat>> {
    let seats = |all: Processors| all.each().map(|own| Some(Seat { own, all })).collect::<Vec<_>>();
    let found = Processors::allowed().map(seats).filter(|seats| seats.len() == cores.get());
    found.unwrap_or_else(|| vec![None; cores.get()])
}

/// Lets this thread, one that a core with that seat has started, compute wherever the server may, and go first.
pub(super) fn leave(seat: Option<&Seat>) {
    priority::take_short_turns(None);
    if let Some(seat) = seat {
        seat.all.keep();
    }
}

impl Turns {
    /// Those of the core whose thread this is, where it can know how long it waits: patient ones at its seat, if it has one.
    pub(super) fn take(seat: Option<Seat>) -> Option<Self> {
        let Some(waits) = Waits::so_far() else {
            priority::take_short_turns(None);
            return None;
        };
        let turns = Self {
            seat,
            patience: seat.map(|_| PATIENCE),
            crowded_looks: 0,
            handed_over_looks: 0,
            totals: Totals::default(),
            waits,
        };
        turns.adopt();
        Some(turns)
    }

    /// Has the core be patient or hasty from now on, after what all cores have done so far.
    pub(super) fn look(&mut self, totals: Totals) {
        let Some(waits) = Waits::so_far() else { return };
        let before = self.patience;
        self.judge(totals, waits);
        if self.patience != before {
            tracing::debug!(?self.patience, "a core takes its turns in another way");
            self.adopt();
        }
    }

    fn adopt(&self) {
        priority::take_short_turns(self.patience);
        if let Some(Seat { own, all }) = &self.seat {
            if self.patience.is_some() { own.keep() } else { all.keep() }
        }
    }

    fn judge(&mut self, totals: Totals, waits: Waits) {
        let handed_over = totals.handed_over.wrapping_sub(self.totals.handed_over);
        let is_refusing = totals.refused.wrapping_sub(self.totals.refused) >= REFUSED_MIN;
        let turns = waits.turns.wrapping_sub(self.waits.turns);
        let waited = waits.total.saturating_sub(self.waits.total);
        self.handed_over_looks = self.handed_over_looks.saturating_sub(1);
        if handed_over > 0 {
            self.handed_over_looks = HANDED_OVER_LOOKS;
        }
        self.crowded_looks = self.crowded_looks.saturating_sub(1);
        // A patient core that refuses waits for workers.
        let waits_for_workers = is_refusing || self.patience == Some(REFUSING_PATIENCE);
        if !waits_for_workers && turns >= TURNS_MIN && waited / turns > WAIT_MAX {
            self.crowded_looks = CROWDED_LOOKS;
        }
        self.patience = match self.seat {
            _ if self.crowded_looks > 0 => None,
            _ if is_refusing => Some(REFUSING_PATIENCE),
            Some(_) if self.handed_over_looks == 0 => Some(PATIENCE),
            _ => None,
        };
        (self.totals, self.waits) = (totals, waits);
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

    fn handed_over(handed_over: usize) -> Totals {
        Totals { handed_over, refused: 0 }
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
            turns.look(handed_over(0));
            is(libc::SCHED_BATCH, seat.own);
            for _ in 0..HANDED_OVER_LOOKS {
                turns.look(handed_over(1));
                is(libc::SCHED_OTHER, seat.all);
            }
            turns.look(handed_over(1));
            is(libc::SCHED_BATCH, seat.own);
        });
    }

    #[test]
    fn a_core_is_patient_while_much_is_refused() {
        for seat in [None, seats(all())[0]] {
            on_a_thread(move || {
                let all = Processors::allowed();
                let own = seat.map(|seat| seat.own).or(all);
                let mut turns = Turns::take(seat).unwrap();
                for (refused, expected) in [
                    (REFUSED_MIN - 1, (libc::SCHED_OTHER, all)),
                    (2 * REFUSED_MIN, (libc::SCHED_BATCH, own)),
                    (2 * REFUSED_MIN + 1, (libc::SCHED_OTHER, all)),
                ] {
                    turns.look(Totals { handed_over: refused, refused });
                    assert_eq!((policy() as i32, Processors::allowed()), expected);
                    // What it starts then is as ever.
                    let helper = std::thread::spawn(move || {
                        leave(seat.as_ref());
                        assert_eq!((policy() as i32, Processors::allowed()), (libc::SCHED_OTHER, all));
                    });
                    helper.join().unwrap();
                }
            });
        }
    }

    #[test]
    fn a_core_is_hasty_where_it_waits_for_long() {
        let waits = |turns, total_us| Waits { total: Duration::from_micros(total_us), turns };
        let mut turns = Turns {
            seat: Some(seats(all())[0].unwrap()),
            patience: Some(PATIENCE),
            crowded_looks: 0,
            handed_over_looks: 0,
            totals: handed_over(0),
            waits: waits(u32::MAX, 1000),
        };
        let mut looks = |refused, count, total_us| {
            turns.judge(Totals { handed_over: 0, refused }, waits(count, total_us));
            (turns.patience, turns.crowded_looks)
        };
        // Few turns tell nothing.
        assert_eq!(looks(0, TURNS_MIN - 2, 31_000), (Some(PATIENCE), 0));
        // Neither do those in which it waits for workers.
        assert_eq!(looks(REFUSED_MIN, 2 * TURNS_MIN, 61_000), (Some(REFUSING_PATIENCE), 0));
        assert_eq!(looks(REFUSED_MIN, 3 * TURNS_MIN, 91_000), (Some(PATIENCE), 0));
        assert_eq!(looks(REFUSED_MIN, 4 * TURNS_MIN, 121_000), (None, CROWDED_LOOKS));
        assert_eq!(looks(REFUSED_MIN, 100 * TURNS_MIN, 125_000), (None, CROWDED_LOOKS - 1));
        // Whoever computes there would hold refusals up as well.
        assert_eq!(looks(2 * REFUSED_MIN, 200 * TURNS_MIN, 129_000), (None, CROWDED_LOOKS - 2));
        // And it has not waited for workers then, since it has not been patient.
        assert_eq!(looks(2 * REFUSED_MIN, 201 * TURNS_MIN, 159_000), (None, CROWDED_LOOKS));
    }
}
