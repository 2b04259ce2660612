//! Where a request goes: the agent's decisions, without sockets, clocks, threads or randomness.
//!
//! Each row of a request is a [`Row`]: a state machine `(state, event, now) -> actions` from its arrival through the
//! cache, the local model and the cloud to exactly one answer or failure, at the latest at its deadline. Whether a local
//! result is the answer, and what it may promise, is for its model's [`Router`] to decide. What all rows
//! know about the world outside is a [`CloudView`]: whether the link is up and which gateways serve which model.
//!
//! A query that does not fit one message is sent in parts by an [`Upload`].
//!
//! A request that must not be lost is kept by an [`Outbox`] until it is answered.
//!
//! Which models of a folder are served is a [`Folder`]'s decision, in the same manner.
//!
//! Time is a [`std::time::Duration`] since any fixed moment; random numbers are given in. The caller carries out the
//! actions and reports what came of them as events.

mod answer;
mod cloud;
mod folder;
pub mod outbox;
pub mod route;
mod row;
mod upload;

pub use answer::{Answer, Failure, Origin, Reason, Source, Status, weakest};
pub use cloud::{Availability, CloudView, Path};
pub use folder::{FileStamp, Folder, FolderAction, FolderEvent, Stamp};
pub use outbox::{Outbox, OutboxAction, OutboxEvent, OutboxSettings};
pub use route::{Ask, Decision, RouteAction, RouteEvent, RouteSettings, Router, Ticket};
pub use row::{
    Action, Asking, CachedVerdict, Event, Left, LocalFailure, LocalResult, NotSent, Offload, Outputs, Place, Row,
    RowPolicy, Timing,
};
pub use upload::{Upload, UploadAction, UploadEvent};
