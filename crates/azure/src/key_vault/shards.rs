//! Which of several vaults a device belongs to: rendezvous hashing.
//!
//! Each vault draws a number from its name and the device; the highest one has the device. So the order of the list
//! does not matter, devices spread evenly, and a vault more or less moves only the devices that are, or were, its own.
//! Versions that lie elsewhere stay there: the ledger knows where each one is.

use aws_lc_rs::digest::{Context, SHA256};
use keyturn_domain::ids::DeviceId;

/// What keeps these numbers apart from other hashes over the same bytes.
const LABEL: &[u8] = b"keyturn key-vault 1\0";

/// The one of `vaults` that has `device`; none if there are none.
pub(super) fn chosen<'a, V>(
    vaults: impl IntoIterator<Item = &'a V>,
    host: impl Fn(&V) -> &str,
    device: DeviceId,
) -> Option<&'a V> {
    vaults.into_iter().max_by_key(|vault| drawn(host(vault), device))
}

fn drawn(host: &str, device: DeviceId) -> [u8; 32] {
    let mut hash = Context::new(&SHA256);
    for part in [LABEL, device.as_bytes(), host.as_bytes()] {
        hash.update(part);
    }
    let digest = hash.finish();
    digest.as_ref().try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use keyturn_domain::ids::DeviceId;

    use super::chosen;

    fn of(vaults: &[&'static str], n: u32) -> &'static str {
        let mut bytes = [7; 16];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        chosen(vaults, |vault| vault, DeviceId::from_bytes(bytes)).unwrap()
    }

    const THREE: [&str; 3] = ["a.vault.azure.net", "b.vault.azure.net", "c.vault.azure.net"];

    #[test]
    fn the_mapping_is_what_it_was() {
        // Computed apart from this code, in Python: a change of it would look for versions in the wrong vault.
        let first: String = (0..12).map(|n| of(&THREE, n).chars().next().unwrap()).collect();
        assert_eq!(first, "bcaaacbacbac");
        let turned = [THREE[2], THREE[0], THREE[1]];
        assert!((0..1000).all(|n| of(&THREE, n) == of(&turned, n)));
    }

    #[test]
    fn devices_spread_and_few_move() {
        let of_first = (0..3000).filter(|n| of(&THREE, *n) == THREE[0]).count();
        assert!((900..1100).contains(&of_first), "{of_first}");
        assert!(
            (0..3000).filter(|n| of(&THREE, *n) != THREE[2]).all(|n| of(&THREE, n) == of(&THREE[..2], n))
        );
    }
}
