//! Authorisation by an account's key
//! (learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key), which the SDK does not have.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use aws_lc_rs::hmac;
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{Body, Context, Request};
use azure_core::time::{OffsetDateTime, to_rfc7231};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

/// Signs every attempt at a request.
pub(super) struct SharedKey {
    account: String,
    key: hmac::Key,
}

impl fmt::Debug for SharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedKey").field("account", &self.account).finish_non_exhaustive()
    }
}

impl SharedKey {
    /// None if the key is no base64.
    pub(super) fn new(account: &str, key: &SecretString) -> Option<Self> {
        let bytes = Zeroizing::new(STANDARD.decode(key.expose_secret().trim()).ok()?);
        Some(Self { account: account.to_owned(), key: hmac::Key::new(hmac::HMAC_SHA256, &bytes) })
    }

    /// The text that is signed: the verb, eleven standard fields of which ours have two, the `x-ms-` fields, and the
    /// address.
    fn to_be_signed(&self, request: &Request) -> String {
        let length = match request.body() {
            Body::Bytes(bytes) if !bytes.is_empty() => bytes.len().to_string(),
            _ => String::new(),
        };
        let (mut kind, mut fields) = ("", Vec::new());
        for (name, value) in request.headers().iter() {
            match name.as_str() {
                "content-type" => kind = value.as_str(),
                name if name.starts_with("x-ms-") => {
                    fields.push(format!("{name}:{}\n", value.as_str().trim()));
                }
                _ => {}
            }
        }
        fields.sort_unstable();
        let url = request.url();
        let mut queries: Vec<_> =
            url.query_pairs().map(|(name, value)| format!("\n{}:{value}", name.to_lowercase())).collect();
        queries.sort_unstable();
        format!(
            "{}\n\n\n{length}\n\n{kind}\n\n\n\n\n\n\n{}/{}{}{}",
            request.method().as_str(),
            fields.concat(),
            self.account,
            url.path(),
            queries.concat()
        )
    }
}

#[expect(
    elided_lifetimes_in_paths,
    reason = "the SDK's trait hides a lifetime, and an implementation has to as well"
)]
#[async_trait]
impl Policy for SharedKey {
    async fn send(&self, context: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        request.insert_header("x-ms-date", to_rfc7231(&OffsetDateTime::now_utc()));
        let signature = hmac::sign(&self.key, self.to_be_signed(request).as_bytes());
        let value = format!("SharedKey {}:{}", self.account, STANDARD.encode(signature));
        request.insert_header("authorization", value);
        match next {
            [first, rest @ ..] => first.send(context, request, rest).await,
            [] => Err(azure_core::Error::with_message(
                azure_core::error::ErrorKind::Other,
                "a signing policy has nothing to hand its request to",
            )),
        }
    }
}
