//! The links of the audit's chain: the same in every engine, so that a chain can be moved from one to another.
//!
//! # The hash of a row
//! SHA-256 over the hash of the row before it (32 bytes, all zero for the first) and then these parts, each
//! preceded by its length in four bytes, big endian: the text `keyturn audit v1`; `seq` and `at` (milliseconds
//! since the Unix epoch) in eight bytes each, big endian; `actor`; `action`, as it is serialised; the 16 bytes of
//! `device`, or nothing; `reason`; `detail`. Texts are UTF-8.
//!
//! The chain shows that a row was altered, inserted or taken from the middle. It cannot show that its end was cut
//! off, or that somebody with the database wrote all of it anew: for that the newest hash has to be kept elsewhere.

use sha2::{Digest, Sha256};

use super::NewRow;

/// SHA-256.
pub type Hash = [u8; 32];

/// What the first row follows.
pub const START: Hash = [0; 32];

/// The hash of a row at place `seq` after the row with the hash `previous`. The parts are those of the module's
/// documentation, in its order; each has its length in front, so that no two rows have the same bytes.
pub fn link(previous: &Hash, seq: u64, row: &NewRow, action: &str) -> Hash {
    let device = row.device.map(|device| *device.as_bytes());
    let parts: [&[u8]; 8] = [
        b"keyturn audit v1",
        &seq.to_be_bytes(),
        &row.at.0.to_be_bytes(),
        row.actor.as_bytes(),
        action.as_bytes(),
        device.as_ref().map_or(&[], |bytes| bytes.as_slice()),
        row.reason.as_bytes(),
        row.detail.as_bytes(),
    ];
    let mut hash = Sha256::new_with_prefix(previous);
    for part in parts {
        hash.update(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// Lower-case hexadecimal.
pub fn hexadecimal(hash: &Hash) -> String {
    let mut text = String::with_capacity(2 * hash.len());
    for digit in hash.iter().flat_map(|byte| [byte >> 4, byte & 0xf]) {
        text.extend(char::from_digit(u32::from(digit), 16));
    }
    text
}
