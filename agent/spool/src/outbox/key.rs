//! The keys of the outbox's database. Numbers are big-endian, so that requests lie in the order in which they were accepted.
//!
//! ```text
//! 00                              the account (row.rs)
//! 01 | u64 number                 the row of a request (row.rs), once it changed since it was accepted
//! 02 | u64 number | u16 part      a part of its payload (part.rs), behind the last one its row as it was accepted
//! 03 | u64 number | u16 part      a part of its answer (part.rs)
//! ```

use crate::tensors::array;

/// Where something lies in the database.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Key {
    Account,
    Row(u64),
    Part(Side, u64, u16),
}

/// Which body of a request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Side {
    Payload,
    Answer,
}

impl Key {
    pub(super) fn bytes(&self) -> Vec<u8> {
        match *self {
            Self::Account => vec![0],
            Self::Row(number) => [&[1][..], &number.to_be_bytes()].concat(),
            Self::Part(side, number, part) => {
                let first = if side == Side::Payload { 2 } else { 3 };
                [&[first][..], &number.to_be_bytes(), &part.to_be_bytes()].concat()
            }
        }
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        match (bytes.first()?, bytes.len()) {
            (0, 1) => Some(Self::Account),
            (1, 9) => Some(Self::Row(u64::from_be_bytes(array(&bytes[1..])))),
            (kind @ (2 | 3), 11) => {
                let side = if *kind == 2 { Side::Payload } else { Side::Answer };
                let number = u64::from_be_bytes(array(&bytes[1..9]));
                Some(Self::Part(side, number, u16::from_be_bytes(array(&bytes[9..]))))
            }
            _ => None,
        }
    }
}
