//! Tickets: where a result will be found. Checked without a look-up, and the same for the same bytes.
//!
//! Two lower-case hexadecimal digits of the key id, then `base64url(rid ‖ first 16 bytes of
//! HMAC-SHA256(key, "keyturn ticket v1" ‖ rid))`: 66 characters.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyturn_domain::ids::RequestId;

use crate::mac::{KeyId, ring};

/// The header in which a client names the first message of its run by that one's ticket, so that all of them are one
/// trace (docs/PROTOCOL.md section 6.5).
pub const FOLLOWS: &str = "keyturn-follows";

const LABEL: &[u8] = b"keyturn ticket v1";

ring! {
    /// Keys that seal tickets. Held by the ingress alone.
    TicketKeys, "ticket"
}

impl TicketKeys {
    /// The ticket of a message. None if the ring is empty, which a parsed ring never is.
    pub fn ticket(&self, rid: RequestId) -> Option<String> {
        let (key, mac) = self.0.seal(&[LABEL, rid.as_bytes()])?;
        let mut sealed = rid.as_bytes().to_vec();
        sealed.extend_from_slice(mac.first_chunk::<16>()?);
        Some(format!("{:02x}{}", key.0, URL_SAFE_NO_PAD.encode(sealed)))
    }

    /// The message a ticket stands for, if this deployment gave it out.
    pub fn open(&self, ticket: &str) -> Option<RequestId> {
        let (key, sealed) = ticket.split_at_checked(2)?;
        let digits = key.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        let key = u8::from_str_radix(key, 16).ok().filter(|_| digits && sealed.len() == 64)?;
        let bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (rid, mac) = bytes.split_first_chunk::<32>()?;
        let rid = RequestId(*rid);
        self.0.holds(KeyId(key), &[LABEL, rid.as_bytes()], mac).then_some(rid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{changing, one_bit_off, ring};

    const RID: RequestId = RequestId([7; 32]);

    #[test]
    fn a_message_has_one_ticket() {
        let keys = TicketKeys::new(ring(1, 1));
        let ticket = keys.ticket(RID).unwrap();
        assert_eq!((ticket.len(), keys.open(&ticket)), (66, Some(RID)));
        assert_eq!(keys.ticket(RID), Some(ticket));
    }

    #[test]
    fn no_bit_of_a_ticket_can_be_changed() {
        let keys = TicketKeys::new(ring(1, 1));
        let ticket = keys.ticket(RID).unwrap();
        for bytes in one_bit_off(&URL_SAFE_NO_PAD.decode(&ticket[2..]).unwrap()) {
            assert_eq!(keys.open(&format!("01{}", URL_SAFE_NO_PAD.encode(bytes))), None);
        }
        let sealed = &ticket[2..];
        for bad in [
            "",
            "01",
            "é1",
            &format!("02{sealed}"),
            &format!("+1{sealed}"),
            &format!("{ticket}A"),
            &format!("{ticket}=="),
            &ticket[..65],
        ] {
            assert_eq!(keys.open(bad), None, "{bad}");
        }
    }

    #[test]
    fn tickets_of_both_live_keys_open_and_of_no_other() {
        let old = TicketKeys::new(ring(1, 1)).ticket(RID).unwrap();
        let new = TicketKeys::new(changing()).ticket(RID).unwrap();
        assert!(new.starts_with("02"), "the new key seals");
        let both = TicketKeys::new(changing());
        assert_eq!((both.open(&old), both.open(&new)), (Some(RID), Some(RID)));
        let only_new = TicketKeys::new(ring(2, 2));
        assert_eq!((only_new.open(&old), only_new.open(&new)), (None, Some(RID)));
    }

    #[test]
    fn key_ids_have_one_text_form() {
        let keys = TicketKeys::new(ring(0xab, 1));
        let ticket = keys.ticket(RID).unwrap();
        assert!(ticket.starts_with("ab"));
        assert_eq!(keys.open(&ticket.replacen("ab", "AB", 1)), None);
    }
}
