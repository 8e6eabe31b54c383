//! What opens an entity: a token for it, put to `$cbs` (learn.microsoft.com/azure/service-bus-messaging,
//! "AMQP 1.0 protocol guide", claims-based security).

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use azure_core::credentials::TokenCredential;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyturn_domain::time::UnixMillis;
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use super::failure::Wrong;
use crate::failure::Failure;

/// What tokens of Entra ID are asked for.
const SCOPE: &str = "https://servicebus.azure.net/.default";

/// How long a token lasts that is made of a key.
const SIGNED: Duration = Duration::from_hours(1);

/// How requests are authorised.
#[derive(Clone, Debug)]
pub enum Access {
    /// By tokens of Microsoft Entra ID. TLS only.
    Token(Arc<dyn TokenCredential>),
    /// By the key of a shared access policy: for namespaces that are not in Entra ID, and tests.
    SharedKey {
        /// The policy's name.
        policy: String,
        /// Its key, as the portal shows it.
        key: SecretString,
    },
}

/// A token as `$cbs` takes it.
pub(super) struct Token {
    pub(super) kind: &'static str,
    pub(super) text: Zeroizing<String>,
    pub(super) ends: UnixMillis,
}

impl Access {
    /// A token for the entity whose address is `audience`.
    pub(super) async fn token(&self, audience: &str, now: UnixMillis) -> Result<Token, Wrong> {
        match self {
            Self::Token(credential) => {
                let had = credential.get_token(&[SCOPE], None).await;
                let token = had.map_err(|error| match Failure::of(&error) {
                    failure @ Failure::NoToken(_) => Wrong::Failed(failure),
                    Failure::Refused(refused) => Wrong::Failed(Failure::NoToken(Some(refused.status))),
                    _ => Wrong::Failed(Failure::NoToken(None)),
                })?;
                let ends = u64::try_from(token.expires_on.unix_timestamp()).unwrap_or(0).saturating_mul(1000);
                let text = Zeroizing::new(token.token.secret().to_owned());
                Ok(Token { kind: "jwt", text, ends: UnixMillis(ends) })
            }
            Self::SharedKey { policy, key } => {
                let ends = now.plus(SIGNED);
                let (audience, seconds) = (escaped(audience), ends.0 / 1000);
                let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose_secret().as_bytes());
                let signature = hmac::sign(&key, format!("{audience}\n{seconds}").as_bytes());
                let signature = escaped(&STANDARD.encode(signature));
                let text = format!(
                    "SharedAccessSignature sr={audience}&sig={signature}&se={seconds}&skn={}",
                    escaped(policy)
                );
                let kind = "servicebus.windows.net:sastoken";
                Ok(Token { kind, text: Zeroizing::new(text), ends: UnixMillis(seconds.saturating_mul(1000)) })
            }
        }
    }
}

/// With every byte that is not unreserved as %XX.
fn escaped(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}
