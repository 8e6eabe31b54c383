//! Stamps: the ingress's word on when a message came in.
//!
//! The MAC is HMAC-SHA256 over `"keyturn stamp v1"`, the request id (32 bytes), the nonce's and the receipt's
//! milliseconds (8 bytes each, big endian) and the ingress's name.

use std::time::Duration;

use keyturn_domain::ids::RequestId;
use keyturn_domain::lane::Order;
use keyturn_domain::time::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::mac::{KeyId, Mac, mac_text, ring};

const LABEL: &[u8] = b"keyturn stamp v1";

ring! {
    /// Keys that seal stamps. Held by the ingress, and by those who check.
    StampKeys, "stamp"
}

/// A stamp as it travels. Its times count only once [`StampKeys::check`] said so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Stamp {
    /// The message.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::RequestId"))]
    pub rid: RequestId,
    /// When its nonce was given out.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::UnixMillis"))]
    pub nonce_ms: UnixMillis,
    /// When it came in.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::UnixMillis"))]
    pub received_ms: UnixMillis,
    /// Which ingress took it.
    pub ingress: String,
    /// The key of the seal.
    pub key: KeyId,
    /// The seal.
    #[serde(with = "mac_text")]
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Seal"))]
    pub mac: Mac,
}

/// A stamp that does not hold.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
pub enum StampError {
    /// Not sealed by this deployment, or for another message.
    #[error("the stamp is not this deployment's, or belongs to another message")]
    Forged,
    /// The message's nonce was older than allowed when the message came in.
    #[error("the message came in later than its nonce allows")]
    Late,
    /// The stamp lies in the future.
    #[error("the stamp lies in the future: a server's clock is wrong")]
    Future,
}

/// The limits of freshness, judged once, on the stamp. Queue delay never matters to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// How old a nonce may be when the message comes in.
    pub nonce_ttl: Duration,
    /// How far a stamp may lie in the future of the one who checks.
    pub future_skew: Duration,
}

impl Default for Freshness {
    fn default() -> Self {
        Self { nonce_ttl: Duration::from_mins(5), future_skew: Duration::from_mins(1) }
    }
}

impl StampKeys {
    /// Stamps a message. None if the ring is empty, which a parsed ring never is.
    pub fn stamp(&self, rid: RequestId, order: Order, ingress: &str) -> Option<Stamp> {
        let mut stamp = Stamp {
            rid,
            nonce_ms: order.nonce,
            received_ms: order.received,
            ingress: ingress.to_owned(),
            key: KeyId(0),
            mac: [0; 32],
        };
        (stamp.key, stamp.mac) = self.0.seal(&[&stamp.sealed()])?;
        Some(stamp)
    }

    /// Checks a stamp for the message `rid`, whose nonce says it was given out at `nonce`.
    pub fn check(
        &self,
        stamp: &Stamp,
        rid: RequestId,
        nonce: UnixMillis,
        limits: Freshness,
        now: UnixMillis,
    ) -> Result<Order, StampError> {
        let sealed = self.0.holds(stamp.key, &[&stamp.sealed()], &stamp.mac);
        if !sealed || stamp.rid != rid || stamp.nonce_ms != nonce {
            return Err(StampError::Forged);
        }
        if stamp.received_ms < nonce || stamp.received_ms.since(nonce) > limits.nonce_ttl {
            return Err(StampError::Late);
        }
        if stamp.received_ms > now.plus(limits.future_skew) {
            return Err(StampError::Future);
        }
        Ok(Order { received: stamp.received_ms, nonce })
    }
}

impl Stamp {
    fn sealed(&self) -> Vec<u8> {
        let (nonce, received) = (self.nonce_ms.0.to_be_bytes(), self.received_ms.0.to_be_bytes());
        [LABEL, self.rid.as_bytes(), &nonce, &received, self.ingress.as_bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{NOW, changing, one_bit_off, ring};

    const RID: RequestId = RequestId([7; 32]);

    fn stamped(keys: &StampKeys, received: UnixMillis) -> Stamp {
        keys.stamp(RID, Order { received, nonce: NOW }, "ingress-1").unwrap()
    }

    fn checked(keys: &StampKeys, stamp: &Stamp, now: UnixMillis) -> Result<Order, StampError> {
        keys.check(stamp, RID, NOW, Freshness::default(), now)
    }

    #[test]
    fn freshness_is_judged_on_the_stamp() {
        let keys = StampKeys::new(ring(1, 1));
        let ms = Duration::from_millis;
        let day = Duration::from_hours(24);
        let cases = [
            ("at once", NOW, NOW, None),
            ("at the last moment", NOW.plus(ms(300_000)), NOW, Some(StampError::Future)),
            ("at the last moment, and read in time", NOW.plus(ms(300_000)), NOW.plus(ms(240_000)), None),
            ("a day in the queue", NOW.plus(ms(10)), NOW.plus(day), None),
            ("too late", NOW.plus(ms(300_001)), NOW.plus(day), Some(StampError::Late)),
            ("before its nonce", NOW.minus(ms(1)), NOW, Some(StampError::Late)),
            ("by a clock a little ahead", NOW.plus(ms(60_000)), NOW, None),
            ("by a clock far ahead", NOW.plus(ms(60_001)), NOW, Some(StampError::Future)),
        ];
        for (what, received, now, error) in cases {
            let result = checked(&keys, &stamped(&keys, received), now);
            assert_eq!(result.err(), error, "{what}");
        }
    }

    #[test]
    fn nothing_in_a_stamp_can_be_changed() {
        let keys = StampKeys::new(ring(1, 1));
        let good = stamped(&keys, NOW);
        assert!(checked(&keys, &good, NOW).is_ok());
        let forged = |change: &dyn Fn(&mut Stamp)| {
            let mut stamp = good.clone();
            change(&mut stamp);
            assert_eq!(checked(&keys, &stamp, NOW), Err(StampError::Forged), "{stamp:?}");
        };
        forged(&|stamp| stamp.rid = RequestId([8; 32]));
        forged(&|stamp| stamp.received_ms.0 ^= 1);
        forged(&|stamp| stamp.nonce_ms.0 ^= 1);
        forged(&|stamp| stamp.ingress.push('1'));
        forged(&|stamp| stamp.ingress.clear());
        forged(&|stamp| stamp.key = KeyId(2));
        for mac in one_bit_off(&good.mac) {
            forged(&|stamp| stamp.mac = mac.clone().try_into().unwrap());
        }
    }

    #[test]
    fn a_stamp_is_for_one_message_and_its_nonce() {
        let keys = StampKeys::new(ring(1, 1));
        let stamp = stamped(&keys, NOW);
        let limits = Freshness::default();
        assert_eq!(keys.check(&stamp, RequestId([8; 32]), NOW, limits, NOW), Err(StampError::Forged));
        assert_eq!(keys.check(&stamp, RID, UnixMillis(NOW.0 + 1), limits, NOW), Err(StampError::Forged));
    }

    #[test]
    fn stamps_of_both_live_keys_hold_and_of_no_other() {
        let old = stamped(&StampKeys::new(ring(1, 1)), NOW);
        let new = stamped(&StampKeys::new(changing()), NOW);
        let both = StampKeys::new(changing());
        assert!(checked(&both, &old, NOW).is_ok() && checked(&both, &new, NOW).is_ok());
        for keys in [ring(2, 2), ring(1, 9)] {
            assert_eq!(checked(&StampKeys::new(keys), &old, NOW), Err(StampError::Forged));
        }
    }

    #[test]
    fn a_stamp_has_its_members_and_no_others() {
        let text = serde_json::to_string(&stamped(&StampKeys::new(ring(1, 1)), NOW)).unwrap();
        assert!(serde_json::from_str::<Stamp>(&text).is_ok());
        assert!(serde_json::from_str::<Stamp>(&text.replacen('{', r#"{"more":1,"#, 1)).is_err());
        assert!(serde_json::from_str::<Stamp>(&text.replacen(r#""mac":""#, r#""mac":"AAAA"#, 1)).is_err());
    }
}
