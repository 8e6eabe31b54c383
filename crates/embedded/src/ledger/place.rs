//! Where a device's lanes are: 52 bits of a hash of its id and 11 bits that count, as the number of a row.
//!
//! Rows of one device are neighbours, on one page or two, and found by one walk down a tree whose inner pages are
//! numbers alone. Hashing spreads ids that a directory gave out in a row. Devices that share their 52 bits share
//! their places as well, so every look compares the id.

use std::ops::RangeInclusive;

use keyturn_domain::ids::DeviceId;
use sha2::{Digest as _, Sha256};

const COUNTED: u32 = 11;

/// The numbers that lanes of a device may have.
pub(super) fn of(device: DeviceId) -> RangeInclusive<i64> {
    let digest: [u8; 32] =
        Sha256::new_with_prefix(b"keyturn place v1").chain_update(device.as_bytes()).finalize().into();
    let first = digest.iter().take(8).fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
    let first = i64::try_from(first >> (COUNTED + 1) << COUNTED).unwrap_or(0);
    first..=first + (1 << COUNTED) - 1
}
