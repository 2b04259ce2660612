//! Work that may never come to an end, in a thread that is left to itself then.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use super::database::Fault;
use crate::store::caught;

/// Why work gave nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfinished {
    #[error("no thread to open it: {0}")]
    NoThread(#[source] io::Error),
    #[error("{0}")]
    Panicked(String),
    #[error("it took nothing for {0:?}")]
    Stuck(Duration),
}

/// What is done, and whether anybody waits for it still.
#[derive(Default)]
pub(super) struct Progress {
    steps: AtomicU64,
    is_given_up: AtomicBool,
}

impl Progress {
    /// Counts a step; an error once the work was given up.
    pub(super) fn step(&self) -> Result<(), Fault> {
        self.steps.fetch_add(1, Ordering::Relaxed);
        match self.is_given_up.load(Ordering::Relaxed) {
            true => Err(Fault::Broken("it was given up".into())),
            false => Ok(()),
        }
    }
}

/// What the work gives, unless it makes no step for so long: what is slow is not stuck.
pub(super) fn watched<T: Send + 'static>(
    patience: Duration,
    work: impl FnOnce(&Progress) -> T + Send + 'static,
) -> Result<T, Unfinished> {
    let (sender, done) = sync_channel(1);
    let progress = Arc::new(Progress::default());
    let told = Arc::clone(&progress);
    // Nobody waits for it any more where it took too long.
    let work = move || drop(sender.send(caught(|| work(&told))));
    let thread = std::thread::Builder::new().name("outbox-opening".into()).spawn(work);
    thread.map_err(Unfinished::NoThread)?;
    loop {
        let before = progress.steps.load(Ordering::Relaxed);
        match done.recv_timeout(patience) {
            Ok(outcome) => return outcome.map_err(Unfinished::Panicked),
            Err(_) if progress.steps.load(Ordering::Relaxed) > before => {}
            Err(_) => {
                progress.is_given_up.store(true, Ordering::Relaxed);
                return Err(Unfinished::Stuck(patience));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_come_to_an_end_or_panics_is_damage() {
        let why = |outcome: Result<(), Unfinished>| outcome.unwrap_err().to_string();
        assert!(watched(Duration::from_secs(60), |_| 7).is_ok_and(|given| given == 7));
        let for_ever = |_: &Progress| loop {
            std::thread::park();
        };
        assert_eq!(why(watched(Duration::from_millis(100), for_ever)), "it took nothing for 100ms");
        assert_eq!(why(watched(Duration::from_secs(60), |_| panic!("no such page"))), "no such page");
    }

    #[test]
    fn what_goes_on_is_waited_for_and_what_was_given_up_ends_when_it_can() {
        let slow = |progress: &Progress| {
            for _ in 0..30 {
                std::thread::sleep(Duration::from_millis(50));
                progress.step()?;
            }
            Ok::<(), Fault>(())
        };
        assert!(watched(Duration::from_secs(1), slow).is_ok_and(|ended| ended.is_ok()));
        let progress = Progress::default();
        progress.is_given_up.store(true, Ordering::Relaxed);
        assert!(progress.step().is_err());
    }
}
