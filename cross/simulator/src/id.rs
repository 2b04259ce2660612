//! Request ids that say whose they are.
//!
//! ```text
//! kind (1 byte) | 0 | device (2 bytes) | number (4 bytes) | 8 zero bytes
//! ```

use hedge_wire::RequestId;

/// What a request is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Durable = 1,
    Plain = 2,
    Audit = 3,
}

pub(crate) fn id(kind: Kind, device: u16, number: u32) -> RequestId {
    let mut bytes = [0; 16];
    bytes[0] = kind as u8;
    bytes[2..4].copy_from_slice(&device.to_be_bytes());
    bytes[4..8].copy_from_slice(&number.to_be_bytes());
    RequestId::from_bytes(bytes)
}

/// The number of a durable or plain request.
pub(crate) fn number(id: &RequestId) -> u16 {
    let bytes = id.as_bytes();
    u16::from_be_bytes([bytes[6], bytes[7]])
}

pub(crate) fn kind(id: &RequestId) -> Kind {
    match id.as_bytes()[0] {
        1 => Kind::Durable,
        2 => Kind::Plain,
        _ => Kind::Audit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_says_whose_it_is() {
        let id = id(Kind::Plain, 300, 777);
        assert_eq!((kind(&id), number(&id)), (Kind::Plain, 777));
    }
}
