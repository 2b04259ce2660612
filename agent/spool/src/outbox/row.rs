//! The bytes of what the outbox knows of one request, beside its payload or its answer: a row.
//!
//! ```text
//! offset  size  field                                    integers little-endian
//!      0     4  "hob1", by which values are found in the raw bytes of a database that does not open
//!      4     1  kind: 0 account, 1 waiting, 2 ended, 3 gone (account and gone: all after the account is 0)
//!      5     1  flags: 1 placed (waiting), 2 fetched (ended), 4 the body is lost
//!      6     1  attempts (waiting, and ended as poisoned)
//!      7     1  ended how: 0 answered, 1 poisoned, 2 damaged
//!      8     4  bytes after these 40 = 160
//!     12     4  CRC32C of the key, then of this value with these four bytes left out
//!     16     8  number: the order of acceptance, dense from 0
//!     24    16  request id
//!     40    40  the account after this change: serial, barrier, next, live, sum (8 each)
//!     80    32  digest of the payload, as the outbox was told it
//!    112     8  bytes of the payload, likewise
//!    120     8  boot
//!    128    12  expiry on that boot's clock: u64 seconds, u32 nanoseconds
//!    140    12  what was left of it when this was written
//!    152     8  body: bytes of the payload (waiting) or of the answer (ended)
//!    160     4  body: its CRC32C
//!    164    32  body: its SHA-256, where it lies in a file of that name; else 0
//!    196     4  0
//! ```
//!
//! The same bytes lie in the database, behind the last part of the payload (part.rs) or under the key of the row, and as one record
//! in the ledger.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _};
use hedge_agent_core::outbox::{Expiry, Head, ResultHead};
use hedge_wire::{BootId, Digest, RequestId};

use super::key::Key;
use crate::tensors::array;

/// What values of the outbox begin with.
pub(super) const MAGIC: &[u8; 4] = b"hob1";
/// Bytes before what a value is about, in rows and in parts.
pub(super) const HEADER: usize = 40;
/// Bytes of a row.
pub(super) const ROW: usize = 200;

const ACCOUNT: u8 = 0;
const WAITING: u8 = 1;
const ENDED: u8 = 2;
const GONE: u8 = 3;
const PLACED: u8 = 1;
const FETCHED: u8 = 2;
const LOST: u8 = 4;
const ANSWERED: u8 = 0;
const POISONED: u8 = 1;
const DAMAGED: u8 = 2;

/// What each row says of all rows: the newest one tells what must be there.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Account {
    /// Counts changes.
    pub(super) serial: u64,
    /// Counts barriers: the one that this change was to survive by.
    pub(super) barrier: u64,
    /// The number of the next request.
    pub(super) next: u64,
    /// How many rows there are.
    pub(super) live: u64,
    /// The sum of their numbers, which names a single row that is missing.
    pub(super) sum: u64,
}

/// What is known of one request.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Row {
    pub(super) number: u64,
    pub(super) state: State,
    pub(super) body: Body,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) enum State {
    Waiting(Head),
    Ended(ResultHead, How),
}

/// How a request ended; an answer is the row's body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum How {
    Answered,
    Poisoned { attempts: u8 },
    Damaged,
}

/// A payload or an answer, without its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Body {
    pub(super) length: u64,
    pub(super) crc: u32,
    /// The name of the file that it lies in; none where it lies in the database.
    pub(super) file: Option<[u8; 32]>,
    /// It was there and is no more.
    pub(super) lost: bool,
}

/// What a checked value is.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Record {
    Account(Account),
    Row(Row, Account),
    /// This request is no more.
    Gone(u64, RequestId, Account),
}

impl Row {
    pub(super) fn id(&self) -> RequestId {
        match &self.state {
            State::Waiting(head) => head.id,
            State::Ended(head, _) => head.id,
        }
    }

    /// The row's bytes, under its key.
    pub(super) fn encode(&self, account: &Account) -> Vec<u8> {
        let lost = if self.body.lost { LOST } else { 0 };
        let (kind, flags, attempts, how) = match &self.state {
            State::Waiting(head) => (WAITING, u8::from(head.placed) * PLACED, head.attempts, 0),
            State::Ended(head, how) => {
                let (how, attempts) = match how {
                    How::Answered => (ANSWERED, 0),
                    How::Poisoned { attempts } => (POISONED, *attempts),
                    How::Damaged => (DAMAGED, 0),
                };
                (ENDED, u8::from(head.fetched) * FETCHED, attempts, how)
            }
        };
        let mut out = header([kind, flags | lost, attempts, how], self.number, &self.id(), account);
        let (digest, bytes, expiry) = match &self.state {
            State::Waiting(head) => (&head.digest, head.bytes, &head.expiry),
            State::Ended(head, _) => (&head.digest, 0, &head.expiry),
        };
        out.put_slice(digest.as_bytes());
        out.put_u64_le(bytes);
        out.put_u64_le(expiry.boot.0);
        put_duration(&mut out, expiry.at);
        put_duration(&mut out, expiry.left);
        out.put_u64_le(self.body.length);
        out.put_u32_le(self.body.crc);
        out.put_slice(&self.body.file.unwrap_or_default());
        sealed(&Key::Row(self.number), out)
    }
}

impl Account {
    /// The bytes of the account alone, under its own key.
    pub(super) fn encode(&self) -> Vec<u8> {
        sealed(&Key::Account, header([ACCOUNT, 0, 0, 0], 0, &RequestId::from_bytes([0; 16]), self))
    }
}

/// The bytes of the record that a request is gone.
pub(super) fn gone(number: u64, id: &RequestId, account: &Account) -> Vec<u8> {
    sealed(&Key::Row(number), header([GONE, 0, 0, 0], number, id, account))
}

/// What a value says, which names its own key; none if it is damaged.
pub(super) fn decode(value: &[u8]) -> Option<Record> {
    if value.len() != ROW || value[..4] != *MAGIC || value[8..12] != ((ROW - HEADER) as u32).to_le_bytes() {
        return None;
    }
    let [kind, flags, attempts, how] = array(&value[4..8]);
    let number = u64::from_le_bytes(array(&value[16..24]));
    let key = if kind == ACCOUNT { Key::Account } else { Key::Row(number) };
    if value[12..16] != checksum(&key, value).to_le_bytes() {
        return None;
    }
    let id = RequestId::from_bytes(array(&value[24..40]));
    let mut rest = &value[HEADER..];
    let account = Account {
        serial: rest.get_u64_le(),
        barrier: rest.get_u64_le(),
        next: rest.get_u64_le(),
        live: rest.get_u64_le(),
        sum: rest.get_u64_le(),
    };
    let digest = Digest(take(&mut rest));
    let bytes = rest.get_u64_le();
    let boot = BootId(rest.get_u64_le());
    let expiry = Expiry { boot, at: take_duration(&mut rest)?, left: take_duration(&mut rest)? };
    let (length, crc, file) = (rest.get_u64_le(), rest.get_u32_le(), take(&mut rest));
    let body = Body { length, crc, file: (file != [0; 32]).then_some(file), lost: flags & LOST != 0 };
    let state = match kind {
        ACCOUNT => return Some(Record::Account(account)),
        GONE => return Some(Record::Gone(number, id, account)),
        WAITING => State::Waiting(Head { id, digest, bytes, attempts, placed: flags & PLACED != 0, expiry }),
        ENDED => {
            let how = match how {
                ANSWERED => How::Answered,
                POISONED => How::Poisoned { attempts },
                DAMAGED => How::Damaged,
                _ => return None,
            };
            State::Ended(ResultHead { id, digest, bytes: length, fetched: flags & FETCHED != 0, expiry }, how)
        }
        _ => return None,
    };
    Some(Record::Row(Row { number, state, body }, account))
}

fn header([kind, flags, attempts, how]: [u8; 4], number: u64, id: &RequestId, account: &Account) -> Vec<u8> {
    let mut out = Vec::with_capacity(ROW);
    out.put_slice(MAGIC);
    out.put_slice(&[kind, flags, attempts, how]);
    out.put_u32_le((ROW - HEADER) as u32);
    out.put_u32_le(0);
    out.put_u64_le(number);
    out.put_slice(id.as_bytes());
    for count in [account.serial, account.barrier, account.next, account.live, account.sum] {
        out.put_u64_le(count);
    }
    out
}

fn sealed(key: &Key, mut value: Vec<u8>) -> Vec<u8> {
    value.resize(ROW, 0);
    seal(key, &mut value);
    value
}

/// Writes a value's checksum into it.
pub(super) fn seal(key: &Key, value: &mut [u8]) {
    let crc = checksum(key, value);
    value[12..16].copy_from_slice(&crc.to_le_bytes());
}

/// CRC32C of the key, then of a value without its own four bytes.
pub(super) fn checksum(key: &Key, value: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&key.bytes()), &value[..12]);
    crc32c::crc32c_append(crc, &value[16..])
}

fn put_duration(out: &mut Vec<u8>, duration: Duration) {
    out.put_u64_le(duration.as_secs());
    out.put_u32_le(duration.subsec_nanos());
}

fn take_duration(rest: &mut &[u8]) -> Option<Duration> {
    let (secs, nanos) = (rest.get_u64_le(), rest.get_u32_le());
    (nanos < 1_000_000_000).then(|| Duration::new(secs, nanos))
}

fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let taken = array(&rest[..N]);
    rest.advance(N);
    taken
}

#[cfg(test)]
mod tests;
