//! The task that asks the cloud about rows that were answered long ago.
//!
//! Nobody waits for it, so it is the first to stand back: few questions at once, marked as audits, none while the link is
//! down, and a pause after each that was not answered. A question that went unanswered stays in the queue; one that the
//! gateway refuses, or that never gets an answer, is given up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hedge_agent_core::{NotSent, Offload, RouteEvent};
use hedge_agent_spool::Leased;
use hedge_certify::Fingerprint;
use hedge_tensor::NamedTensor;
use hedge_wire::{Digest, Purpose, Query, Refusal, Reply, RequestId};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::asking::{self, Notes};
use super::routes::Routes;
use crate::catalog::Catalog;
use crate::cloud::{Cloud, CloudEvent};
use crate::model::ServedModel;

/// How long an answer may take: nobody waits for it.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long to pause after a question that was not answered: first, and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long to sleep where nothing is heard of.
const IDLE: Duration = Duration::from_secs(30);
/// How often the same question goes unanswered before it is given up.
const MAX_TRIES: u32 = 5;
/// How many unanswered questions are remembered.
const MAX_REMEMBERED: usize = 1024;

/// The task.
pub(crate) struct Auditor {
    pub(crate) routes: Arc<Routes>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) cloud: Arc<Cloud>,
    /// The most that the cloud is asked about at once.
    pub(crate) max_in_flight: usize,
}

/// One question on its way.
struct Question {
    leased: Leased,
    model: Arc<ServedModel>,
    notes: Notes,
}

/// What came of it.
enum Outcome {
    /// An answer, and the cloud model that gave it.
    Verdict(Vec<NamedTensor>, Digest),
    /// None now; ask again, not before this time has passed.
    Later(Option<Duration>),
    /// None ever.
    Never,
}

/// What the task remembers between questions.
#[derive(Default)]
struct Standing {
    /// Not before then is anything asked.
    resume_at: Option<Instant>,
    pause: Duration,
    /// Questions that went unanswered, with how often.
    tries: BTreeMap<u64, u32>,
}

impl Auditor {
    /// Runs until it is aborted; questions under way are then asked again by the next process.
    pub(crate) async fn run(self) {
        let mut standing = Standing::default();
        let mut asked: JoinSet<(Question, Outcome)> = JoinSet::new();
        loop {
            while asked.len() < self.max_in_flight && standing.may_ask() {
                let Some(question) = self.next_question() else { break };
                let cloud = Arc::clone(&self.cloud);
                asked.spawn(async move {
                    let outcome = ask(&cloud, &question).await;
                    (question, outcome)
                });
            }
            let until = standing.resume_at.unwrap_or_else(|| Instant::now() + IDLE);
            tokio::select! {
                Some(done) = asked.join_next() => {
                    // A task that panicked leaves its question leased: the next process asks again.
                    if let Ok((question, outcome)) = done {
                        self.settle(&question, outcome, &mut standing);
                    }
                }
                () = self.routes.audit_news.notified() => {}
                () = self.cloud.audit_news() => {}
                () = sleep_until(until) => standing.resume_at = None,
            }
        }
    }

    /// The oldest row whose model can be asked now.
    fn next_question(&self) -> Option<Question> {
        loop {
            let ready = self.ready();
            if ready.is_empty() {
                return None;
            }
            let leased = self.routes.audits.lease(|model| ready.contains_key(model))?;
            let model = Arc::clone(ready.get(&leased.audit.model)?);
            match Notes::read(&leased.audit.notes).filter(|notes| notes.is_of(model.digest)) {
                Some(notes) => return Some(Question { leased, model, notes }),
                // Another model serves under the name now: what this one answered is of no interest any more.
                None => self.give_up(&leased),
            }
        }
    }

    fn ready(&self) -> BTreeMap<String, Arc<ServedModel>> {
        let view = self.cloud.view();
        let models = self.catalog.served().into_iter().filter(|model| {
            model.settings.offload == Offload::Auto && view.may_offload(&model.settings.cloud_model).is_ok()
        });
        models.map(|model| (model.settings.name.clone(), model)).collect()
    }

    fn settle(&self, question: &Question, outcome: Outcome, standing: &mut Standing) {
        let number = question.leased.number;
        match outcome {
            Outcome::Verdict(outputs, cloud) => {
                standing.answered(number);
                self.label(question, &outputs, cloud);
            }
            Outcome::Later(pause) if standing.unanswered(number, pause) < MAX_TRIES => {
                self.routes.audits.release(number);
            }
            Outcome::Later(_) | Outcome::Never => {
                standing.answered(number);
                self.give_up(&question.leased);
            }
        }
    }

    fn label(&self, question: &Question, outputs: &[NamedTensor], cloud: Digest) {
        let Question { leased, model, notes } = question;
        let Some(ticket) = asking::ticket(&leased.audit.ticket) else { return self.give_up(leased) };
        // Out of the queue first: after a crash a label may be missing, but none counts twice.
        if !self.routes.audits.finish(leased.number) {
            return;
        }
        self.cloud.saw_digest(&model.settings.cloud_model, cloud);
        let differs = model.differs(&leased.audit.outputs, outputs);
        self.routes.tools.metrics.audited(&model.settings.name, differs);
        model.route.tell(RouteEvent::Labelled {
            ticket,
            features: notes.features,
            differs,
            cloud: Fingerprint(cloud.0),
        });
    }

    fn give_up(&self, leased: &Leased) {
        if !self.routes.audits.finish(leased.number) {
            return;
        }
        let model = &leased.audit.model;
        self.routes.tools.metrics.audits_lost(model, 1);
        if let (Some(route), Some(ticket)) = (self.routes.route(model), asking::ticket(&leased.audit.ticket)) {
            route.tell(RouteEvent::AuditLost { ticket });
        }
    }
}

impl Standing {
    fn may_ask(&self) -> bool {
        self.resume_at.is_none_or(|at| Instant::now() >= at)
    }

    fn answered(&mut self, number: u64) {
        self.pause = Duration::ZERO;
        self.tries.remove(&number);
    }

    /// How often this question went unanswered.
    fn unanswered(&mut self, number: u64, asked_to_wait: Option<Duration>) -> u32 {
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE).max(asked_to_wait.unwrap_or_default());
        let spread = self.pause.mul_f64(0.75 + 0.5 * crate::random::fraction());
        self.resume_at = Some(Instant::now() + spread);
        if self.tries.len() >= MAX_REMEMBERED {
            // Those of questions that left the queue by another way; the others are counted anew.
            self.tries.clear();
        }
        let tries = self.tries.entry(number).or_default();
        // To be asked to wait says nothing against the question.
        *tries += u32::from(asked_to_wait.is_none());
        *tries
    }
}

async fn ask(cloud: &Arc<Cloud>, question: &Question) -> Outcome {
    let id = RequestId::from_uuid(uuid::Uuid::now_v7());
    let mut asked = cloud.question(id);
    let query = Query {
        id,
        model: question.model.settings.cloud_model.clone(),
        edge: question.model.digest,
        attempt: 0,
        deadline_ms: u32::try_from(PATIENCE.as_millis()).unwrap_or(u32::MAX),
        boot: cloud.boot(),
        inputs: question.leased.audit.inputs.clone(),
        purpose: Purpose::Audit,
    };
    if let Err(why) = asked.ask(query, PATIENCE) {
        return not_sent(why);
    }
    let outcome = async {
        loop {
            match asked.next().await {
                CloudEvent::Delivered => {}
                CloudEvent::NotSent(why) => return not_sent(why),
                CloudEvent::NoSubscribers | CloudEvent::LinkDown | CloudEvent::Rejected => {
                    return Outcome::Later(Some(FIRST_PAUSE));
                }
                CloudEvent::Reply(reply) => return heard(question, reply),
            }
        }
    };
    timeout(PATIENCE, outcome).await.unwrap_or(Outcome::Later(None))
}

fn not_sent(why: NotSent) -> Outcome {
    match why {
        NotSent::TooLarge => Outcome::Never,
        // The link's state says when to go on; the question is not to blame.
        NotSent::Down | NotSent::QueueFull => Outcome::Later(Some(FIRST_PAUSE)),
    }
}

fn heard(question: &Question, reply: Reply) -> Outcome {
    match reply {
        Reply::Verdict(verdict) => match question.model.accept(verdict.outputs) {
            Ok(outputs) => Outcome::Verdict(outputs, verdict.cloud),
            Err(error) => {
                tracing::warn!(gateway = %verdict.gateway, %error, "an audit's verdict does not fit the model; refused");
                Outcome::Never
            }
        },
        Reply::Busy { retry_ms, .. } => Outcome::Later(Some(Duration::from_millis(u64::from(retry_ms)))),
        Reply::Refused { kind: Refusal::Expired | Refusal::UnknownModel, .. } => Outcome::Later(None),
        Reply::Refused { kind, message, .. } => {
            tracing::debug!(?kind, message, "the gateway refused an audit");
            Outcome::Never
        }
    }
}
