//! Running the phases: the link is cut and healed, requests are sent, and every reply is kept with the time it took.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::JoinSet;

use super::client::{Client, Reply};
use super::script::{Phase, Request, Window};
use super::world::World;

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
    /// How long the phase's requests took together.
    pub(super) took: Duration,
}

/// Brings the world into the phase's state and sends the phase's requests; `seen` is told of each reply as it comes.
pub(super) async fn run(
    world: &World,
    phase: Phase,
    requests: &[Request],
    seen: &mut (dyn FnMut(&Outcome) + Send),
) -> Result<Ran> {
    match phase {
        Phase::Normal => {}
        Phase::Cut => world.cut().await?,
        Phase::Healed => world.heal().await?,
    }
    let before = world.bytes_up().await?;
    let begun = Instant::now();
    let range = phase.requests(requests.len());
    let mut outcomes = send(world.client(), requests, range, seen).await;
    let took = begun.elapsed();
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
