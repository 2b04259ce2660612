//! Golden bytes, round trips and damage of rows.

use super::*;

fn id() -> RequestId {
    RequestId::from_bytes([7; 16])
}

fn expiry() -> Expiry {
    Expiry { boot: BootId(10), at: Duration::new(11, 12), left: Duration::new(13, 14) }
}

fn account() -> Account {
    Account { serial: 1, barrier: 2, next: 3, live: 4, sum: 5 }
}

fn waiting() -> Row {
    let head = Head { id: id(), digest: Digest([9; 32]), bytes: 6, attempts: 2, placed: true, expiry: expiry() };
    Row { number: 1, state: State::Waiting(head), body: Body { length: 15, crc: 16, file: None, lost: false } }
}

fn ended(how: How) -> Row {
    let head = ResultHead { id: id(), digest: Digest([9; 32]), bytes: 15, fetched: true, expiry: expiry() };
    Row { number: 1, state: State::Ended(head, how), body: Body { file: Some([3; 32]), lost: true, ..waiting().body } }
}

#[test]
fn a_row_survives_the_round_trip() {
    let poisoned = How::Poisoned { attempts: 2 };
    for row in [waiting(), ended(How::Answered), ended(poisoned), ended(How::Damaged)] {
        assert_eq!(decode(&row.encode(&account())), Some(Record::Row(row, account())));
    }
    assert_eq!(decode(&account().encode()), Some(Record::Account(account())));
    assert_eq!(decode(&gone(1, &id(), &account())), Some(Record::Gone(1, id(), account())));
}

#[test]
fn the_layout_is_the_one_drawn_above() {
    let mut golden = b"hob1".to_vec();
    golden.extend_from_slice(&[1, 1, 2, 0, 160, 0, 0, 0]);
    golden.extend_from_slice(&GOLDEN_CRC);
    golden.extend_from_slice(&1_u64.to_le_bytes());
    golden.extend_from_slice(&[7; 16]);
    [1_u64, 2, 3, 4, 5].iter().for_each(|count| golden.extend_from_slice(&count.to_le_bytes()));
    golden.extend_from_slice(&[9; 32]);
    golden.extend_from_slice(&6_u64.to_le_bytes());
    golden.extend_from_slice(&10_u64.to_le_bytes());
    for (secs, nanos) in [(11_u64, 12_u32), (13, 14)] {
        golden.extend_from_slice(&secs.to_le_bytes());
        golden.extend_from_slice(&nanos.to_le_bytes());
    }
    golden.extend_from_slice(&15_u64.to_le_bytes());
    golden.extend_from_slice(&16_u32.to_le_bytes());
    golden.resize(ROW, 0);
    assert_eq!(waiting().encode(&account()), golden);
}

#[test]
fn a_truncated_flipped_or_longer_row_is_damage() {
    let bytes = waiting().encode(&account());
    for length in 0..bytes.len() {
        assert_eq!(decode(&bytes[..length]), None, "{length} bytes");
    }
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(decode(&flipped), None, "bit {bit}");
    }
    assert_eq!(decode(&[&bytes[..], &[0]].concat()), None);
}

#[test]
fn nonsense_under_a_right_checksum_is_damage() {
    let nanoseconds = 136;
    for (at, nonsense) in [(4, 9), (7, 9), (nanoseconds + 3, 255)] {
        let mut forged = ended(How::Answered).encode(&account());
        forged[at] = nonsense;
        seal(&Key::Row(1), &mut forged);
        assert_eq!(decode(&forged), None, "byte {at}");
    }
}

// CRC-32C of the key and the row drawn above, from an implementation of its own.
const GOLDEN_CRC: [u8; 4] = [52, 95, 72, 223];
