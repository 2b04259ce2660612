//! How much of the machine the broker may take. With these, a client that subscribes to everything and reads nothing costs at
//! most [`MAX_QUEUED_BYTES_PER_CLIENT`] and [`CLIENT_CHANNEL_CAPACITY`] packets.

/// The largest packet, unless configured: ten times the largest body of the protocol.
pub const DEFAULT_MAX_PACKET_BYTES: usize = 1 << 20;

/// The smallest packet limit that can be configured (mqtt5 takes no less).
pub const MIN_PACKET_BYTES: usize = 1024;

/// Clients at a time.
pub const MAX_CLIENTS: usize = 1024;

/// Subscriptions of one client; a device has at most 8.
pub const MAX_SUBSCRIPTIONS_PER_CLIENT: usize = 64;

/// Retained messages: one for each gateway and four for each device.
pub const MAX_RETAINED_MESSAGES: usize = 8192;

/// The largest retained message, as in `hedge_wire::MAX_RETAINED_BYTES`.
pub const MAX_RETAINED_BYTES: usize = hedge_wire::MAX_RETAINED_BYTES;

/// Packets that wait for one client's socket.
pub const CLIENT_CHANNEL_CAPACITY: usize = 64;

/// Messages with QoS 1 that wait for one client's PUBACK.
pub const MAX_OUTBOUND_INFLIGHT: u16 = 100;

/// Messages kept for one client that is away or slow.
pub const MAX_QUEUED_MESSAGES_PER_CLIENT: usize = 1000;

/// Bytes kept for one client that is away or slow.
pub const MAX_QUEUED_BYTES_PER_CLIENT: usize = 8 << 20;

/// The longest that a session outlives its connection, in seconds.
pub const MAX_SESSION_EXPIRY_SECS: u64 = 3600;
