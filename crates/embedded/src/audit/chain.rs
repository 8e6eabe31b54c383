//! The links of the audit's chain.

use keyturn_ports::audit::NewRow;
use sha2::{Digest, Sha256};

/// SHA-256.
pub(super) type Hash = [u8; 32];

/// What the first row follows.
pub(super) const START: Hash = [0; 32];

/// The hash of a row at place `seq` after the row with the hash `previous`. The parts are those of the module's
/// documentation, in its order; each has its length in front, so that no two rows have the same bytes.
pub(super) fn link(previous: &Hash, seq: u64, row: &NewRow, action: &str) -> Hash {
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
pub(super) fn hexadecimal(hash: &Hash) -> String {
    let mut text = String::with_capacity(2 * hash.len());
    for digit in hash.iter().flat_map(|byte| [byte >> 4, byte & 0xf]) {
        text.extend(char::from_digit(u32::from(digit), 16));
    }
    text
}
