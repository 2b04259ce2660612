//! The ids of a durable request: its own, which its caller chose, those of its rows, and those by which gateways know these.
//!
//! ```text
//! row      the first 16 bytes of SHA-256("hedge durable row/1" 0x00 | row, u32 big-endian | the request's id)
//! on wire  the first 16 bytes of SHA-256("hedge durable query/1" 0x00 | the row's id | the digest of its payload)
//! ```
//!
//! The id on the wire depends on the payload as well: a gateway remembers replies by it, and an id that a caller uses again for
//! something else, after its first result was dropped here, must not get the first one's.

use hedge_wire::{Digest, RequestId};

const ROW: &[u8] = b"hedge durable row/1\0";
const QUERY: &[u8] = b"hedge durable query/1\0";

/// The id of one row of the request of this id.
pub(crate) fn row_id(request: &str, row: u32) -> RequestId {
    first_half(&[ROW, &row.to_be_bytes(), request.as_bytes()])
}

/// The id by which a gateway knows a row.
pub(super) fn query_id(row: &RequestId, payload: &Digest) -> RequestId {
    first_half(&[QUERY, row.as_bytes(), payload.as_bytes()])
}

fn first_half(parts: &[&[u8]]) -> RequestId {
    let Digest(digest) = Digest::of(&parts.concat());
    RequestId::from_bytes(*digest.first_chunk().expect("a digest has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_the_same_for_ever_and_differ_by_request_row_and_payload() {
        let (row, digest) = (row_id("order-7", 0), Digest::of(b"payload"));
        let ids = [
            row,
            row_id("order-7", 1),
            row_id("order-8", 0),
            query_id(&row, &digest),
            query_id(&row, &Digest::of(b"other")),
            query_id(&row_id("order-7", 1), &digest),
        ];
        let distinct: std::collections::HashSet<_> = ids.iter().map(RequestId::as_bytes).collect();
        assert_eq!(distinct.len(), ids.len());
        // What is on the disks of devices must be found again by later versions.
        assert_eq!(hex(&row), "043e34ce2a785aac622446182fc66312");
        assert_eq!(hex(&ids[3]), "0aadbdd430c5b9db87276a4bb4b3d9bc");
    }

    fn hex(id: &RequestId) -> String {
        id.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
