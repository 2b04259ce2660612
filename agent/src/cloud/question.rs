//! One question to the cloud: a query in one message, or, where it does not fit, offered and sent in parts.
//!
//! ```text
//! ask ── fits a message ── query ──────────────────────────────────────── reply
//!    └── does not ─ encoded (off the reactor) ─ offer ─ grant ─ parts ─── reply
//! ```
//!
//! Which parts go when and to whom is `hedge_agent_core::Upload`'s to decide. What the question is about, how long it waits and
//! what a reply means is for whoever asks. An upload whose gateway goes is offered once more, even where whoever asked did so
//! again before, in vain because parts were on their way.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hedge_agent_core::{NotSent, Upload, UploadAction, UploadEvent};
use hedge_link::{Outcome, PublishError};
use hedge_wire::{BodyPlan, GatewayId, Offer, Part, Query, Reply, RequestId};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Cloud;
use super::table::{Message, News, Seat};
use crate::wait;

/// Queries with more bytes of tensors than this are encoded off the reactor (compressing and digesting them takes about 1 ms).
const LARGE_QUERY: usize = 256 * 1024;
/// After so long a part is tried again for which the link's queue had no room.
const QUEUE_PAUSE: Duration = Duration::from_millis(50);
/// The longest wait before an upload whose gateway is gone is offered to another, at random: many devices hear of that at once.
const OFFER_PAUSE: Duration = Duration::from_millis(250);
/// How often an upload is offered, unless it is asked for more often.
const OFFERS: u8 = 2;

/// News for who asked.
#[derive(Debug)]
pub(crate) enum CloudEvent {
    Reply(Reply),
    /// The broker has the question.
    Delivered,
    /// It could not be sent after all.
    NotSent(NotSent),
    NoSubscribers,
    Rejected,
    LinkDown,
}

/// A question under way. Dropping it makes later replies late.
pub(crate) struct Question {
    cloud: Arc<Cloud>,
    seat: Seat,
    stage: Stage,
    /// When what could not be sent is tried again.
    resume_at: Option<Instant>,
    /// How long an upload may take at least, however long one asking waits.
    upload_time: Duration,
}

enum Stage {
    /// Not asked, or asked in one message.
    Whole,
    /// Being encoded.
    Encoding {
        query: Query,
        until: Instant,
        body: JoinHandle<Result<Encoded, NotSent>>,
    },
    InParts(Parts),
}

/// The body of a query, and how it goes.
enum Encoded {
    InOneMessage(Bytes),
    InParts(Bytes),
}

/// A query without its inputs, and until when its verdict is waited for.
struct Head {
    query: Query,
    until: Instant,
}

struct Parts {
    head: Head,
    body: Bytes,
    upload: Upload,
    granted_by: Option<GatewayId>,
    /// Offers sent; those of earlier askings count as one.
    offers: u8,
}

impl Question {
    pub(super) fn new(cloud: &Arc<Cloud>, id: RequestId) -> Self {
        Self {
            cloud: Arc::clone(cloud),
            seat: cloud.table.enter(id),
            stage: Stage::Whole,
            resume_at: None,
            upload_time: Duration::ZERO,
        }
    }

    /// An upload may take so long, also where it is asked for again earlier.
    pub(crate) fn with_time_for_uploads(self, upload_time: Duration) -> Self {
        Self { upload_time, ..self }
    }

    /// Asks, for the first time or once more; what is on its way in parts goes on where it moves.
    pub(crate) fn ask(&mut self, query: Query, left: Duration) -> Result<(), NotSent> {
        debug_assert_eq!(query.id, self.seat.id(), "a question is about one request");
        match &mut self.stage {
            Stage::Encoding { query: encoded, until, .. } => {
                (encoded.attempt, *until) = (query.attempt, Instant::now() + left);
                Ok(())
            }
            Stage::InParts(parts) => {
                parts.head = Head::of(&query, left.max(self.upload_time));
                parts.offers = parts.offers.min(1);
                self.ask_upload()
            }
            Stage::Whole => self.ask_first(query, left),
        }
    }

    /// What comes next; pending for as long as nothing does. Nothing is lost when it is dropped while it waits.
    pub(crate) async fn next(&mut self) -> CloudEvent {
        loop {
            let encoding = async {
                match &mut self.stage {
                    Stage::Encoding { body, .. } => body.await,
                    Stage::Whole | Stage::InParts(_) => std::future::pending().await,
                }
            };
            let done = tokio::select! {
                news = self.seat.next() => self.heard(news),
                body = encoding => self.encoded(body.unwrap_or(Err(NotSent::TooLarge))),
                () = wait::until(self.resume_at) => self.resume().err().map(CloudEvent::NotSent),
            };
            if let Some(event) = done {
                return event;
            }
        }
    }

    fn ask_first(&mut self, query: Query, left: Duration) -> Result<(), NotSent> {
        if tensor_bytes(&query) > LARGE_QUERY {
            return self.encode_aside(query, left, encode);
        }
        match query.encode_checked() {
            Ok(body) => match self.cloud.send_query(&query, body.into(), left) {
                // The broker takes even less than the protocol allows.
                Err(PublishError::TooLarge { .. }) => self.encode_aside(query, left, encode_for_parts),
                sent => sent.map_err(super::not_sent),
            },
            Err(_) => self.encode_aside(query, left, encode_for_parts),
        }
    }

    fn encode_aside(
        &mut self,
        query: Query,
        left: Duration,
        encode: fn(&Query) -> Result<Encoded, NotSent>,
    ) -> Result<(), NotSent> {
        // To be told at once is better than after the work.
        if !self.cloud.is_up() {
            return Err(NotSent::Down);
        }
        let (until, encoded) = (Instant::now() + left, query.clone());
        let body = tokio::task::spawn_blocking(move || encode(&encoded));
        self.stage = Stage::Encoding { query, until, body };
        Ok(())
    }

    fn encoded(&mut self, body: Result<Encoded, NotSent>) -> Option<CloudEvent> {
        let Stage::Encoding { query, until, .. } = std::mem::replace(&mut self.stage, Stage::Whole) else {
            return None;
        };
        let begun = body.and_then(|body| self.begin(query, until, body));
        begun.err().map(CloudEvent::NotSent)
    }

    fn begin(&mut self, query: Query, until: Instant, body: Encoded) -> Result<(), NotSent> {
        let left = until.saturating_duration_since(Instant::now());
        let body = match body {
            Encoded::InOneMessage(body) => match self.cloud.send_query(&query, body, left) {
                Err(PublishError::TooLarge { .. }) => return self.encode_aside(query, left, encode_for_parts),
                sent => return sent.map_err(super::not_sent),
            },
            Encoded::InParts(body) => body,
        };
        let plan = BodyPlan::of(&body, self.cloud.part_bytes()).map_err(|_| NotSent::TooLarge)?;
        let head = Head::of(&query, left.max(self.upload_time));
        self.stage = Stage::InParts(Parts { head, body, upload: Upload::new(plan), granted_by: None, offers: 0 });
        self.ask_upload()
    }

    fn heard(&mut self, news: News) -> Option<CloudEvent> {
        match news {
            News::Reply(reply) => Some(CloudEvent::Reply(reply)),
            News::Published(Message::Question, Outcome::Delivered) => Some(CloudEvent::Delivered),
            News::Published(Message::Question, Outcome::NoSubscribers) => Some(CloudEvent::NoSubscribers),
            News::Published(Message::Question, Outcome::Rejected { .. }) => Some(CloudEvent::Rejected),
            News::Published(Message::Part(part), Outcome::Delivered) => self.upload(UploadEvent::Delivered { part }),
            News::Published(Message::Part(_), _) => self.gateway_gone(),
            News::Granted(grant) => {
                let Stage::InParts(parts) = &mut self.stage else { return None };
                parts.granted_by = Some(grant.gateway.clone());
                self.cloud.metrics.upload("granted");
                self.upload(UploadEvent::Granted(grant))
            }
            News::GatewayGone(gateway) => match &self.stage {
                Stage::InParts(parts) if parts.granted_by.as_ref() == Some(&gateway) => self.gateway_gone(),
                _ => None,
            },
            News::LinkDown => {
                // What was on its way is void, and the gateway will say what it holds when it is offered again.
                (self.stage, self.resume_at) = (Stage::Whole, None);
                Some(CloudEvent::LinkDown)
            }
        }
    }

    fn gateway_gone(&mut self) -> Option<CloudEvent> {
        let Stage::InParts(parts) = &mut self.stage else { return None };
        parts.granted_by = None;
        self.resume_at = Some(Instant::now() + OFFER_PAUSE.mul_f64(crate::random::fraction()));
        self.upload(UploadEvent::GatewayGone)
    }

    /// The time has come to try again what could not be sent.
    fn resume(&mut self) -> Result<(), NotSent> {
        self.resume_at = None;
        let Stage::InParts(parts) = &mut self.stage else { return Ok(()) };
        if parts.granted_by.is_some() {
            let actions = parts.upload.on(UploadEvent::Tick);
            return self.perform(actions);
        }
        if parts.offers >= OFFERS {
            return Ok(());
        }
        if self.cloud.view().may_offload(&parts.head.query.model).is_err() {
            // The gateway may come back, and then grants again; or another one comes.
            self.resume_at = Some(Instant::now() + OFFER_PAUSE);
            return Ok(());
        }
        parts.head.query.attempt = parts.head.query.attempt.saturating_add(1);
        self.ask_upload()
    }

    fn ask_upload(&mut self) -> Result<(), NotSent> {
        let Stage::InParts(parts) = &mut self.stage else { return Ok(()) };
        let actions = parts.upload.ask();
        self.perform(actions)
    }

    fn upload(&mut self, event: UploadEvent) -> Option<CloudEvent> {
        let Stage::InParts(parts) = &mut self.stage else { return None };
        let actions = parts.upload.on(event);
        self.perform(actions).err().map(CloudEvent::NotSent)
    }

    fn perform(&mut self, actions: Vec<UploadAction>) -> Result<(), NotSent> {
        let Stage::InParts(parts) = &mut self.stage else { return Ok(()) };
        for action in actions {
            match action {
                UploadAction::Offer => {
                    parts.offers = parts.offers.saturating_add(1);
                    self.cloud.send_offer(&parts.offer(), parts.head.left())?;
                }
                UploadAction::Send { gateway, part } => match parts.send(&self.cloud, gateway, part) {
                    Ok(()) => {}
                    Err(PublishError::QueueFull) => {
                        parts.upload.on(UploadEvent::NotSent { part });
                        self.resume_at = Some(Instant::now() + QUEUE_PAUSE);
                    }
                    // That the link is down is told to every question.
                    Err(PublishError::Down) => {}
                    Err(error) => return Err(super::not_sent(error)),
                },
            }
        }
        Ok(())
    }
}

impl Head {
    fn of(query: &Query, left: Duration) -> Self {
        let query = Query { inputs: Vec::new(), model: query.model.clone(), ..*query };
        Self { query, until: Instant::now() + left }
    }

    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}

impl Parts {
    fn offer(&self) -> Offer {
        let deadline_ms = u32::try_from(self.head.left().as_millis()).unwrap_or(u32::MAX);
        Offer { deadline_ms, ..Offer::of(&self.head.query, *self.upload.plan()) }
    }

    fn send(&self, cloud: &Cloud, gateway: GatewayId, index: u32) -> Result<(), PublishError> {
        let part = Part::cut(self.head.query.id, self.upload.plan(), &self.body, index);
        let part = part.expect("an upload sends the parts of its plan, which is of this body");
        cloud.send_part(gateway, &part)
    }
}

fn encode(query: &Query) -> Result<Encoded, NotSent> {
    match query.encode_checked() {
        Ok(body) => Ok(Encoded::InOneMessage(body.into())),
        Err(_) => encode_for_parts(query),
    }
}

fn encode_for_parts(query: &Query) -> Result<Encoded, NotSent> {
    query.encode_upload().map(|body| Encoded::InParts(body.into())).map_err(|_| NotSent::TooLarge)
}

fn tensor_bytes(query: &Query) -> usize {
    query.inputs.iter().map(|input| input.tensor.bytes().len()).sum()
}
