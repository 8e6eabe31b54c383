//! The trust checks, in their order. The first failure ends it.

use keyturn_domain::join_type::JoinTypes;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::directory::DeviceRecord;
use keyturn_schemas::claims::Deployment;
use keyturn_schemas::finding::Check;
use keyturn_schemas::message::{Claims, SignedMessage};
use keyturn_schemas::nonce::NonceKeys;
use keyturn_schemas::security_id::{DEVICE_KEY, RegisteredKey};
use keyturn_schemas::stamp::{Freshness, Stamp, StampKeys};

/// What the checks go by, besides the message and the directory.
pub(crate) struct Rules<'a> {
    pub(crate) deployment: &'a Deployment,
    pub(crate) join_types: JoinTypes,
    pub(crate) freshness: Freshness,
    pub(crate) nonces: &'a NonceKeys,
    pub(crate) stamps: &'a StampKeys,
}

/// The first check that `message` fails, if it fails one.
///
/// - 2 known device: the directory has exactly one record with this id. None, or several, is a refusal.
/// - 3 thumbprint and 4 public key: exact, and both from the same registered key; there may be several.
/// - 5 signature: over the whole message, by that key.
/// - 6 enabled, 7 join type: not asked of a report, which only tells what has happened already.
/// - 8 freshness: stamp and nonce are this deployment's, and so is the audience.
/// - 9 certificate: it is about this device. The key's size and exponent were judged when it was read.
pub(crate) fn first_failure(
    message: &SignedMessage,
    signature_holds: bool,
    stamp: &Stamp,
    records: &[DeviceRecord],
    rules: &Rules<'_>,
    now: UnixMillis,
) -> Option<Check> {
    let [record] = records else { return Some(Check::KnownDevice) };
    let common = message.claims().common();
    if record.device_id != common.device_id {
        return Some(Check::KnownDevice);
    }
    if let Some(failed) = unregistered(message, record) {
        return Some(failed);
    }
    let is_report = matches!(message.claims(), Claims::Report(_));
    let nonce = common.nonce;
    let fresh = || {
        rules.nonces.holds(&nonce)
            && rules.stamps.check(stamp, message.rid(), nonce.issued(), rules.freshness, now).is_ok()
            && common.aud == *rules.deployment
    };
    match () {
        () if !signature_holds => Some(Check::Signature),
        () if !is_report && record.account_enabled != Some(true) => Some(Check::Enabled),
        () if !is_report && !rules.join_types.allow(record.trust_type.as_deref()) => Some(Check::JoinType),
        () if !fresh() => Some(Check::Freshness),
        () if message.certificate().common_name() != Some(common.device_id) => Some(Check::Certificate),
        () => None,
    }
}

/// Check 3 or 4, if no registered key of the record has both the certificate's thumbprint and its key.
fn unregistered(message: &SignedMessage, record: &DeviceRecord) -> Option<Check> {
    let certificate = message.certificate();
    let listed = || {
        let entries = record.alternative_security_ids.iter().filter(|entry| entry.kind == DEVICE_KEY);
        entries.filter_map(|entry| RegisteredKey::decode(&entry.key))
    };
    let same_certificate = |key: &RegisteredKey| key.thumbprint == certificate.thumbprint();
    if listed().any(|key| same_certificate(&key) && key.key_hash == certificate.key_hash()) {
        return None;
    }
    Some(if listed().any(|key| same_certificate(&key)) { Check::PublicKey } else { Check::Thumbprint })
}

#[cfg(test)]
mod tests;
