//! The break-glass export: the passwords that devices may have now, sealed so that only a key that is kept offline opens
//! them. With the file and that key a help desk works on when the deployment, its vault and its database are gone.
//!
//! A line is JSON. The first is a [`Start`], the last an [`End`]. Each between is a version: `head`, base64url of the JSON
//! of [`Head`]; `enc` and `ct`, base64url of an HPKE seal as in [`crate::recovery`]. `info` is the label `keyturn export
//! v1`, the export's id, the lane and the version, each preceded by its length in two bytes, big endian; `aad` is the
//! bytes of `head`. So no password fits another line, and no line another export.
//!
//! The public key makes nobody known: whoever has it can write such a file. An export is worth what the way is worth on
//! which it came. That it was cut off shows by its end.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyturn_domain::ids::{DeviceId, EventId, LaneId, VersionId};
use keyturn_domain::password::Password;
use keyturn_domain::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::claims::Version1;
use crate::recovery::{LineError, RecoveryPublic, RecoverySecret};
use crate::seal::{SealError, info};

const LABEL: &[u8] = b"keyturn export v1";

/// What an export is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// 1.
    pub keyturn_export: Version1,
    /// Its id, drawn at random.
    pub export: EventId,
    /// The deployment.
    pub deployment: String,
    /// When it was begun.
    pub at_ms: UnixMillis,
    /// The fingerprint of the key that it is sealed to.
    pub sealed_to: String,
}

/// How sure it is that a device uses a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sure {
    /// The device said so.
    Confirmed,
    /// It was sent, and the device has not said anything since.
    Pending,
    /// The device could not say for certain.
    InDoubt,
}

/// What a line says in the clear.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// 1.
    pub v: Version1,
    /// Its place among the versions of the export, from 1.
    pub number: u64,
    /// The device.
    pub device_id: DeviceId,
    /// The lane.
    pub lane: LaneId,
    /// The version.
    pub version: VersionId,
    /// How sure it is that it is in use.
    pub sure: Sure,
    /// The account's name.
    pub user_name: String,
    /// The device's name.
    pub device_name: String,
    /// The device's serial number.
    pub serial_number: String,
}

/// That an export is whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// The export's id.
    pub end: EventId,
    /// How many versions it has.
    pub versions: u64,
    /// How many it should have, and the vault did not have them.
    pub missing: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    head: String,
    enc: String,
    ct: String,
}

/// A line of an export, understood.
#[derive(Debug)]
pub enum Read {
    /// A version.
    Version(Box<Head>, Password),
    /// The end.
    End(End),
}

/// The line of a version, without the line's end.
///
/// # Errors
/// [`SealError`] if the password cannot be sealed to this key.
pub fn seal(
    key: &RecoveryPublic,
    export: EventId,
    head: &Head,
    password: &Password,
) -> Result<String, SealError> {
    let text = serde_json::to_vec(head).map_err(|_| SealError::Seal)?;
    let (enc, ct) = key.seal_bound(&bound(export, head), &text, password)?;
    let [head, enc, ct] = [text, enc, ct].map(|bytes| URL_SAFE_NO_PAD.encode(bytes));
    serde_json::to_string(&Line { head, enc, ct }).map_err(|_| SealError::Seal)
}

/// What a line of this export after its first says, if it was sealed for this key and for this export as it stands.
///
/// # Errors
/// [`LineError`] if it is cut off, was never a line, was altered, or is of another export.
pub fn open(key: &RecoverySecret, export: EventId, line: &str) -> Result<Read, LineError> {
    if let Ok(end) = serde_json::from_str::<End>(line) {
        return if end.end == export { Ok(Read::End(end)) } else { Err(LineError::Shape) };
    }
    let line: Line = serde_json::from_str(line).map_err(|_| LineError::Shape)?;
    let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| LineError::Shape);
    let (text, enc, ct) = (decode(&line.head)?, decode(&line.enc)?, decode(&line.ct)?);
    let head: Head = serde_json::from_slice(&text).map_err(|_| LineError::Shape)?;
    let password = key.open_bound(&bound(export, &head), &text, enc, &ct)?;
    Ok(Read::Version(Box::new(head), password))
}

fn bound(export: EventId, head: &Head) -> Vec<u8> {
    info([LABEL, export.as_bytes(), head.lane.as_bytes(), head.version.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recovery;

    fn head() -> Head {
        Head {
            v: Version1,
            number: 7,
            device_id: DeviceId::from_bytes([5; 16]),
            lane: LaneId([2; 16]),
            version: VersionId([3; 16]),
            sure: Sure::Pending,
            user_name: "localadmin".to_owned(),
            device_name: "LAB-07".to_owned(),
            serial_number: "SN".to_owned(),
        }
    }

    #[test]
    fn a_line_opens_with_its_key_in_its_export_and_as_it_stands() {
        let (secret, public) = recovery::generate().unwrap();
        let (export, other) = (EventId([1; 16]), EventId([2; 16]));
        let line = seal(&public, export, &head(), &Password::new("Zp4:wq,Kd7".to_owned())).unwrap();
        assert!(!line.contains("Zp4"));
        let Read::Version(read, password) = open(&secret, export, &line).unwrap() else { panic!("{line}") };
        assert_eq!((*read, password.expose()), (head(), "Zp4:wq,Kd7"));
        let refused = LineError::Seal(SealError::Seal);
        assert_eq!(open(&secret, other, &line).unwrap_err(), refused);
        assert_eq!(open(&recovery::generate().unwrap().0, export, &line).unwrap_err(), refused);
        assert_eq!(open(&secret, export, &line[..line.len() - 9]).unwrap_err(), LineError::Shape);
        let parsed: Line = serde_json::from_str(&line).unwrap();
        for changed in [
            Head { number: 8, ..head() },
            Head { device_id: DeviceId::from_bytes([6; 16]), ..head() },
            Head { sure: Sure::Confirmed, ..head() },
            Head { lane: LaneId([9; 16]), ..head() },
        ] {
            let swapped = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&changed).unwrap());
            assert_eq!(open(&secret, export, &line.replace(&parsed.head, &swapped)).unwrap_err(), refused);
        }
        let end = End { end: export, versions: 1, missing: 0 };
        let line = serde_json::to_string(&end).unwrap();
        assert!(matches!(open(&secret, export, &line), Ok(Read::End(read)) if read == end));
        assert_eq!(open(&secret, other, &line).unwrap_err(), LineError::Shape);
        // A line of a recovery log is not one of an export, under the same key.
        assert_eq!(public.fingerprint(), secret.fingerprint().unwrap());
    }
}
