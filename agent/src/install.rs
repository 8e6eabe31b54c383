//! The installation's id: a random value on disk and the machine's SMBIOS UUID, hashed together. A disk image
//! that is copied to another machine gets another id, and so a lane of its own.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyturn_domain::entropy::Entropy;
use keyturn_domain::ids::InstallId;
use keyturn_domain::time::UnixMillis;
use sha2::{Digest, Sha256};

use crate::{disk, events};

const LABEL: &[u8] = b"keyturn install v1";

/// The random value of one installation.
type Seed = [u8; 32];

/// Reads the installation's id, and makes it at the first start. `machine` is the SMBIOS UUID, where the agent
/// may read it.
pub fn load(
    folder: &Path,
    machine: Option<&str>,
    entropy: &dyn Entropy,
    now: UnixMillis,
) -> Result<InstallId, disk::Error> {
    let path = folder.join("install");
    let known = disk::read(&path)?;
    if let Some(seed) = known.as_deref().and_then(parse) {
        return Ok(id(&seed, machine));
    }
    if known.is_some() {
        events::install_corrupt(&disk::set_aside(&path, now)?);
    }
    let seed: Seed = entropy.bytes();
    disk::replace(&path, format!("{}\n", URL_SAFE_NO_PAD.encode(seed)).as_bytes())?;
    Ok(id(&seed, machine))
}

fn parse(content: &[u8]) -> Option<Seed> {
    URL_SAFE_NO_PAD.decode(content.trim_ascii()).ok()?.try_into().ok()
}

/// SHA-256 over the label, the random value and the UUID in lower case, each preceded by its length in two
/// bytes, big endian. A machine whose UUID cannot be read has an empty one.
fn id(seed: &Seed, machine: Option<&str>) -> InstallId {
    let machine = machine.unwrap_or_default().trim().to_ascii_lowercase();
    let mut hash = Sha256::new();
    for part in [LABEL, seed, machine.as_bytes()] {
        hash.update(u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
        hash.update(part);
    }
    InstallId(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use keyturn_domain::ambient::SystemEntropy;

    use super::*;

    #[test]
    fn an_installation_keeps_its_id_and_a_copied_disk_gets_another() {
        let folder = tempfile::tempdir().unwrap();
        let load = |machine| load(folder.path(), machine, &SystemEntropy, UnixMillis(1)).unwrap();
        let first = load(Some("4C4C4544-0042"));
        assert_eq!(load(Some("4c4c4544-0042\n")), first, "case and space do not matter");
        assert_ne!(load(Some("4c4c4544-0043")), first);
        assert_ne!(load(None), first);
    }

    #[test]
    fn a_damaged_seed_is_kept_aside_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("install"), "garbage").unwrap();
        let load = || load(folder.path(), None, &SystemEntropy, UnixMillis(5)).unwrap();
        assert_eq!(load(), load());
        assert!(folder.path().join("install.corrupt-5").exists());
    }
}
