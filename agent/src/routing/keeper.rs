//! The task that keeps routes up to date: time, the cloud model, the class's state, evidence for the gateway, snapshots.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hedge_agent_core::{NotSent, RouteEvent};
use hedge_certify::Fingerprint;
use hedge_wire::ClassState;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::asking;
use super::routes::Routes;
use super::signed_time::SignedTime;
use crate::cloud::Cloud;

/// How often changes are saved and the clock is looked at.
const EVERY: Duration = Duration::from_secs(1);
/// How often the time that passes may be written down.
const KEEP_TIME_EVERY: Duration = Duration::from_secs(60);

/// The task.
pub(crate) struct Keeper {
    pub(crate) routes: Arc<Routes>,
    pub(crate) cloud: Arc<Cloud>,
    /// What the gateway says to the class, checked.
    pub(crate) words: mpsc::Receiver<ClassState>,
    /// How often the gateway is told what was found out.
    pub(crate) report: Duration,
    pub(crate) time: SignedTime,
}

impl Keeper {
    /// Runs until it is aborted.
    pub(crate) async fn run(mut self) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut report_at = Instant::now() + self.report;
        let mut keep_time = interval(KEEP_TIME_EVERY);
        keep_time.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    self.routes.clock().look();
                    if Instant::now() >= report_at {
                        report_at = Instant::now() + self.report;
                        self.routes.all().iter().for_each(|route| route.tell(RouteEvent::Tick));
                    }
                    self.routes.all().iter().for_each(|route| route.save());
                }
                () = self.cloud.news() => {}
                () = self.routes.reports().news.notified() => {}
                _ = keep_time.tick() => self.time.keep().await,
                Some(state) = self.words.recv() => {
                    self.time.hear(&state).await;
                    self.routes.clock().at_least(self.time.now());
                    self.routes.class_word.hear(state);
                }
            }
            self.look_at_the_cloud();
            self.tell_losses();
            self.send_reports();
        }
    }

    /// Tells each route of its cloud model when that changes; only then, because a verdict knows better than presence.
    fn look_at_the_cloud(&self) {
        for route in self.routes.all() {
            let digest = self.cloud.view().current_digest(&route.side.cloud_model);
            if let Some(digest) = route.is_news(digest) {
                route.tell(RouteEvent::CloudDigest(Fingerprint(digest.0)));
                route.take_file();
            }
            self.routes.class_word.tell(&route);
        }
    }

    fn tell_losses(&self) {
        let mut lost: BTreeMap<String, u64> = BTreeMap::new();
        for loss in self.routes.audits.take_lost() {
            *lost.entry(loss.model.clone()).or_default() += 1;
            if let (Some(route), Some(ticket)) = (self.routes.route(&loss.model), asking::ticket(&loss.ticket)) {
                route.tell(RouteEvent::AuditLost { ticket });
            }
        }
        for (model, count) in lost {
            self.routes.tools.metrics.audits_lost(&model, count);
        }
    }

    fn send_reports(&self) {
        // Those that come while this looks may have to wait for the disk.
        let ready = self.routes.reports().waiting();
        if ready == 0 || !self.routes.all().iter().all(|route| route.may_send()) {
            return;
        }
        for _ in 0..ready {
            let Some(message) = self.routes.reports().pop() else { return };
            match self.cloud.publish_evidence(&message) {
                Ok(()) => {}
                Err(NotSent::TooLarge) => tracing::error!("evidence is larger than a message may be; it is dropped"),
                Err(NotSent::Down | NotSent::QueueFull) => return self.routes.reports().put_back(message),
            }
        }
    }
}
