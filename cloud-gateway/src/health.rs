//! Whether a gateway can do its work, and if not, why not.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use hedge_wire::ModelId;

/// What stands between a gateway and its work; shared by who knows and who is asked.
#[derive(Debug)]
pub(crate) struct Health(Mutex<State>);

#[derive(Debug)]
struct State {
    /// `None`: the link is up.
    link_down: Option<String>,
    /// Models that do not answer, and why.
    models: BTreeMap<ModelId, &'static str>,
    draining: bool,
    /// What pooling lacks; `None` where it lacks nothing, or nothing is pooled.
    pool: Option<String>,
}

impl Health {
    /// A gateway that has just begun: nothing is loaded, nothing is connected.
    pub(crate) fn starting<'a>(models: impl IntoIterator<Item = &'a ModelId>) -> Self {
        let models = models.into_iter().map(|model| (model.clone(), "is loading")).collect();
        Self(Mutex::new(State { link_down: Some("not connected yet".into()), models, draining: false, pool: None }))
    }

    pub(crate) fn model_loaded(&self, model: &ModelId) {
        self.state().models.remove(model);
    }

    pub(crate) fn model_stopped(&self, model: &ModelId) {
        self.state().models.insert(model.clone(), "has stopped");
    }

    pub(crate) fn link_up(&self) {
        self.state().link_down = None;
    }

    pub(crate) fn link_down(&self, reason: &str) {
        self.state().link_down = Some(reason.to_owned());
    }

    pub(crate) fn draining(&self) {
        self.state().draining = true;
    }

    pub(crate) fn pool_link_up(&self) {
        self.state().pool = None;
    }

    pub(crate) fn pool_link_down(&self, reason: &str) {
        self.state().pool = Some(format!("the pool's link is down: {reason}"));
    }

    pub(crate) fn pool_stopped(&self) {
        self.state().pool = Some("the pool has stopped".into());
    }

    /// Why the gateway cannot do its work; empty where it can.
    pub(crate) fn reasons(&self) -> Vec<String> {
        let state = self.state();
        let mut reasons: Vec<String> =
            state.models.iter().map(|(model, state)| format!("the model {model} {state}")).collect();
        if let Some(reason) = &state.link_down {
            reasons.push(format!("the link is down: {reason}"));
        }
        reasons.extend(state.pool.clone());
        if state.draining {
            reasons.push("the gateway is stopping".into());
        }
        reasons
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_healthy_once_its_models_are_loaded_and_its_link_is_up() {
        let model = ModelId::from_name("digits");
        let health = Health::starting([&model]);
        assert_eq!(health.reasons(), ["the model digits is loading", "the link is down: not connected yet"]);
        health.model_loaded(&model);
        health.link_up();
        assert_eq!(health.reasons(), Vec::<String>::new());
        health.link_down("connection refused");
        assert_eq!(health.reasons(), ["the link is down: connection refused"]);
        health.link_up();
        health.pool_link_down("connection refused");
        assert_eq!(health.reasons(), ["the pool's link is down: connection refused"]);
        health.pool_link_up();
        assert_eq!(health.reasons(), Vec::<String>::new());
        health.pool_stopped();
        assert_eq!(health.reasons(), ["the pool has stopped"]);
        health.pool_link_up();
        health.model_stopped(&model);
        health.draining();
        assert_eq!(health.reasons(), ["the model digits has stopped", "the gateway is stopping"]);
    }
}
