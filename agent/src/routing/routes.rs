//! All routes by the names of their models, and how a state passes from one model to the next of the name.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hedge_agent_core::route::{InvalidRoute, RestoreError, RouteAction};
use hedge_agent_core::{Offload, RouteSettings, Router};
use hedge_agent_spool::{AuditQueue, State};
use hedge_wire::BootId;
use tokio::sync::Notify;

use super::class::ClassWord;
use super::clock::Clock;
use super::file;
use super::history::History;
use super::report::Reports;
use super::route::{Route, Tools};
use super::saved::Saved;
use super::side::Side;
use crate::config::ModelSettings;
use crate::metrics::Metrics;

/// What is known of a route beside its router.
type Beside = (History, Option<([u8; 8], u64)>);

/// All routes.
pub(crate) struct Routes {
    pub(super) tools: Arc<Tools>,
    pub(crate) audits: AuditQueue,
    /// Says that an audit has come.
    pub(crate) audit_news: Notify,
    pub(crate) class_word: ClassWord,
    by_name: Mutex<BTreeMap<String, Arc<Route>>>,
}

impl Routes {
    pub(crate) fn new(state: &State, metrics: Arc<Metrics>, boot: BootId) -> Self {
        let tools = Tools { store: state.routes(), metrics, clock: Clock::new(), reports: Reports::new(boot) };
        Self {
            tools: Arc::new(tools),
            audits: state.audits(),
            audit_news: Notify::new(),
            class_word: ClassWord::default(),
            by_name: Mutex::default(),
        }
    }

    /// The route of a model just loaded, which goes on from what is known under its name. Blocks for disk I/O.
    pub(crate) fn adopt(&self, model: &ModelSettings, side: Side) -> Result<Arc<Route>, InvalidRoute> {
        let name = &model.name;
        let settings = RouteSettings { seed: crate::random::bits(), ..model.route.clone() };
        if settings.offload == Offload::Never {
            // What was queued while it might leave may not any more.
            self.audits.withdraw(|queued| queued == name);
        }
        let certificate = model.certificate.as_deref().and_then(|path| match file::read(path) {
            Ok(certificate) => Some(certificate),
            Err(error) => {
                tracing::warn!(model = name, %error, "the configured certificate is not used");
                None
            }
        });
        let saved = match self.route(name) {
            Some(old) => Some(old.retire()),
            None => self.load(name),
        };
        let (router, beside, actions) = self.begin(name, settings, &side, saved)?;
        let route = Route::new(name, side, Arc::clone(&self.tools), router, beside, certificate, actions);
        let route = Arc::new(route);
        route.take_file();
        self.class_word.tell(&route);
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), Arc::clone(&route));
        Ok(route)
    }

    /// The route of a name.
    pub(crate) fn route(&self, name: &str) -> Option<Arc<Route>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Every route there was since the start: one whose model is gone keeps its state in case it comes back.
    pub(crate) fn all(&self) -> Vec<Arc<Route>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The time by which certificates are in force.
    pub(crate) fn clock(&self) -> &Clock {
        &self.tools.clock
    }

    /// Evidence for the gateway.
    pub(crate) fn reports(&self) -> &Reports {
        &self.tools.reports
    }

    fn load(&self, name: &str) -> Option<Saved> {
        let bytes = match self.tools.store.load(name) {
            Ok(bytes) => bytes?,
            Err(damage) => {
                tracing::error!(model = name, error = %damage, "routing starts from nothing");
                return None;
            }
        };
        let saved = Saved::decode(&bytes);
        if saved.is_none() {
            tracing::error!(model = name, "the saved route is of another version; routing starts from nothing");
        }
        saved
    }

    fn begin(
        &self,
        name: &str,
        settings: RouteSettings,
        side: &Side,
        saved: Option<Saved>,
    ) -> Result<(Router, Beside, Vec<RouteAction>), InvalidRoute> {
        let Some(saved) = saved else {
            return Ok((Router::new(settings, side.edge_side())?, (History::default(), None), Vec::new()));
        };
        self.tools.clock.at_least(Duration::from_secs(saved.unix_secs));
        let beside = (saved.history, saved.obeyed);
        match Router::restore(settings.clone(), side.edge_side(), &saved.router) {
            Ok((router, actions)) => Ok((router, beside, actions)),
            Err(RestoreError::Settings(error)) => Err(error),
            Err(error) => {
                tracing::error!(model = name, %error, "routing starts from nothing");
                Ok((Router::new(settings, side.edge_side())?, beside, Vec::new()))
            }
        }
    }
}
