//! Running the phases: the link is cut and healed, requests are sent, and every reply is kept with the time it took.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::JoinSet;

use super::client::{Client, Reply};
use super::script::{Phase, Request, Window};
use super::story::Story;
use super::world::{SETTLE_PATIENCE, World};

/// After so many requests the agent is given the time that real requests, which are further apart, would leave it: to write
/// its state and to have its audits answered. Otherwise the speed of disk and machine would settle how many requests go by
/// until an alarm rings or a certificate is in use.
const TOGETHER: usize = 100;

/// What came of one request.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Which request.
    pub(super) index: usize,
    /// From sending it to having read the reply.
    pub(super) took: Duration,
    /// The reply.
    pub(super) reply: Reply,
}

/// What came of one phase.
#[derive(Debug)]
pub(super) struct Ran {
    /// Which.
    pub(super) phase: Phase,
    /// What came of its requests, in their order.
    pub(super) outcomes: Vec<Outcome>,
    /// Payload bytes sent to the cloud.
    pub(super) bytes_up: u64,
    /// How long the phase's requests took together, without the pauses between some of them.
    pub(super) took: Duration,
}

/// Brings the world into the phase's state and sends the phase's requests; `seen` is told of each reply as it comes, and
/// `story` of what the agent says of its certificates.
pub(super) async fn run(
    world: &World,
    phase: Phase,
    requests: &[Request],
    story: &mut Story,
    seen: &mut (dyn FnMut(&Outcome) + Send),
) -> Result<Ran> {
    match phase {
        Phase::Normal | Phase::Drift => {}
        Phase::Cut => world.cut().await?,
        Phase::Healed => world.heal().await?,
    }
    let before = world.bytes_up().await?;
    let (mut outcomes, mut took, mut patience) = (Vec::new(), Duration::ZERO, SETTLE_PATIENCE);
    let range = phase.requests(requests.len());
    for first in range.clone().step_by(TOGETHER) {
        let begun = Instant::now();
        outcomes.extend(send(world.client(), requests, first..range.end.min(first + TOGETHER), seen).await);
        took += begun.elapsed();
        story.hear(world.settled(phase, &mut patience).await?);
    }
    let bytes_up = world.bytes_up().await? - before;
    outcomes.sort_by_key(|outcome| outcome.index);
    Ok(Ran { phase, outcomes, bytes_up, took })
}

async fn send(
    client: &Client,
    requests: &[Request],
    range: Range<usize>,
    seen: &mut (dyn FnMut(&Outcome) + Send),
) -> Vec<Outcome> {
    let mut outcomes = Vec::with_capacity(range.len());
    let mut window = Window::new(range);
    // Dropping the set, on Ctrl-C, ends what is under way.
    let mut under_way = JoinSet::new();
    loop {
        while let Some(index) = window.next() {
            under_way.spawn(ask(client.clone(), requests[index].clone()));
        }
        match under_way.join_next().await {
            None => return outcomes,
            Some(joined) => {
                let outcome = joined.expect("asking neither panics nor is aborted");
                window.done(outcome.index);
                seen(&outcome);
                outcomes.push(outcome);
            }
        }
    }
}

async fn ask(client: Client, request: Request) -> Outcome {
    let begun = Instant::now();
    let reply = client.infer(&request).await;
    Outcome { index: request.index, took: begun.elapsed(), reply }
}
