//! The way to the cloud over a link that a test holds in its hand.

use hedge_agent_core::Availability;
use hedge_link::{BrokerLimits, Qos};
use hedge_tensor::{NamedTensor, Tensor};
use hedge_wire::{Ask, Purpose, Refusal};

use super::*;

/// A link that takes everything, or refuses with one error.
#[derive(Default)]
pub(crate) struct FakeLink {
    pub(crate) sent: Mutex<Vec<Outgoing>>,
    pub(crate) refuses: Mutex<Option<PublishError>>,
    pub(crate) acked: Mutex<usize>,
}

impl Link for FakeLink {
    fn is_up(&self) -> bool {
        true
    }

    fn publish(&self, message: Outgoing) -> Result<PublishId, PublishError> {
        if let Some(error) = *self.refuses.lock().unwrap() {
            return Err(error);
        }
        let mut sent = self.sent.lock().unwrap();
        sent.push(message);
        Ok(PublishId(sent.len() as u64))
    }

    fn ack(&self, _message: &Incoming) {
        *self.acked.lock().unwrap() += 1;
    }
}

pub(crate) fn up() -> LinkEvent {
    LinkEvent::Up {
        limits: BrokerLimits {
            max_packet_bytes: 1 << 20,
            inflight: 50,
            max_qos: Qos::AtLeastOnce,
            retain: true,
            shared_subscriptions: true,
            keepalive: Duration::from_secs(30),
            session_present: false,
        },
    }
}

pub(crate) fn presence(gateway: &str, online: bool) -> LinkEvent {
    let body = GatewayPresence {
        gateway: GatewayId::parse(gateway).unwrap(),
        boot: BootId(1),
        online,
        models: vec![(digits(), Digest([7; 32]))],
    };
    LinkEvent::Message(Incoming::new(format!("hedge/1/t/g/{gateway}"), body.encode()))
}

pub(crate) fn reply(reply: &Reply) -> LinkEvent {
    LinkEvent::Message(Incoming::new("hedge/1/t/r/d1", reply.encode()))
}

pub(crate) fn cloud(link: &Arc<FakeLink>, notes: Option<Cache>) -> Arc<Cloud> {
    Arc::new(Cloud::new(CloudParts {
        link: Some(Arc::clone(link) as Arc<dyn Link>),
        tenant: TenantId::parse("t").unwrap(),
        device: Some(DeviceId::parse("d1").unwrap()),
        boot: BootId(9),
        metrics: Arc::new(Metrics::new()),
        notes,
        models: vec![digits()],
        class: None,
    }))
}

fn digits() -> ModelId {
    ModelId::from_name("digits")
}

fn id(n: u8) -> RequestId {
    RequestId::from_bytes([n; 16])
}

fn query(n: u8, bytes: usize) -> Query {
    // Bytes that zstd cannot make smaller.
    let mut state = 1_u32;
    let noise: Vec<u8> = (0..bytes)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    Query {
        id: id(n),
        model: digits(),
        edge: Digest([1; 32]),
        attempt: 0,
        deadline_ms: 1000,
        boot: BootId(9),
        inputs: vec![NamedTensor::new("x", Tensor::from_slice(&[1, bytes], &noise).unwrap())],
        purpose: Purpose::Answer,
    }
}

fn busy(n: u8) -> Reply {
    Reply::Busy { id: id(n), retry_ms: 5 }
}

#[tokio::test]
async fn a_query_goes_out_with_its_expiry_its_id_and_where_to_reply() {
    let link = Arc::default();
    let cloud = cloud(&link, None);
    cloud.question(id(1)).ask(query(1, 4), Duration::from_millis(1500)).unwrap();
    let sent = link.sent.lock().unwrap();
    assert_eq!(sent[0].topic, "hedge/1/t/q/digits/d1");
    assert_eq!(sent[0].response_topic.as_deref(), Some("hedge/1/t/r/d1"));
    assert_eq!(sent[0].correlation.as_deref(), Some(&[1; 16][..]));
    assert_eq!(sent[0].expiry, Some(Duration::from_millis(1500)));
    assert_eq!((sent[0].qos, sent[0].retain), (Qos::AtLeastOnce, false));
    assert_eq!(Query::decode(&sent[0].payload).unwrap().id, id(1));
}

#[tokio::test]
async fn each_reason_not_to_be_sent_is_told_apart() {
    let link = Arc::<FakeLink>::default();
    let cloud = cloud(&link, None);
    let left = Duration::from_secs(1);
    for (error, expected) in [(PublishError::Down, NotSent::Down), (PublishError::QueueFull, NotSent::QueueFull)] {
        *link.refuses.lock().unwrap() = Some(error);
        assert_eq!(cloud.question(id(1)).ask(query(1, 4), left), Err(expected));
    }
    // What a broker does not take in one message it may take in parts, or not even those.
    *link.refuses.lock().unwrap() = Some(PublishError::TooLarge { limit: 1, size: 2 });
    let mut question = cloud.question(id(1));
    question.ask(query(1, 4), left).unwrap();
    assert!(matches!(question.next().await, CloudEvent::NotSent(NotSent::TooLarge)));
    assert_eq!(cloud.table.len(), (1, 0));
    drop(question);
    assert_eq!(cloud.table.len(), (0, 0));
}

#[tokio::test]
async fn a_reply_reaches_the_row_of_its_id_and_is_acknowledged() {
    let link = Arc::default();
    let cloud = cloud(&link, None);
    let (mut first, mut second) = (cloud.question(id(1)), cloud.question(id(2)));
    cloud.on_link_event(reply(&busy(2)));
    cloud.on_link_event(reply(&Reply::Refused { id: id(1), kind: Refusal::Internal, message: String::new() }));
    assert!(matches!(first.next().await, CloudEvent::Reply(Reply::Refused { .. })));
    assert!(matches!(second.next().await, CloudEvent::Reply(Reply::Busy { .. })));
    assert_eq!(*link.acked.lock().unwrap(), 2);
    assert_eq!(cloud.metrics.late_replies.value(), 0);
}

#[tokio::test]
async fn a_reply_to_a_row_that_no_longer_waits_is_late() {
    let cloud = cloud(&Arc::default(), None);
    drop(cloud.question(id(1)));
    cloud.on_link_event(reply(&busy(1)));
    cloud.on_link_event(reply(&busy(2)));
    assert_eq!(cloud.metrics.late_replies.value(), 2);
    assert_eq!(cloud.table.len(), (0, 0), "and leaves nothing behind");
}

#[tokio::test]
async fn a_flood_of_replies_to_one_row_is_bounded() {
    let cloud = cloud(&Arc::default(), None);
    let _question = cloud.question(id(1));
    for _ in 0..100 {
        cloud.on_link_event(reply(&busy(1)));
    }
    assert_eq!(cloud.metrics.late_replies.value(), 100 - table::NEWS_PER_QUESTION as u64);
}

#[tokio::test]
async fn messages_that_cannot_be_read_are_counted_and_acknowledged() {
    let link = Arc::default();
    let cloud = cloud(&link, None);
    for (topic, body) in [
        ("hedge/1/t/r/d1", &b"garbage"[..]),
        ("hedge/1/t/r/d2", b""),
        ("hedge/1/other/r/d1", b""),
        ("hedge/1/t/g/g1", b"garbage"),
        ("nonsense", b""),
    ] {
        cloud.on_link_event(LinkEvent::Message(Incoming::new(topic, body)));
    }
    let LinkEvent::Message(mut other) = presence("g1", true) else { panic!("a presence is a message") };
    other.topic = "hedge/1/t/g/g2".into();
    cloud.on_link_event(LinkEvent::Message(other));
    assert_eq!(cloud.metrics.bad_messages.value(), 6);
    assert_eq!(cloud.view().gateways_online(), 0);
    assert_eq!(*link.acked.lock().unwrap(), 6);
}

#[tokio::test]
async fn the_brokers_word_reaches_the_row_of_its_message() {
    let cloud = cloud(&Arc::default(), None);
    let (mut first, mut second) = (cloud.question(id(1)), cloud.question(id(2)));
    first.ask(query(1, 4), Duration::from_secs(1)).unwrap();
    second.ask(query(2, 4), Duration::from_secs(1)).unwrap();
    let rejected = Outcome::Rejected { code: 0x97, reason: "quota".into() };
    cloud.on_link_event(LinkEvent::Published { id: PublishId(2), outcome: Outcome::NoSubscribers });
    cloud.on_link_event(LinkEvent::Published { id: PublishId(1), outcome: rejected });
    assert!(matches!(first.next().await, CloudEvent::Rejected));
    assert!(matches!(second.next().await, CloudEvent::NoSubscribers));
    assert_eq!(cloud.table.len(), (2, 0));
}

#[tokio::test]
async fn a_question_that_takes_anothers_place_keeps_it_when_that_one_goes() {
    let cloud = cloud(&Arc::default(), None);
    let earlier = cloud.question(id(1));
    let mut later = cloud.question(id(1));
    drop(earlier);
    cloud.on_link_event(reply(&busy(1)));
    assert!(matches!(later.next().await, CloudEvent::Reply(Reply::Busy { .. })));
}

#[tokio::test]
async fn when_the_link_goes_down_every_waiting_row_hears_of_it() {
    let cloud = cloud(&Arc::default(), None);
    cloud.on_link_event(up());
    assert!(cloud.view().may_offload(&digits()).is_ok());
    let (mut first, mut second) = (cloud.question(id(1)), cloud.question(id(2)));
    cloud.on_link_event(LinkEvent::Down { reason: "cut".into() });
    assert!(matches!(first.next().await, CloudEvent::LinkDown));
    assert!(matches!(second.next().await, CloudEvent::LinkDown));
    assert!(cloud.view().may_offload(&digits()).is_err());
    assert_eq!(cloud.metrics.link_up.value(), 0.0);
}

#[tokio::test]
async fn gateways_come_and_go_with_their_presence() {
    let cloud = cloud(&Arc::default(), None);
    let settle = cloud.on_link_event(up());
    assert!(settle.is_some(), "a broker that retains makes silence tell something");
    cloud.on_link_event(presence("g1", true));
    cloud.on_link_event(presence("g2", true));
    assert_eq!(cloud.metrics.gateways.value(), 2.0);
    cloud.on_link_event(presence("g1", false));
    cloud.on_link_event(LinkEvent::Message(Incoming::new("hedge/1/t/g/g2", Bytes::new())));
    assert_eq!(cloud.metrics.gateways.value(), 0.0);
    assert_eq!(cloud.view().availability(&digits()), Availability::Absent);
}

#[tokio::test]
async fn the_cloud_models_digest_is_remembered_for_the_next_process() {
    let folder = tempfile::tempdir().unwrap();
    let config = hedge_agent_spool::CacheConfig {
        path: folder.path().join("cache"),
        max_bytes: 1 << 20,
        max_age: Duration::from_secs(60),
    };
    let notes = Cache::open(config.clone()).unwrap();
    cloud(&Arc::default(), Some(notes.clone())).on_link_event(presence("g1", true));
    notes.close();
    let notes = Cache::open(config).unwrap();
    let next = cloud(&Arc::default(), Some(notes));
    assert_eq!(next.view().current_digest(&digits()), Some(Digest([7; 32])));
    next.saw_digest(&digits(), Digest([8; 32]));
    assert_eq!(next.view().current_digest(&digits()), Some(Digest([8; 32])));
}

/// A gateway that a test speaks for.
struct Gateway(Arc<Cloud>);

impl Gateway {
    fn grants(&self, n: u8, gateway: &str, held: &[u32]) {
        let mut parts = hedge_wire::PartSet::default();
        held.iter().for_each(|&part| assert!(parts.insert(part)));
        let grant = Grant { id: id(n), gateway: GatewayId::parse(gateway).unwrap(), held: parts };
        self.0.on_link_event(LinkEvent::Message(Incoming::new("hedge/1/t/r/d1", grant.encode())));
    }

    /// The broker has message number `message` of the link.
    fn delivered(&self, message: usize) {
        let id = PublishId(message as u64);
        self.0.on_link_event(LinkEvent::Published { id, outcome: Outcome::Delivered });
    }
}

/// Has the question take in what there is, until the link was given so many messages.
async fn sends(question: &mut Question, link: &FakeLink, messages: usize) {
    let enough = async {
        while link.sent.lock().unwrap().len() < messages {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        // First, so that all news is taken in.
        biased;
        event = question.next() => panic!("{event:?}"),
        () = enough => {}
    }
    assert_eq!(link.sent.lock().unwrap().len(), messages);
}

fn sent_part(link: &FakeLink, message: usize) -> (String, Part) {
    let sent = link.sent.lock().unwrap()[message - 1].clone();
    (sent.topic, Part::decode(&sent.payload).unwrap())
}

#[tokio::test]
async fn a_query_that_fits_no_message_is_offered_and_its_parts_go_to_who_grants_it() {
    let link = Arc::<FakeLink>::default();
    let cloud = cloud(&link, None);
    let gateway = Gateway(Arc::clone(&cloud));
    let mut question = cloud.question(id(1));
    let large = query(1, 150 * 1024);
    question.ask(large.clone(), Duration::from_secs(9)).unwrap();
    sends(&mut question, &link, 1).await;
    let offer = link.sent.lock().unwrap()[0].clone();
    assert_eq!((offer.topic.as_str(), offer.expiry.is_some()), ("hedge/1/t/q/digits/d1", true));
    let Ok(Ask::Offer(offer)) = Ask::decode_shared(&offer.payload) else { panic!("no offer") };
    assert_eq!((offer.id, offer.body.parts()), (id(1), 3));
    assert!((8_000..=9_000).contains(&offer.deadline_ms), "{}", offer.deadline_ms);

    gateway.grants(1, "g1", &[]);
    sends(&mut question, &link, 3).await;
    gateway.delivered(2);
    sends(&mut question, &link, 4).await;
    let parts: Vec<_> = (2..=4).map(|message| sent_part(&link, message)).collect();
    assert!(parts.iter().all(|(topic, _)| topic == "hedge/1/t/u/g1/d1"));
    let body: Vec<u8> = parts.into_iter().flat_map(|(_, part)| part.data).collect();
    assert_eq!(Query::decode_upload(&Bytes::from(body)).unwrap().inputs, large.inputs);
    cloud.on_link_event(reply(&busy(1)));
    assert!(matches!(question.next().await, CloudEvent::Reply(Reply::Busy { .. })));
    assert_eq!(cloud.metrics.upload_parts.value(), 3);
}

#[tokio::test]
async fn when_the_gateway_of_an_upload_goes_it_is_offered_to_another_once() {
    let link = Arc::<FakeLink>::default();
    let cloud = cloud(&link, None);
    cloud.on_link_event(up());
    cloud.on_link_event(presence("g1", true));
    cloud.on_link_event(presence("g2", true));
    let gateway = Gateway(Arc::clone(&cloud));
    let mut question = cloud.question(id(1));
    question.ask(query(1, 150 * 1024), Duration::from_secs(9)).unwrap();
    sends(&mut question, &link, 1).await;
    gateway.grants(1, "g1", &[]);
    sends(&mut question, &link, 3).await;
    gateway.delivered(2);
    sends(&mut question, &link, 4).await;
    // Whoever asks does so again: the parts are on their way.
    question.ask(Query { attempt: 1, ..query(1, 150 * 1024) }, Duration::from_secs(5)).unwrap();
    sends(&mut question, &link, 4).await;
    cloud.on_link_event(presence("g1", false));
    sends(&mut question, &link, 5).await;
    let again = link.sent.lock().unwrap()[4].clone();
    let Ok(Ask::Offer(offer)) = Ask::decode_shared(&again.payload) else { panic!("no offer") };
    assert_eq!((offer.id, offer.attempt), (id(1), 2));
    gateway.grants(1, "g2", &[1]);
    sends(&mut question, &link, 7).await;
    let parts: Vec<_> = (6..=7).map(|message| sent_part(&link, message)).collect();
    assert!(parts.iter().all(|(topic, _)| topic == "hedge/1/t/u/g2/d1"));
    assert_eq!(parts.iter().map(|(_, part)| part.index).collect::<Vec<_>>(), [0, 2]);
}

#[tokio::test]
async fn parts_for_which_the_link_has_no_room_are_sent_when_it_has() {
    let link = Arc::<FakeLink>::default();
    let cloud = cloud(&link, None);
    let mut question = cloud.question(id(1));
    question.ask(query(1, 150 * 1024), Duration::from_secs(9)).unwrap();
    sends(&mut question, &link, 1).await;
    *link.refuses.lock().unwrap() = Some(PublishError::QueueFull);
    Gateway(Arc::clone(&cloud)).grants(1, "g1", &[]);
    sends(&mut question, &link, 1).await;
    *link.refuses.lock().unwrap() = None;
    sends(&mut question, &link, 3).await;
}

#[tokio::test]
async fn a_broker_that_confirms_nothing_gets_everything_all_the_same() {
    let link = Arc::<FakeLink>::default();
    let cloud = cloud(&link, None);
    let LinkEvent::Up { limits } = up() else { panic!("it is up") };
    let limits = BrokerLimits { max_qos: Qos::AtMostOnce, max_packet_bytes: 20_000, ..limits };
    cloud.on_link_event(LinkEvent::Up { limits });
    let mut question = cloud.question(id(1));
    question.ask(query(1, 150 * 1024), Duration::from_secs(9)).unwrap();
    assert!(matches!(question.next().await, CloudEvent::Delivered));
    Gateway(Arc::clone(&cloud)).grants(1, "g1", &[]);
    // Parts that fit the broker's packets: 8 of nearly 20,000 bytes.
    sends(&mut question, &link, 1 + 8).await;
    assert_eq!(cloud.table.len(), (1, 0));
}
