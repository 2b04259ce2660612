//! When a group of changes is committed: decisions about a queue, without clock or I/O.
//!
//! While one barrier runs, the next group gathers. A caller that is alone does not wait for others. Where the last group had
//! several, or others came meanwhile, all of them are waited for, because those who were just told come back at once:
//! otherwise 64 callers would be two halves that take turns, and half as many a second. At most for 5 ms, or until there are
//! 64. Notes alone wait for a second.

use std::time::{Duration, Instant};

/// The longest that a write waits for others.
const WINDOW: Duration = Duration::from_millis(5);
/// With as many writes a group is not worth waiting for.
const ENOUGH: usize = 64;
/// The longest that a note waits for a barrier.
const NOTES_WAIT: Duration = Duration::from_secs(1);

/// What waits to be committed.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Waiting {
    /// Writes that are to be reported upon.
    pub(super) writes: usize,
    /// When the first of them came.
    pub(super) first_write: Option<Instant>,
    /// When the first note came.
    pub(super) first_note: Option<Instant>,
}

/// How many writes are under way.
#[derive(Default)]
pub(super) struct Pace {
    under_way: usize,
}

impl Pace {
    /// A group of so many writes was committed while so many others came.
    pub(super) fn committed(&mut self, writes: usize, waiting: usize) {
        self.under_way = writes + waiting;
    }

    /// With so many writes a group is not waited for any longer.
    pub(super) fn enough(&self) -> usize {
        self.under_way.clamp(1, ENOUGH)
    }

    /// When what waits is committed; none if nothing does.
    pub(super) fn due(&self, waiting: &Waiting) -> Option<Instant> {
        let notes = waiting.first_note.map(|at| at + NOTES_WAIT);
        let writes = waiting.first_write.map(|at| if waiting.writes >= self.enough() { at } else { at + WINDOW });
        [notes, writes].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(writes: usize, at: Instant) -> Waiting {
        Waiting { writes, first_write: (writes > 0).then_some(at), first_note: None }
    }

    #[test]
    fn a_lone_caller_does_not_wait_for_others() {
        let now = Instant::now();
        assert_eq!(Pace::default().due(&waiting(1, now)), Some(now));
        let pace = Pace { under_way: 1 };
        assert_eq!(pace.due(&waiting(1, now)), Some(now));
    }

    #[test]
    fn where_there_are_several_all_of_them_are_waited_for_but_not_for_long() {
        let now = Instant::now();
        let mut pace = Pace::default();
        pace.committed(12, 8);
        assert_eq!(pace.due(&waiting(8, now)), Some(now + WINDOW));
        assert_eq!(pace.due(&waiting(20, now)), Some(now));
        pace.committed(64, 64);
        assert_eq!(pace.due(&waiting(63, now)), Some(now + WINDOW));
        assert_eq!(pace.due(&waiting(64, now)), Some(now), "64 are enough");
    }

    #[test]
    fn notes_ride_along_or_wait_for_a_second() {
        let now = Instant::now();
        let pace = Pace::default();
        assert_eq!(pace.due(&Waiting::default()), None);
        let notes = Waiting { first_note: Some(now), ..Waiting::default() };
        assert_eq!(pace.due(&notes), Some(now + NOTES_WAIT));
        let later = now + Duration::from_millis(10);
        assert_eq!(pace.due(&Waiting { first_note: Some(now), ..waiting(1, later) }), Some(later));
    }
}
