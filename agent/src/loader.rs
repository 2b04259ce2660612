//! The thread that models are loaded in: one for all of them, and one at a time.
//!
//! Allocators keep memory by thread. What a load leaves is there for the next one, where each of the runtime's threads for blocking
//! work would keep some of its own.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{SyncSender, sync_channel};

use hedge_engine::panic_message;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

pub(crate) struct Loader {
    jobs: SyncSender<Job>,
}

impl Loader {
    /// Starts the thread, which ends with this value.
    pub(crate) fn start() -> io::Result<Self> {
        let (jobs, waiting) = sync_channel::<Job>(1);
        let runtime = Handle::current();
        let work = move || {
            let _entered = runtime.enter();
            waiting.into_iter().for_each(|job| job());
        };
        std::thread::Builder::new().name("loader".to_owned()).spawn(work)?;
        Ok(Self { jobs })
    }

    /// What the work gives, or what it said when it panicked. Whoever calls has to see to it that few do at a time.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
        let (sender, done) = oneshot::channel();
        let job = move || {
            let result = catch_unwind(AssertUnwindSafe(work)).map_err(|panic| panic_message(&*panic));
            // Who has gone needs no word.
            let _ = sender.send(result);
        };
        let ended = || "its thread has ended".to_owned();
        self.jobs.send(Box::new(job)).map_err(|_| ended())?;
        done.await.unwrap_or_else(|_| Err(ended()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_work_is_done_in_one_thread_and_a_panic_ends_only_its_own() {
        let loader = Loader::start().unwrap();
        let thread = || std::thread::current().id();
        let first = loader.run(thread).await.unwrap();
        assert_ne!(first, thread());
        assert_eq!(loader.run(|| panic!("no model")).await, Err::<(), _>("no model".to_owned()));
        assert_eq!(loader.run(thread).await, Ok(first));
    }
}
