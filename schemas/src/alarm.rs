//! Alarms: what the rotator gives the notifier to send out of the house, and what receivers get.
//!
//! Deliveries are signed as in Standard Webhooks 1.0 (standardwebhooks.com): `webhook-id`, `webhook-timestamp` and
//! `webhook-signature`, which is HMAC-SHA256 over `id.timestamp.body` under a secret that both sides hold.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyturn_domain::ids::{DeviceId, EventId, LaneId, RequestId};
use keyturn_domain::lane::Alarm;
use keyturn_domain::time::UnixMillis;
use keyturn_domain::webhook::WebhookName;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::claims::Deployment;
use crate::envelope::rfc3339;

/// The header with the alarm's id, the same for every attempt at it and for every replay.
pub const ID: &str = "webhook-id";
/// The header with the time of the attempt, in seconds since the Unix epoch.
pub const TIMESTAMP: &str = "webhook-timestamp";
/// The header with the signatures, one for each secret, separated by blanks.
pub const SIGNATURE: &str = "webhook-signature";

/// What travels on the `alarms` queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AlarmRaised {
    /// The alarm's id in the timeline: the same for the same alarm, however often it is sent.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::EventId"))]
    pub event: EventId,
    /// When it was raised.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::UnixMillis"))]
    pub at_ms: UnixMillis,
    /// The lane it is about.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::LaneId"))]
    pub lane: LaneId,
    /// What it is about.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::AlarmKind"))]
    pub alarm: Alarm,
    /// To whom; none until the notifier has looked who is to have it.
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::schema::WebhookName>"))]
    pub webhook: Option<WebhookName>,
}

/// What a receiver gets: the body of a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(rename = "AlarmNotice"))]
pub struct Notice {
    /// `keyturn.alarm.` and what it is about.
    #[serde(rename = "type")]
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::NoticeType"))]
    pub kind: String,
    /// When the alarm was raised (RFC 3339, UTC, milliseconds). Deliveries may arrive in another order.
    #[cfg_attr(feature = "schema", schemars(extend("format" = "date-time")))]
    pub timestamp: String,
    /// The alarm.
    pub data: NoticeData,
}

/// An alarm as receivers see it. There is no secret in it, and nothing that a device could have worded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NoticeData {
    /// The deployment that raised it.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub deployment: Deployment,
    /// What it is about.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::AlarmKind"))]
    pub alarm: Alarm,
    /// The same in a sentence.
    pub text: String,
    /// The device.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::DeviceId"))]
    pub device_id: DeviceId,
    /// Its lane, as `keyturn device show` names it.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::LaneId"))]
    pub lane: LaneId,
    /// The message of the device that gave rise to it.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::RequestId"))]
    pub request_id: RequestId,
}

impl Notice {
    /// What receivers are told of an alarm.
    pub fn of(raised: &AlarmRaised, deployment: Deployment, device: DeviceId, request: RequestId) -> Self {
        Self {
            kind: format!("keyturn.alarm.{}", raised.alarm.as_str()),
            timestamp: rfc3339(raised.at_ms),
            data: NoticeData {
                deployment,
                alarm: raised.alarm,
                text: raised.alarm.meaning().to_owned(),
                device_id: device,
                lane: raised.lane,
                request_id: request,
            },
        }
    }

    /// The body of a delivery.
    pub fn to_json(&self) -> String {
        // Strings and enumerations of words: there is no error to report.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What deliveries to one webhook are signed with: one secret, or two while it is changed.
#[derive(Clone)]
pub struct WebhookSecrets(Vec<hmac::Key>);

/// A text that is no file of secrets. What was read is not repeated.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
pub enum SecretError {
    /// None, or more than two.
    #[error("expected one line like whsec_…, or two while the secret is changed")]
    Count,
    /// A line of another form.
    #[error(
        "line {0} is not whsec_ and base64 of 24 to 64 bytes; make one with: echo \"whsec_$(head -c 32 /dev/urandom | \
         base64 -w 0)\""
    )]
    Form(usize),
}

impl WebhookSecrets {
    /// Reads a file of secrets: a line each, `whsec_` and standard base64 of 24 to 64 bytes.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        if !(1..=2).contains(&lines.len()) {
            return Err(SecretError::Count);
        }
        let read = |(number, line): (usize, &&str)| {
            let wrong = || SecretError::Form(number + 1);
            let encoded = line.strip_prefix("whsec_").ok_or_else(wrong)?;
            let secret = Zeroizing::new(STANDARD.decode(encoded).map_err(|_| wrong())?);
            let fits = (24..=64).contains(&secret.len());
            fits.then(|| hmac::Key::new(hmac::HMAC_SHA256, &secret)).ok_or_else(wrong)
        };
        lines.iter().enumerate().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// The header [`SIGNATURE`] of a delivery, made at `at_s`, in seconds since the Unix epoch.
    pub fn signature(&self, event: EventId, at_s: u64, body: &str) -> String {
        let signed = format!("{event}.{at_s}.{body}");
        let one = |key: &hmac::Key| format!("v1,{}", STANDARD.encode(hmac::sign(key, signed.as_bytes())));
        self.0.iter().map(one).collect::<Vec<_>>().join(" ")
    }
}

impl std::fmt::Debug for WebhookSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WebhookSecrets({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const OTHER: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

    /// The vector of the Standard Webhooks reference libraries: `msg_p5jXN8AQM9LWM0D4loKWxJek` at 1614265330 over
    /// `{"test": 2432232314}`. Its id is not one of ours, so the text is signed as it stands.
    #[test]
    fn signatures_are_those_of_the_reference_libraries() {
        let key = &WebhookSecrets::parse(ONE).unwrap().0[0];
        let text = b"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{\"test\": 2432232314}";
        let signature = STANDARD.encode(hmac::sign(key, text));
        assert_eq!(signature, "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn two_secrets_sign_twice_while_one_is_changed() {
        let (one, two) = (
            WebhookSecrets::parse(ONE).unwrap(),
            WebhookSecrets::parse(&format!("{OTHER}\n{ONE}\n")).unwrap(),
        );
        let both = two.signature(EventId([7; 16]), 1, "{}");
        let (first, second) = both.split_once(' ').unwrap();
        assert_eq!(second, one.signature(EventId([7; 16]), 1, "{}"));
        assert!(first != second && first.starts_with("v1,"), "{both}");
    }

    #[test]
    fn files_of_secrets_have_one_form() {
        for (text, error) in [
            ("", SecretError::Count),
            ("\n\n", SecretError::Count),
            (&format!("{ONE}\n{ONE}\n{ONE}"), SecretError::Count),
            ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", SecretError::Form(1)),
            ("whsec_", SecretError::Form(1)),
            ("whsec_AAAA", SecretError::Form(1)),
            (&format!("{ONE}\nwhsec_%"), SecretError::Form(2)),
        ] {
            assert_eq!(WebhookSecrets::parse(text).unwrap_err(), error, "{text:?}");
        }
        assert_eq!(format!("{:?}", WebhookSecrets::parse(ONE).unwrap()), "WebhookSecrets(1)");
    }
}
