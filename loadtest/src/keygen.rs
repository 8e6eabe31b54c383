//! Makes a fleet on disk. What is there already is kept, so it can be stopped and repeated, and asked for more devices
//! later: files come to be whole, by renaming.

use std::fs::{self, OpenOptions};
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use indicatif::{ProgressBar, ProgressStyle};
use keyturn_domain::ambient::SystemEntropy;
use keyturn_domain::entropy::Entropy;
use keyturn_domain::ids::DeviceId;
use keyturn_schemas::certificate::DeviceCertificate;
use keyturn_schemas::security_id::RegisteredKey;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::json;

use crate::fleet::{Folder, Manifest, Registered, SEGMENT};

/// Makes what is missing of a fleet of `devices` devices with `keys` keys in `folder`.
pub fn make(folder: &Path, devices: u64, keys: u64) -> Result<()> {
    ensure!(devices > 0 && keys > 0, "a fleet has at least one device and one key");
    let files = Folder(folder.to_owned());
    for part in [folder.to_owned(), folder.join("keys"), folder.join("devices")] {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&part);
        made.with_context(|| format!("{}: the folder cannot be made", part.display()))?;
    }
    let wanted = Manifest { version: 1, keys };
    match files.read_manifest()? {
        Some(there) => ensure!(
            there == wanted,
            "{}: the fleet there has {keys} keys; say --keys {keys}, or choose another folder",
            folder.display(),
            keys = there.keys
        ),
        None => write(&files.manifest(), &serde_json::to_vec(&wanted)?)?,
    }
    let pool = spread(keys, "keys", |number| key(&files, number))?;
    let pool: Vec<KeyPair> = pool
        .iter()
        .map(|der| KeyPair::try_from(der.as_slice()).context("a key of the pool cannot be read"))
        .collect::<Result<_>>()?;
    spread(devices.div_ceil(SEGMENT), "thousands of devices", |number| {
        segment(&files, number, SEGMENT.min(devices - number * SEGMENT), &pool)
    })?;
    import(&files, devices)
}

/// Calls `work` for each number below `count`, on all cores, with a progress bar. The results are in order.
fn spread<T: Send>(count: u64, what: &str, work: impl Fn(u64) -> Result<T> + Sync) -> Result<Vec<T>> {
    let style = ProgressStyle::with_template("{msg} {bar:40} {pos}/{len} {elapsed} (left: {eta})")?;
    let progress = ProgressBar::new(count).with_style(style).with_message(what.to_owned());
    let next = AtomicU64::new(0);
    let take = || -> Result<Vec<(u64, T)>> {
        let mut done = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return Ok(done);
            }
            done.push((number, work(number)?));
            progress.inc(1);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let parts = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(take)).collect();
        let joined = running
            .into_iter()
            .map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        joined.collect::<Result<Vec<_>>>()
    })?;
    progress.finish_and_clear();
    let mut all: Vec<_> = parts.into_iter().flatten().collect();
    all.sort_unstable_by_key(|(number, _)| *number);
    Ok(all.into_iter().map(|(_, made)| made).collect())
}

/// The key of this number as PKCS#8, made if it is missing.
fn key(files: &Folder, number: u64) -> Result<Vec<u8>> {
    let path = files.key(number);
    if let Ok(there) = fs::read(&path) {
        return Ok(there);
    }
    let der = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?.serialize_der();
    write(&path, &der)?;
    Ok(der)
}

/// Brings a segment to `count` devices.
fn segment(files: &Folder, number: u64, count: u64, pool: &[KeyPair]) -> Result<()> {
    let path = files.segment(number);
    let mut devices = if path.exists() { files.read_segment(number)? } else { Vec::new() };
    let count = usize::try_from(count)?;
    if devices.len() >= count {
        return Ok(());
    }
    // Reading a fleet, keys go round in each segment anew.
    for pair in pool.iter().cycle().skip(devices.len()).take(count - devices.len()) {
        devices.push(register(pair)?);
    }
    write(&path, &serde_json::to_vec(&devices)?)
}

fn register(pair: &KeyPair) -> Result<Registered> {
    let entropy: &dyn Entropy = &SystemEntropy;
    let id = DeviceId::from_bytes(entropy.bytes());
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, id.to_string());
    let der = params.self_signed(pair)?.der().to_vec();
    let certificate = DeviceCertificate::from_der(&der)?;
    let key = RegisteredKey { thumbprint: certificate.thumbprint(), key_hash: certificate.key_hash() };
    Ok(Registered { id, certificate: STANDARD.encode(&der), directory_key: key.encode() })
}

/// Writes the list that `keyturn device import` reads, in the shape of Microsoft Graph's.
fn import(files: &Folder, count: u64) -> Result<()> {
    let path = files.import();
    let fresh = path.with_extension("new");
    let mut out = BufWriter::new(create(&fresh)?);
    out.write_all(b"{\"value\":[")?;
    let mut written = 0_u64;
    for number in 0..count.div_ceil(SEGMENT) {
        for device in files.read_segment(number)? {
            let separator: &[u8] = if written == 0 { b"\n" } else { b",\n" };
            out.write_all(separator)?;
            let record = json!({
                "deviceId": device.id, "displayName": format!("LOAD-{written:07}"), "accountEnabled": true,
                "trustType": "AzureAd",
                "alternativeSecurityIds": [{ "type": 2, "key": device.directory_key }],
            });
            serde_json::to_writer(&mut out, &record)?;
            written += 1;
        }
    }
    out.write_all(b"\n]}\n")?;
    out.flush()?;
    fs::rename(&fresh, &path).with_context(|| path.display().to_string())
}

fn create(path: &Path) -> Result<fs::File> {
    let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    opened.with_context(|| format!("{}: cannot be written", path.display()))
}

/// Writes a file whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let fresh = path.with_extension("new");
    create(&fresh)?.write_all(bytes).with_context(|| format!("{}: cannot be written", fresh.display()))?;
    fs::rename(&fresh, path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Fleet;

    #[test]
    fn a_fleet_grows_and_keeps_what_it_has() {
        let folder = tempfile::tempdir().unwrap();
        make(folder.path(), 3, 2).unwrap();
        let small = Fleet::load(folder.path(), 3).unwrap();
        make(folder.path(), 1005, 2).unwrap();
        let large = Fleet::load(folder.path(), 1005).unwrap();
        assert_eq!((large.devices.len(), large.keys), (1005, 2));
        for (before, after) in small.devices.iter().zip(&large.devices) {
            assert!(before.id == after.id && before.certificate == after.certificate);
        }
        // Each certificate is the device's own, and of the key it signs with.
        for device in &large.devices {
            let certificate = DeviceCertificate::from_der(&device.certificate).unwrap();
            assert_eq!(certificate.common_name(), Some(device.id));
            let mut signature = vec![0; device.key.0.public_modulus_len()];
            let (padding, random) =
                (&aws_lc_rs::signature::RSA_PKCS1_SHA256, aws_lc_rs::rand::SystemRandom::new());
            device.key.0.sign(padding, &random, b"text", &mut signature).unwrap();
            let algorithm = keyturn_schemas::certificate::DeviceAlgorithm::RS256;
            assert!(certificate.verifies(algorithm, b"text", &signature));
        }
        let imported: serde_json::Value =
            serde_json::from_slice(&fs::read(folder.path().join("import.json")).unwrap()).unwrap();
        let ids =
            imported["value"].as_array().unwrap().iter().map(|device| device["deviceId"].as_str().unwrap());
        assert!(ids.eq(large.devices.iter().map(|device| device.id.to_string())));
        assert!(make(folder.path(), 3, 5).unwrap_err().to_string().contains("--keys 2"));
        assert!(Fleet::load(folder.path(), 1006).is_err(), "there are no more than were made");
    }
}
