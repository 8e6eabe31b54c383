//! The devices of `keyturn-loadtest keygen`, and what they send to a service in the shape of CloudLAPS.

use std::path::Path;
use std::process::{Command, Stdio};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;

use crate::Result;

/// RSA keys that all devices share.
const KEYS: u64 = 16;

/// Devices in one file.
const SEGMENT: u64 = 1000;

/// A device as the fleet's files and the directory have it.
#[derive(Deserialize)]
pub struct Registered {
    /// Its id.
    pub id: String,
    certificate: String,
    /// `alternativeSecurityIds.key`.
    pub directory_key: String,
}

/// Makes a fleet.
pub fn make(programs: &Path, folder: &Path, devices: u64) -> Result<()> {
    let program = programs.join("keyturn-loadtest");
    let mut command = Command::new(&program);
    command
        .args(["keygen", "--devices", &devices.to_string(), "--keys", &KEYS.to_string(), "--out"])
        .arg(folder);
    let output = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| format!("{}: {error}; ./bench --whole builds it", program.display()))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().into()) }
}

/// Reads the devices of a fleet.
pub fn read(folder: &Path, devices: u64) -> Result<Vec<Registered>> {
    let mut all: Vec<Registered> = Vec::new();
    for number in 0..devices.div_ceil(SEGMENT) {
        let path = folder.join("devices").join(format!("{number:06}.json"));
        all.extend(serde_json::from_slice::<Vec<Registered>>(&std::fs::read(path)?)?);
    }
    if (all.len() as u64) < devices {
        return Err(format!("{} devices, {devices} are needed", all.len()).into());
    }
    all.truncate(devices as usize);
    Ok(all)
}

/// The body of each device's POST, as `Remediate.ps1` makes it. The serial number is the device's place in the fleet.
pub fn bodies(folder: &Path, devices: &[Registered]) -> Result<Vec<String>> {
    let key = |number| -> Result<RsaKeyPair> {
        let path = folder.join("keys").join(format!("{number:04}.p8"));
        Ok(RsaKeyPair::from_pkcs8(&std::fs::read(path)?).map_err(|why| why.to_string())?)
    };
    let keys = (0..KEYS).map(key).collect::<Result<Vec<_>>>()?;
    let random = SystemRandom::new();
    let body = |(place, device): (usize, &Registered)| -> Result<String> {
        // Keys go round in each file anew.
        let key = &keys[place % SEGMENT as usize % KEYS as usize];
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(&RSA_PKCS1_SHA256, &random, device.id.as_bytes(), &mut signature)
            .map_err(|_| "a key does not sign")?;
        let certificate = STANDARD.decode(&device.certificate)?;
        let thumbprint = digest(&SHA1_FOR_LEGACY_USE_ONLY, &certificate);
        let hex: String = thumbprint.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
        let body = json!({
            "DeviceName": format!("LOAD-{place}"), "DeviceID": device.id, "SerialNumber": serial(place), "Type": "NonVM",
            "Signature": STANDARD.encode(signature), "Thumbprint": hex,
            "PublicKey": STANDARD.encode(key.public_key().as_ref()), "ContentType": "Local Administrator",
            "UserName": "localadmin", "SecretUpdateOverride": false,
        });
        Ok(body.to_string())
    };
    devices.iter().enumerate().map(body).collect()
}

/// The name of a device's secret.
pub fn serial(place: usize) -> String {
    format!("SN{place}")
}
