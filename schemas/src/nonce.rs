//! Nonces: proof that a message was signed recently.
//!
//! `base64url(key id (1) ‖ milliseconds (8, big endian) ‖ random (11) ‖ MAC (16))`: 36 bytes, 48 characters.
//! The MAC is the first 16 bytes of HMAC-SHA256 over `"keyturn nonce v1"` and the 20 bytes before it. A nonce
//! needs no memory on the server: what makes a message count once is the order of its lane.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyturn_domain::entropy::Entropy;
use keyturn_domain::time::UnixMillis;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::mac::{KeyId, ring};

const LABEL: &[u8] = b"keyturn nonce v1";

ring! {
    /// Keys that seal nonces. Held by the ingress, which gives them out, and by those who check freshness.
    NonceKeys, "nonce"
}

/// A nonce. Well-formed, but genuine only once [`NonceKeys::holds`] said so.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Nonce {
    head: [u8; 20],
    mac: [u8; 16],
}

/// A text that is not a nonce.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
#[error("not a nonce: expected 48 characters of base64url")]
pub struct NotANonce;

impl Nonce {
    /// When the nonce says it was given out.
    pub fn issued(&self) -> UnixMillis {
        let [_, ms @ .., _, _, _, _, _, _, _, _, _, _, _] = self.head;
        UnixMillis(u64::from_be_bytes(ms))
    }

    fn key(&self) -> KeyId {
        let [key, ..] = self.head;
        KeyId(key)
    }
}

impl NonceKeys {
    /// A nonce given out now. None if the ring is empty, which a parsed ring never is.
    pub fn issue(&self, now: UnixMillis, entropy: &dyn Entropy) -> Option<Nonce> {
        let mut head = [0; 20];
        let (stamp, random) = head.split_at_mut(9);
        entropy.fill(random);
        stamp.get_mut(1..)?.copy_from_slice(&now.0.to_be_bytes());
        // The key id is under the MAC, so it has to be known before the MAC is made.
        let (key, _) = self.0.seal(&[])?;
        *head.first_mut()? = key.0;
        let (_, mac) = self.0.seal(&[LABEL, &head])?;
        Some(Nonce { head, mac: *mac.first_chunk()? })
    }

    /// Whether this deployment gave the nonce out.
    pub fn holds(&self, nonce: &Nonce) -> bool {
        self.0.holds(nonce.key(), &[LABEL, &nonce.head], &nonce.mac)
    }

    /// Whether the nonce is genuine and was at most `ttl` old at `received`.
    pub fn is_fresh(&self, nonce: &Nonce, received: UnixMillis, ttl: Duration) -> bool {
        self.holds(nonce) && nonce.issued() <= received && received.since(nonce.issued()) <= ttl
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; 36];
        let (head, mac) = bytes.split_at_mut(20);
        head.copy_from_slice(&self.head);
        mac.copy_from_slice(&self.mac);
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nonce({self})")
    }
}

impl FromStr for Nonce {
    type Err = NotANonce;

    fn from_str(text: &str) -> Result<Self, NotANonce> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| NotANonce)?;
        let (head, mac) = bytes.split_first_chunk::<20>().ok_or(NotANonce)?;
        Ok(Self { head: *head, mac: mac.try_into().map_err(|_| NotANonce)? })
    }
}

impl Serialize for Nonce {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Nonce {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{NOW, Zeros, changing, nonce, one_bit_off, ring};

    #[test]
    fn a_nonce_is_fresh_for_its_time() {
        let (keys, nonce, ttl) = (NonceKeys::new(ring(1, 1)), nonce(), Duration::from_mins(5));
        assert_eq!((nonce.issued(), nonce.to_string().parse()), (NOW, Ok(nonce)));
        assert!(keys.is_fresh(&nonce, NOW, ttl) && keys.is_fresh(&nonce, NOW.plus(ttl), ttl));
        assert!(!keys.is_fresh(&nonce, NOW.plus(ttl + Duration::from_millis(1)), ttl), "too late");
        assert!(!keys.is_fresh(&nonce, NOW.minus(Duration::from_millis(1)), ttl), "before it was given out");
    }

    #[test]
    fn no_bit_of_a_nonce_can_be_changed() {
        let keys = NonceKeys::new(ring(1, 1));
        for bytes in one_bit_off(&URL_SAFE_NO_PAD.decode(nonce().to_string()).unwrap()) {
            let forged: Nonce = URL_SAFE_NO_PAD.encode(bytes).parse().unwrap();
            assert!(!keys.holds(&forged), "{forged}");
        }
    }

    #[test]
    fn nonces_of_both_live_keys_hold_and_of_no_other() {
        let old = nonce();
        let new = NonceKeys::new(changing()).issue(NOW, &Zeros).unwrap();
        assert_eq!(new.key(), KeyId(2), "the new key seals");
        for (id, secret, old_holds, new_holds) in
            [(1, 1, true, false), (2, 2, false, true), (1, 9, false, false)]
        {
            let keys = NonceKeys::new(ring(id, secret));
            assert_eq!((keys.holds(&old), keys.holds(&new)), (old_holds, new_holds), "key {id} of {secret}");
        }
        let both = NonceKeys::new(changing());
        assert!(both.holds(&old) && both.holds(&new));
    }

    #[test]
    fn other_texts_are_no_nonces() {
        let good = nonce().to_string();
        for bad in [
            "",
            &good[1..],
            &format!("{good}A"),
            &format!("{good}===="),
            &good.replacen('A', "+", 1),
            &format!(" {}", &good[1..]),
        ] {
            assert_eq!(bad.parse::<Nonce>(), Err(NotANonce), "{bad}");
        }
    }
}
