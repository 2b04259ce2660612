//! Hedge's protocol between a device and the cloud: ids, topics and message bodies. `docs/protocol.md` is its description for
//! people who write another client.
//!
//! It is pure: no sockets, no clock, no randomness. It does not decide anything; it turns bytes into checked values and
//! back.
//!
//! A body is one CBOR map (RFC 8949) with unsigned integer keys in ascending order and definite lengths:
//!
//! ```text
//! a7                        map of 7
//!   00 50 <16 bytes>        0: request id
//!   01 66 64 69 67 69 74 73 1: "digits"
//!   …
//!   06 81 a4 …              6: one tensor: {0: name, 1: dtype, 2: shape, 3: row-major little-endian bytes, ?4: encoding}
//! ```
//!
//! Invariants: nothing is allocated before its size is checked against a cap of [`limits`]; bytes after the map, keys out of
//! order, and data whose length is not what dtype and shape ask for are refused; unknown keys are skipped, so that a peer one
//! minor version ahead may add fields. A new field gets a new key; keys are never reused.

mod cbor;
mod class_state;
mod error;
mod evidence;
mod ids;
pub mod limits;
mod presence;
mod query;
mod reply;
mod signing;
mod tensors;
#[cfg(test)]
mod testing;
mod topic;
mod upload;

pub use class_state::ClassState;
pub use error::{DecodeError, EncodeError};
pub use evidence::{AuditLabel, Contract, Evidence, LabelFeatures, RouteLabel, RouteSubject, SplitRole};
pub use ids::{BootId, DeviceId, Digest, GatewayId, GroupId, Hash16, IdError, ModelId, RequestId, TenantId};
pub use limits::{MAX_EVIDENCE_BYTES, MAX_QUERY_BYTES, MAX_REPLY_BYTES, MAX_RETAINED_BYTES};
pub use presence::{DeviceStatus, GatewayPresence};
pub use query::{Purpose, Query};
pub use reply::{Refusal, Reply, Verdict};
pub use signing::{KeyError, PublicKey, SigningKey};
pub use topic::{
    Topic, TopicError, class_states_filter, device_statuses_filter, gateway_cancels_filter, gateway_evidence_filter,
    gateway_parts_filter, gateway_presence_filter, gateway_queries_filter,
};
pub use upload::{Ask, BodyPlan, Grant, Offer, Part, PartSet};

/// The major version of the protocol: the second level of every topic and the `v` of [`CONTENT_TYPE`].
pub const PROTOCOL_VERSION: u8 = 1;

/// The MQTT Content Type property of every message body defined here.
pub const CONTENT_TYPE: &str = "application/vnd.hedge+cbor;v=1";
