//! Both models, asked here without agent, network or cache, a batch at a time: an interruption waits for no more than that.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use hedge_certify::Subject;
use hedge_engine::DeviceChoice;
use hedge_tensor::Tensor;
use tokio::task::spawn_blocking;

use super::script::Request;
use crate::commands::route::{Asked, Both};

/// Both models.
pub(super) struct Asker {
    both: Arc<Mutex<Both>>,
    batch: usize,
}

impl Asker {
    /// Loads the models' files.
    pub(super) async fn load(edge: &Path, cloud: &Path, device: DeviceChoice) -> Result<Self> {
        let (edge, cloud) = (edge.to_owned(), cloud.to_owned());
        let both = spawn_blocking(move || Both::load(edge, cloud, device)).await??;
        Ok(Self { batch: both.batch(), both: Arc::new(Mutex::new(both)) })
    }

    /// What both say to each image of a stream, in order; `done` is told how many there are so far.
    pub(super) async fn ask(
        &self,
        mut images: impl Iterator<Item = Tensor>,
        done: impl Fn(usize),
    ) -> Result<Vec<Asked>> {
        let mut all = Vec::new();
        loop {
            let batch: Vec<Tensor> = images.by_ref().take(self.batch).collect();
            if batch.is_empty() {
                return Ok(all);
            }
            let both = Arc::clone(&self.both);
            // Whatever a panic left behind, a run begins anew.
            let run = move || both.lock().unwrap_or_else(PoisonError::into_inner).ask(&batch);
            all.extend(spawn_blocking(run).await??);
            done(all.len());
        }
    }

    /// The cloud model's class of each request, in order: what every answer is compared with.
    pub(super) async fn cloud_classes(&self, requests: &[Request], done: impl Fn(usize)) -> Result<Vec<usize>> {
        let asked = self.ask(requests.iter().map(|request| request.image.clone()), done).await?;
        let class = |asked: Asked| asked.cloud.map(|class| class as usize).context("the cloud model gives no class");
        asked.into_iter().map(class).collect()
    }

    /// What a certificate by their answers is about, on devices of `device_class`.
    pub(super) fn subject(&self, device_class: &str) -> Subject {
        self.both.lock().unwrap_or_else(PoisonError::into_inner).subject(device_class)
    }
}
