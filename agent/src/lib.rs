//! The device daemon: answers inference requests over the Open Inference Protocol from a local model, asks a larger model in
//! the cloud for what the local one is not sure of, and says of every answer where it came from and what it is worth.
//!
//! This crate composes: decisions are `hedge_agent_core`'s, models run in `hedge_engine`, the cache is
//! `hedge_agent_spool`'s, messages travel by `hedge_link`. [`start`] an agent with a [`Config`]; [`Agent::shutdown`] drains
//! it. The binary `hedge-agent` does just that.

mod agent;
mod answered;
mod api;
mod budget;
mod catalog;
mod cloud;
mod config;
mod durable;
mod listen;
mod loader;
mod metrics;
mod model;
mod presence;
mod random;
mod routing;
mod row;
mod scan;
mod score;
mod source;
mod wait;

pub use agent::{Agent, DiskFailed, StartError, start, start_on};
pub use budget::OverBudget;
pub use config::{
    AgentSection, AuditsSection, BudgetSection, CacheSection, Config, EngineSection, HttpSection, LinkSection,
    ModelSection, OffloadSection, OutboxSection, RepositorySection, RouteSection, Settings, SettingsError,
};
pub use listen::ListenError;
pub use model::ModelError;
pub use routing::default_device_class;
pub use score::NoScore;
