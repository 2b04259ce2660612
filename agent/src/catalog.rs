//! The models that are served, and how they come and go while requests are answered.
//!
//! A model is replaced by putting another `Arc` in its place: a request that has begun keeps the old one, its worker ends when
//! the last such request is answered, and every later request gets the new one. A model that does not load leaves the one
//! of its name serving; why it did not is told by the index and the metrics.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use hedge_agent_core::{Folder, FolderAction, FolderEvent};
use hedge_engine::Engine;
use tokio::sync::{Mutex, watch};

use crate::budget::Budget;
use crate::config::{ModelSettings, Settings};
use crate::loader::Loader;
use crate::metrics::{Loading, Metrics};
use crate::model::{Counts, ModelError, ServedModel};
use crate::routing::Routes;
use crate::scan::{self, Found};

/// What a model that was sent away says of itself.
const UNLOADED: &str = "unloaded";

/// All models by name.
pub(crate) struct Catalog {
    settings: Arc<Settings>,
    engine: Engine,
    loader: Loader,
    budget: Budget,
    metrics: Arc<Metrics>,
    routes: Arc<Routes>,
    slots: RwLock<BTreeMap<String, Slot>>,
    /// Held while models are loaded: one at a time, because each takes all cores while it is timed.
    folder: Mutex<FolderState>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct FolderState {
    folder: Folder,
    /// Whether the folder could not be read, which is said once.
    unreadable: bool,
}

/// What is known under one name.
#[derive(Clone, Default)]
pub(crate) struct Slot {
    pub(crate) served: Option<Arc<ServedModel>>,
    /// Why nothing is served, or why the newest file is not.
    pub(crate) problem: Option<String>,
    counts: Arc<Counts>,
}

impl Catalog {
    /// Loads what is configured, which must work, and what is in the folder, which may not.
    pub(crate) async fn start(
        settings: Arc<Settings>,
        engine: Engine,
        metrics: Arc<Metrics>,
        routes: Arc<Routes>,
    ) -> Result<Arc<Self>, ModelError> {
        let loader = Loader::start().map_err(ModelError::NoLoader)?;
        let catalog = Arc::new(Self {
            loader,
            budget: Budget::new(settings.max_models_bytes),
            engine: engine.with_policy(settings.faults),
            settings,
            metrics,
            routes,
            slots: RwLock::default(),
            folder: Mutex::default(),
            changed: watch::channel(()).0,
        });
        for model in &catalog.settings.models {
            match &model.path {
                Some(path) => catalog.put(model.clone(), path.clone()).await?,
                None => {
                    let problem = Some("there is no file of this name in repository.path".to_owned());
                    catalog.slots_mut().insert(model.name.clone(), Slot { problem, ..Slot::default() });
                }
            }
        }
        catalog.scan(true).await;
        Ok(catalog)
    }

    /// What is known under a name.
    pub(crate) fn slot(&self, name: &str) -> Option<Slot> {
        self.slots().get(name).cloned()
    }

    /// Everything, by name.
    pub(crate) fn all(&self) -> BTreeMap<String, Slot> {
        self.slots().clone()
    }

    /// The models that answer.
    pub(crate) fn served(&self) -> Vec<Arc<ServedModel>> {
        self.slots().values().filter_map(|slot| slot.served.clone()).collect()
    }

    /// Bytes that the loaded models' weights count for.
    pub(crate) fn bytes(&self) -> u64 {
        self.budget.used()
    }

    /// Says when models have come or gone.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Looks into the folder, if there is one, and loads and unloads what changed.
    pub(crate) async fn scan(&self, vouched: bool) {
        let Some(repository) = &self.settings.repository else { return };
        let mut state = self.folder.lock().await;
        let mut found = match self.look(repository.path.clone()).await {
            Ok(found) => {
                state.unreadable = false;
                found
            }
            Err(why) => {
                if !std::mem::replace(&mut state.unreadable, true) {
                    let path = repository.path.display().to_string();
                    tracing::warn!(path, why, "the folder of models cannot be read; its models stay as they are");
                }
                return;
            }
        };
        let stamps = found.iter().map(|(name, found)| (name.clone(), found.stamp.clone())).collect();
        for action in state.folder.on(FolderEvent::Scanned { found: stamps, vouched }) {
            match action {
                FolderAction::Load(name) => {
                    let Some(found) = found.remove(&name) else { continue };
                    // Told by the index and the log.
                    let _ = self.take(&mut state.folder, &name, found).await;
                }
                FolderAction::Unload(name) => self.remove(&name, None),
            }
        }
    }

    /// Loads a model by name, again if it is loaded.
    pub(crate) async fn load(&self, name: &str) -> Result<(), ModelError> {
        let mut state = self.folder.lock().await;
        if let Some(model) = self.settings.models.iter().find(|model| model.name == name)
            && let Some(path) = &model.path
        {
            return self.put(model.clone(), path.clone()).await;
        }
        let unknown = || ModelError::Unknown { name: name.to_owned() };
        let repository = self.settings.repository.as_ref().ok_or_else(unknown)?;
        let found = self.look(repository.path.clone()).await;
        let mut found =
            found.map_err(|why| ModelError::File { name: name.to_owned(), path: repository.path.clone(), why })?;
        let found = found.remove(name).ok_or_else(unknown)?;
        let asked = FolderEvent::Asked { name: name.to_owned(), stamp: found.stamp.clone() };
        state.folder.on(asked);
        self.take(&mut state.folder, name, found).await
    }

    /// Unloads a model by name.
    pub(crate) async fn unload(&self, name: &str) -> Result<(), ModelError> {
        let mut state = self.folder.lock().await;
        if self.slot(name).is_none() {
            return Err(ModelError::Unknown { name: name.to_owned() });
        }
        state.folder.on(FolderEvent::Dismissed { name: name.to_owned() });
        self.remove(name, Some(UNLOADED));
        Ok(())
    }

    /// The folder's models, without those that have a path of their own.
    async fn look(&self, folder: PathBuf) -> Result<BTreeMap<String, Found>, String> {
        let found = tokio::task::spawn_blocking(move || scan::scan(&folder)).await;
        let mut found = found.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let models = self.settings.models.iter();
        models.filter(|model| model.path.is_some()).for_each(|model| drop(found.remove(&model.name)));
        Ok(found)
    }

    async fn take(&self, folder: &mut Folder, name: &str, found: Found) -> Result<(), ModelError> {
        let loaded = match self.settings_of(name) {
            Ok(settings) => self.put(settings, found.path).await,
            Err(error) => Err(self.failed(name, error)),
        };
        if loaded.is_err() {
            folder.on(FolderEvent::Failed { name: name.to_owned() });
        }
        loaded
    }

    fn settings_of(&self, name: &str) -> Result<ModelSettings, ModelError> {
        if let Some(settings) = self.settings.models.iter().find(|model| model.name == name) {
            return Ok(settings.clone());
        }
        let repository = self.settings.repository.as_ref();
        let repository = repository.ok_or_else(|| ModelError::Unknown { name: name.to_owned() })?;
        repository.settings(name).map_err(|source| ModelError::Settings { name: name.to_owned(), source })
    }

    /// Loads a model and puts it into its place.
    async fn put(&self, settings: ModelSettings, path: PathBuf) -> Result<(), ModelError> {
        let name = settings.name.clone();
        let counts = self.slot(&name).unwrap_or_default().counts;
        let (engine, all, budget) = (self.engine.clone(), Arc::clone(&self.settings), self.budget.clone());
        let (shared, routes) = (Arc::clone(&counts), Arc::clone(&self.routes));
        let load = move || ServedModel::load(&settings, &path, &engine, (&all, &budget, &routes), shared);
        let loaded = self.loader.run(load).await;
        let crashed = |why| ModelError::Crashed { name: name.clone(), why };
        match loaded.map_err(crashed).flatten() {
            Ok(model) => {
                let slot = Slot { served: Some(Arc::new(model)), problem: None, counts };
                let old = self.slots_mut().insert(name, slot);
                self.metrics.model_load(Loading::Loaded);
                self.changed.send_replace(());
                // Outside of the lock: it may be the last one, and a worker's handle is dropped with it.
                drop(old);
                Ok(())
            }
            Err(error) => Err(self.failed(&name, error)),
        }
    }

    /// Whatever is served under the name stays.
    fn failed(&self, name: &str, error: ModelError) -> ModelError {
        let why = error.to_string();
        tracing::warn!(model = name, why, "model not loaded");
        self.slots_mut().entry(name.to_owned()).or_default().problem = Some(why);
        self.metrics.model_load(Loading::Failed);
        error
    }

    /// With a reason the name stays known.
    fn remove(&self, name: &str, why: Option<&str>) {
        let configured = self.settings.models.iter().any(|model| model.name == name);
        let why = why.or(configured.then_some("its file is gone"));
        let mut slots = self.slots_mut();
        let old = slots.remove(name);
        if let (Some(why), Some(old)) = (why, &old) {
            let (problem, counts) = (Some(why.to_owned()), Arc::clone(&old.counts));
            slots.insert(name.to_owned(), Slot { served: None, problem, counts });
        }
        drop(slots);
        if old.is_some_and(|old| old.served.is_some()) {
            tracing::info!(model = name, "model unloaded");
            self.metrics.model_load(Loading::Unloaded);
            self.changed.send_replace(());
        }
    }

    fn slots(&self) -> RwLockReadGuard<'_, BTreeMap<String, Slot>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn slots_mut(&self) -> RwLockWriteGuard<'_, BTreeMap<String, Slot>> {
        self.slots.write().unwrap_or_else(PoisonError::into_inner)
    }
}
