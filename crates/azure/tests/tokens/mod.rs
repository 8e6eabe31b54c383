//! The credential of these tests.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use async_trait::async_trait;
use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use azure_core::time::OffsetDateTime;
use keyturn_testkit::azure::identity;

/// Tokens for whatever is asked for.
#[derive(Debug)]
pub(crate) struct Tokens;

#[async_trait]
impl TokenCredential for Tokens {
    async fn get_token(
        &self,
        scopes: &[&str],
        _: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        let audience = scopes.first().map_or("", |scope| scope.trim_end_matches("/.default"));
        let expires = OffsetDateTime::from_unix_timestamp(identity::EXPIRES.try_into().unwrap()).unwrap();
        Ok(AccessToken::new(identity::token(audience), expires))
    }
}
