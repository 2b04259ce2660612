//! An edge and a cloud model that are asked the same, here, without agent or gateway: what certificates are made of.

use anyhow::{Context, Result, bail};
use hedge_bundle::Comparison;
use hedge_certify::{Features, top_class};
use hedge_engine::{DeviceChoice, DeviceKind, Model};
use hedge_graph::Graph;
use hedge_tensor::{NamedTensor, Tensor};

/// Requests asked at once of models that take several.
const BATCH: usize = 100;

/// Both models, and when their answers differ.
pub(super) struct Duo {
    edge: Model,
    cloud: Model,
    comparison: Comparison,
    /// The output that confidence is computed from.
    logits: String,
}

/// What both said to one request.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    /// Of the edge model's logits.
    pub(crate) features: Features,
    /// Whether the answers differ.
    pub(crate) differs: bool,
    /// The cloud model's top class, if it gives logits of that name, too.
    pub(crate) cloud: Option<u32>,
}

impl Duo {
    /// Loads both models; `logits` is the output that confidence is computed from.
    pub(super) fn load(
        edge: &Graph,
        cloud: &Graph,
        device: DeviceChoice,
        comparison: Comparison,
        logits: String,
    ) -> Result<Self> {
        let load = |graph: &Graph, which| {
            Model::load(graph.clone(), device, None).with_context(|| format!("the {which} model cannot be run"))
        };
        Ok(Duo { edge: load(edge, "edge")?, cloud: load(cloud, "cloud")?, comparison, logits })
    }

    /// The kind of device that the edge model runs on.
    pub(super) fn edge_kind(&self) -> DeviceKind {
        self.edge.device().kind()
    }

    /// How many requests to ask at once.
    pub(super) fn batch(&self) -> usize {
        if self.edge.signature().batched && self.cloud.signature().batched { BATCH } else { 1 }
    }

    /// Asks both the rows of `inputs`: each model gets those that it takes.
    pub(super) fn ask(&mut self, inputs: &[NamedTensor]) -> Result<Vec<Asked>> {
        let (edge, cloud) = (run(&mut self.edge, inputs, "edge")?, run(&mut self.cloud, inputs, "cloud")?);
        let compared = self.comparison.output();
        let (ours, theirs) = (rows(&edge, compared, "edge")?, rows(&cloud, compared, "cloud")?);
        let logits = rows(&edge, &self.logits, "edge")?;
        let cloud_logits = rows(&cloud, &self.logits, "cloud").ok();
        if ours.len() != theirs.len() || ours.len() != logits.len() {
            bail!("the edge model answers {} rows, the cloud model {}; they must be as many", ours.len(), theirs.len());
        }
        let asked = |(index, (ours, theirs)): (usize, (&Tensor, &Tensor))| {
            let cloud = cloud_logits.as_ref().and_then(|rows| numbers(rows.get(index)?, &self.logits).ok());
            Ok(Asked {
                features: Features::of(&numbers(&logits[index], &self.logits)?),
                differs: self.comparison.differs(ours, theirs)?,
                cloud: cloud.and_then(|logits| u32::try_from(top_class(&logits)).ok()),
            })
        };
        ours.iter().zip(&theirs).enumerate().map(asked).collect()
    }
}

fn run(model: &mut Model, inputs: &[NamedTensor], which: &str) -> Result<Vec<NamedTensor>> {
    let takes = |input: &&NamedTensor| model.signature().inputs.iter().any(|port| port.name == input.name);
    let inputs: Vec<NamedTensor> = inputs.iter().filter(takes).cloned().collect();
    model.run(&inputs).with_context(|| format!("the {which} model failed"))
}

fn rows(outputs: &[NamedTensor], name: &str, which: &str) -> Result<Vec<Tensor>> {
    let Some(output) = outputs.iter().find(|output| output.name == name) else {
        let has: Vec<&str> = outputs.iter().map(|output| output.name.as_str()).collect();
        bail!("the {which} model has no output {name:?}; it has {}", has.join(", "));
    };
    output.tensor.rows().with_context(|| format!("output {name:?} of the {which} model has no rows"))
}

fn numbers(row: &Tensor, name: &str) -> Result<Vec<f32>> {
    let numbers = row.to_doubles().with_context(|| format!("output {name:?} is {}, no logits", row.dtype()))?;
    Ok(numbers.into_iter().map(|number| number as f32).collect())
}
