//! The time that signed things bear witness of: never before this program's build, across restarts, whatever the wall clock
//! says. A device that boots in 1970 with its databases destroyed takes no expired certificate for a valid one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hedge_agent_spool::{SlotError, SlotFile};
use hedge_certify::Certificate;
use hedge_wire::ClassState;
use tokio::task::{JoinError, spawn_blocking};

/// Kept on disk where that can be written; otherwise each process begins from the build.
#[derive(Clone)]
pub(crate) struct SignedTime {
    slots: Option<Arc<SlotFile>>,
}

impl SignedTime {
    /// Reads what earlier processes kept in `folder`.
    pub(crate) async fn open(folder: PathBuf) -> Result<Self, JoinError> {
        let slots = spawn_blocking(move || match SlotFile::open(folder, built_at()) {
            Ok((slots, damage)) => {
                if let Some(damage) = damage {
                    tracing::error!(error = %damage, "the slots were damaged");
                }
                Some(Arc::new(slots))
            }
            Err(error) => {
                tracing::warn!(%error, "the time that signatures bear witness of will not survive a restart");
                None
            }
        });
        Ok(Self { slots: slots.await? })
    }

    /// It is at least so late, since 1970.
    pub(crate) fn now(&self) -> Duration {
        Duration::from_secs(self.slots.as_ref().map_or_else(built_at, |slots| slots.trusted_now()))
    }

    /// Takes the time from a word of the gateway, whose signature was checked.
    pub(crate) async fn hear(&self, state: &ClassState) {
        let Some(certificate) = state.certificate.clone() else { return };
        // To read it is to prove it again, which takes milliseconds.
        self.write(move |slots| match Certificate::read(&certificate) {
            Ok(certificate) => slots.signed_at(certificate.issued_unix_secs),
            // Who is to install it says what is wrong with it.
            Err(_) => Ok(()),
        })
        .await;
    }

    /// Has the time that has passed outlive the process. To be called now and then.
    pub(crate) async fn keep(&self) {
        self.write(SlotFile::keep_time).await;
    }

    async fn write(&self, what: impl FnOnce(&SlotFile) -> Result<(), SlotError> + Send + 'static) {
        let Some(slots) = self.slots.clone() else { return };
        if let Ok(Err(error)) = spawn_blocking(move || what(&slots)).await {
            tracing::warn!(%error, "the time that signatures bear witness of is not kept");
        }
    }
}

/// Seconds since 1970.
fn built_at() -> u64 {
    env!("HEDGE_BUILT_AT").parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_time_is_that_of_the_build_or_later_and_outlives_the_process_with_what_was_signed() {
        let folder = tempfile::tempdir().unwrap();
        let open = || SignedTime::open(folder.path().join("slots"));
        let time = open().await.unwrap();
        assert!(built_at() > 1_700_000_000 && time.now() >= Duration::from_secs(built_at()));
        let signed = built_at() + 1_000_000;
        time.write(move |slots| slots.signed_at(signed)).await;
        drop(time);
        assert!(open().await.unwrap().now() >= Duration::from_secs(signed));
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_written_costs_only_what_was_kept_there() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("slots"), "a file").unwrap();
        let time = SignedTime::open(folder.path().join("slots")).await.unwrap();
        time.keep().await;
        assert_eq!(time.now(), Duration::from_secs(built_at()));
    }
}
