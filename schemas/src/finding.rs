//! Findings: what the validator found out about a message's sender, sealed for the rotator.
//!
//! The MAC is HMAC-SHA256 over `"keyturn finding v1"`, the request id (32 bytes), the key hash (32), the
//! directory's time in milliseconds (8, big endian), one byte of flags (1 trusted, 2 enabled), and the text of
//! the failed check. With groups it is over `"keyturn finding v2"` and, before that text, the number of groups
//! (2, big endian) and each group (16), in ascending order.

use std::collections::BTreeSet;

use keyturn_domain::ids::{GroupId, KeyHash, RequestId};
use keyturn_domain::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::mac::{KeyId, Mac, mac_text, ring};

const LABEL: &[u8] = b"keyturn finding v1";
const LABEL_WITH_GROUPS: &[u8] = b"keyturn finding v2";

/// The most groups of a finding.
pub const MOST_GROUPS: usize = 100;

ring! {
    /// Keys that seal findings. Held by the validator and the rotator.
    FindingKeys, "finding"
}

/// The trust checks in their order. The first failure ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Check {
    /// 2: exactly one record for the device id.
    KnownDevice,
    /// 3: the certificate's thumbprint is listed.
    Thumbprint,
    /// 4: the key's hash is listed, in the same entry.
    PublicKey,
    /// 5: the signature is that key's, over the whole message.
    Signature,
    /// 6: the record is enabled.
    Enabled,
    /// 7: the join type is allowed.
    JoinType,
    /// 8: the stamp is ours, the nonce was fresh.
    Freshness,
    /// 9: the certificate is about this device.
    Certificate,
}

impl Check {
    /// The refusal's stable code.
    pub const fn code(self) -> &'static str {
        match self {
            Self::KnownDevice => "KT-0202",
            Self::Thumbprint => "KT-0203",
            Self::PublicKey => "KT-0204",
            Self::Signature => "KT-0205",
            Self::Enabled => "KT-0206",
            Self::JoinType => "KT-0207",
            Self::Freshness => "KT-0208",
            Self::Certificate => "KT-0209",
        }
    }

    /// Whether the sender had proved to hold the device's key when the check failed. Only then is a refusal
    /// signed; all others look alike.
    pub const fn is_after_proof(self) -> bool {
        !matches!(self, Self::KnownDevice | Self::Thumbprint | Self::PublicKey | Self::Signature)
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::KnownDevice => "known_device",
            Self::Thumbprint => "thumbprint",
            Self::PublicKey => "public_key",
            Self::Signature => "signature",
            Self::Enabled => "enabled",
            Self::JoinType => "join_type",
            Self::Freshness => "freshness",
            Self::Certificate => "certificate",
        }
    }
}

/// What was found, before it is sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The message.
    pub rid: RequestId,
    /// The key that signed it.
    pub key_hash: KeyHash,
    /// Whether the directory's record is enabled.
    pub enabled: bool,
    /// The check that failed, if one did.
    pub failed: Option<Check>,
    /// When the directory answered.
    pub directory_ms: UnixMillis,
    /// The groups of the directory that it is in, of those that policies go by. At most [`MOST_GROUPS`].
    pub groups: BTreeSet<GroupId>,
}

/// A finding as it travels. It counts only once [`FindingKeys::open`] said so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Finding {
    /// The message.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::RequestId"))]
    pub rid: RequestId,
    /// The key that signed it.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::KeyHash"))]
    pub key_hash: KeyHash,
    /// Whether the directory's record is enabled.
    pub enabled: bool,
    /// The check that failed, if one did.
    pub failed: Option<Check>,
    /// When the directory answered.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::UnixMillis"))]
    pub directory_ms: UnixMillis,
    /// The groups of the directory that it is in, of those that policies go by.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<crate::schema::GroupId>"))]
    pub groups: BTreeSet<GroupId>,
    /// The key of the seal.
    pub key: KeyId,
    /// The seal.
    #[serde(with = "mac_text")]
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Seal"))]
    pub mac: Mac,
}

impl FindingKeys {
    /// Seals a finding. None if the ring is empty, which a parsed ring never is.
    pub fn seal(&self, facts: Facts) -> Option<Finding> {
        let (key, mac) = self.0.seal(&[&facts.sealed()])?;
        let Facts { rid, key_hash, enabled, failed, directory_ms, groups } = facts;
        Some(Finding { rid, key_hash, enabled, failed, directory_ms, groups, key, mac })
    }

    /// What was found, if the seal holds and it was found about this message and key.
    pub fn open(&self, finding: &Finding, rid: RequestId, key_hash: KeyHash) -> Option<Facts> {
        let Finding { enabled, failed, directory_ms, .. } = *finding;
        let facts = Facts { rid, key_hash, enabled, failed, directory_ms, groups: finding.groups.clone() };
        let about = finding.rid == rid && finding.key_hash == key_hash && facts.groups.len() <= MOST_GROUPS;
        (about && self.0.holds(finding.key, &[&facts.sealed()], &finding.mac)).then_some(facts)
    }
}

impl Facts {
    fn sealed(&self) -> Vec<u8> {
        let flags = u8::from(self.failed.is_none()) | u8::from(self.enabled) << 1;
        let failed = self.failed.map_or("", Check::as_str);
        let directory = self.directory_ms.0.to_be_bytes();
        let groups: Vec<u8> = self.groups.iter().flat_map(GroupId::as_bytes).copied().collect();
        let count = u16::try_from(self.groups.len()).unwrap_or(u16::MAX).to_be_bytes();
        let (label, count) =
            if groups.is_empty() { (LABEL, &[][..]) } else { (LABEL_WITH_GROUPS, count.as_slice()) };
        let (rid, key) = (self.rid.as_bytes(), self.key_hash.as_bytes());
        [label, rid, key, &directory, &[flags], count, &groups, failed.as_bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{NOW, changing, one_bit_off, ring};

    const RID: RequestId = RequestId([7; 32]);
    const KEY: KeyHash = KeyHash([9; 32]);
    const CHECKS: [Check; 8] = [
        Check::KnownDevice,
        Check::Thumbprint,
        Check::PublicKey,
        Check::Signature,
        Check::Enabled,
        Check::JoinType,
        Check::Freshness,
        Check::Certificate,
    ];

    fn facts(failed: Option<Check>) -> Facts {
        Facts { rid: RID, key_hash: KEY, enabled: true, failed, directory_ms: NOW, groups: groups(&[1, 2]) }
    }

    fn groups(numbers: &[u8]) -> BTreeSet<GroupId> {
        numbers.iter().map(|number| GroupId::from_bytes([*number; 16])).collect()
    }

    #[test]
    fn what_is_sealed_is_what_is_opened() {
        let keys = FindingKeys::new(ring(1, 1));
        for failed in CHECKS.into_iter().map(Some).chain([None]) {
            let finding = keys.seal(facts(failed)).unwrap();
            assert_eq!(finding.groups.len(), 2);
            let text = serde_json::to_string(&finding).unwrap();
            let read: Finding = serde_json::from_str(&text).unwrap();
            assert_eq!(keys.open(&read, RID, KEY), Some(facts(failed)));
        }
    }

    #[test]
    fn nothing_in_a_finding_can_be_changed() {
        let keys = FindingKeys::new(ring(1, 1));
        let good = keys.seal(facts(Some(Check::Enabled))).unwrap();
        let forged = |change: &dyn Fn(&mut Finding)| {
            let mut finding = good.clone();
            change(&mut finding);
            assert_eq!(keys.open(&finding, RID, KEY), None, "{finding:?}");
        };
        forged(&|finding| finding.rid = RequestId([8; 32]));
        forged(&|finding| finding.key_hash = KeyHash([8; 32]));
        forged(&|finding| finding.enabled = false);
        forged(&|finding| finding.failed = None);
        forged(&|finding| finding.failed = Some(Check::JoinType));
        forged(&|finding| finding.directory_ms.0 ^= 1);
        for other in [&[][..], &[1], &[1, 3], &[1, 2, 3]] {
            forged(&|finding| finding.groups = groups(other));
        }
        forged(&|finding| finding.key = KeyId(2));
        for mac in one_bit_off(&good.mac) {
            forged(&|finding| finding.mac = mac.clone().try_into().unwrap());
        }
    }

    #[test]
    fn without_groups_a_finding_is_as_it_was_before_there_were_any() {
        let keys = FindingKeys::new(ring(1, 1));
        let plain = Facts { groups: groups(&[]), ..facts(None) };
        let mut text = serde_json::to_value(keys.seal(plain.clone()).unwrap()).unwrap();
        assert_eq!(text.get("groups"), None);
        let before = [LABEL, &RID.0, &KEY.0, &NOW.0.to_be_bytes(), &[3]].concat();
        assert_eq!(plain.sealed(), before);
        let read = |value: &serde_json::Value| serde_json::from_value::<Finding>(value.clone()).unwrap();
        assert_eq!(keys.open(&read(&text), RID, KEY), Some(plain));
        // Nor can groups be put into one.
        text["groups"] = serde_json::json!([GroupId::from_bytes([1; 16])]);
        assert_eq!(keys.open(&read(&text), RID, KEY), None);
        let many = (0..=100).map(|number| GroupId::from_bytes([number; 16])).collect();
        let finding = keys.seal(Facts { groups: many, ..facts(None) }).unwrap();
        assert_eq!(keys.open(&finding, RID, KEY), None);
    }

    #[test]
    fn a_finding_is_about_one_message_and_key() {
        let keys = FindingKeys::new(ring(1, 1));
        let finding = keys.seal(facts(None)).unwrap();
        assert_eq!(keys.open(&finding, RequestId([8; 32]), KEY), None);
        assert_eq!(keys.open(&finding, RID, KeyHash([8; 32])), None);
    }

    #[test]
    fn findings_of_both_live_keys_open_and_of_no_other() {
        let old = FindingKeys::new(ring(1, 1)).seal(facts(None)).unwrap();
        let new = FindingKeys::new(changing()).seal(facts(None)).unwrap();
        let both = FindingKeys::new(changing());
        assert!(both.open(&old, RID, KEY).is_some() && both.open(&new, RID, KEY).is_some());
        for keys in [ring(2, 2), ring(1, 9)] {
            assert_eq!(FindingKeys::new(keys).open(&old, RID, KEY), None);
        }
    }

    #[test]
    fn checks_have_one_name_and_come_in_order() {
        for check in CHECKS {
            assert_eq!(serde_json::to_value(check).unwrap(), check.as_str());
        }
        assert!(CHECKS.is_sorted() && CHECKS.map(Check::code).is_sorted());
        assert!(!Check::Signature.is_after_proof() && Check::Enabled.is_after_proof());
    }
}
