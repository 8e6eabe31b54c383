//! A fleet on disk: a few RSA keys, and for each device an id and a certificate of its own. Keys take a tenth of a
//! second to make and certificates a quarter of a millisecond, so devices share keys: device n has key n modulo the
//! number of keys. A lane is (device, account, installation, key), so each device still has a lane of its own; what
//! the server keeps by key alone (admission, marks) sees fewer keys than devices, and reports say so.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::rsa::KeyPair;
use keyturn_domain::ids::DeviceId;
use serde::{Deserialize, Serialize};

/// Devices in one file.
pub(crate) const SEGMENT: u64 = 1000;

/// What a fleet's folder says of itself.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    /// The format: 1.
    pub(crate) version: u8,
    /// RSA keys in the pool.
    pub(crate) keys: u64,
}

/// A device as its segment's file has it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Registered {
    pub(crate) id: DeviceId,
    /// Its certificate: DER in base64.
    pub(crate) certificate: String,
    /// How the directory writes its key: `alternativeSecurityIds.key`.
    pub(crate) directory_key: String,
}

/// The files of a fleet.
#[derive(Clone, Debug)]
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn manifest(&self) -> PathBuf {
        self.0.join("fleet.json")
    }

    pub(crate) fn key(&self, number: u64) -> PathBuf {
        self.0.join("keys").join(format!("{number:04}.p8"))
    }

    pub(crate) fn segment(&self, number: u64) -> PathBuf {
        self.0.join("devices").join(format!("{number:06}.json"))
    }

    /// What `keyturn device import` reads.
    pub(crate) fn import(&self) -> PathBuf {
        self.0.join("import.json")
    }

    pub(crate) fn read_manifest(&self) -> Result<Option<Manifest>> {
        let path = self.manifest();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        let manifest: Manifest =
            serde_json::from_str(&text).with_context(|| format!("{}: not a fleet's", path.display()))?;
        ensure!(manifest.version == 1, "{}: version {} is not 1", path.display(), manifest.version);
        Ok(Some(manifest))
    }

    pub(crate) fn read_segment(&self, number: u64) -> Result<Vec<Registered>> {
        let path = self.segment(number);
        let text = fs::read_to_string(&path).with_context(|| {
            format!("{}: cannot be read; `keyturn-loadtest keygen` makes what is missing", path.display())
        })?;
        let devices: Vec<Registered> =
            serde_json::from_str(&text).with_context(|| format!("{}: not a segment", path.display()))?;
        Ok(devices)
    }
}

/// A key that devices share.
pub struct SharedKey(pub(crate) KeyPair);

/// Who a device is.
pub struct Identity {
    /// As the directory numbers it.
    pub id: DeviceId,
    /// Its certificate, in DER.
    pub certificate: Box<[u8]>,
    /// Its key.
    pub key: Arc<SharedKey>,
}

/// The devices of a folder.
pub struct Fleet {
    /// Who they are.
    pub devices: Vec<Identity>,
    /// How many keys they share.
    pub keys: u64,
    /// What `keyturn device import` reads. It may name more devices than these.
    pub import: PathBuf,
}

impl Fleet {
    /// Reads the first `count` devices of a folder.
    pub fn load(folder: &Path, count: u64) -> Result<Self> {
        use base64::Engine as _;
        let files = Folder(folder.to_owned());
        let manifest = files.read_manifest()?;
        let manifest = manifest.with_context(|| {
            format!("{}: no fleet; make one with `keyturn-loadtest keygen`", folder.display())
        })?;
        let keys =
            (0..manifest.keys).map(|number| read_key(&files.key(number))).collect::<Result<Vec<_>>>()?;
        let mut devices = Vec::new();
        for number in 0..count.div_ceil(SEGMENT) {
            for (registered, key) in files.read_segment(number)?.into_iter().zip(keys.iter().cycle()) {
                let certificate =
                    base64::engine::general_purpose::STANDARD.decode(&registered.certificate).with_context(
                        || format!("{}: a certificate of no base64", files.segment(number).display()),
                    )?;
                devices.push(Identity {
                    id: registered.id,
                    certificate: certificate.into(),
                    key: Arc::clone(key),
                });
            }
        }
        let have = u64::try_from(devices.len())?;
        ensure!(
            have >= count,
            "{}: {have} devices, {count} are needed; `keyturn-loadtest keygen --devices {count}` adds to them",
            folder.display()
        );
        devices.truncate(usize::try_from(count)?);
        Ok(Self { devices, keys: manifest.keys, import: files.import() })
    }
}

fn read_key(path: &Path) -> Result<Arc<SharedKey>> {
    let der = fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let pair = KeyPair::from_pkcs8(&der).map_err(|why| anyhow::anyhow!("{}: {why}", path.display()))?;
    Ok(Arc::new(SharedKey(pair)))
}
