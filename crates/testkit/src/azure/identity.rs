//! Tokens: unsigned, with the claims that the fakes look at; and the endpoint at which App Service and Container Apps
//! give managed identities theirs (`IDENTITY_ENDPOINT`, api-version 2019-08-01).

#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::indexing_slicing,
    reason = "what a test stands on fails by panicking"
)]

use std::collections::HashMap;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::RawQuery;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// When the tokens here expire: the first of January 2100.
pub const EXPIRES: u64 = 4_102_444_800;

/// A token for `audience`.
pub fn token(audience: &str) -> String {
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let head = part(json!({ "alg": "RS256", "typ": "JWT" }));
    let claims = part(
        json!({ "aud": audience, "iss": "https://sts.windows.net/t/", "iat": 1, "nbf": 1, "exp": EXPIRES }),
    );
    format!("{head}.{claims}.c2ln")
}

/// Whether these headers have a token for `audience` that has not expired at `now_s`, in seconds.
pub(super) fn admits(headers: &HeaderMap, audience: &str, now_s: u64) -> bool {
    let bearer = headers.get("authorization").and_then(|value| value.to_str().ok());
    let claims = bearer
        .and_then(|text| text.strip_prefix("Bearer "))
        .and_then(|token| token.split('.').nth(1))
        .and_then(|part| URL_SAFE_NO_PAD.decode(part).ok())
        .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    claims.is_some_and(|claims| {
        let aud = claims["aud"].as_str().unwrap_or_default();
        aud.trim_end_matches('/') == audience && claims["exp"].as_u64().is_some_and(|exp| exp > now_s)
    })
}

/// Who gives out tokens of a managed identity; gone when it is dropped.
pub struct ManagedIdentity {
    address: SocketAddr,
    task: JoinHandle<()>,
}

/// What has to be in the header `X-IDENTITY-HEADER`.
const SECRET: &str = "a header that only this machine knows";

impl ManagedIdentity {
    /// One on a port of its own.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let router = Router::new().route("/msi/token", get(give));
        let task = tokio::spawn(async move {
            drop(axum::serve(listener, router).await);
        });
        Self { address, task }
    }

    /// The variables by which a process finds it.
    pub fn variables(&self) -> [(&'static str, String); 2] {
        [
            ("IDENTITY_ENDPOINT", format!("http://{}/msi/token", self.address)),
            ("IDENTITY_HEADER", SECRET.to_owned()),
        ]
    }
}

impl Drop for ManagedIdentity {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn give(RawQuery(query): RawQuery, headers: HeaderMap) -> (StatusCode, String) {
    if headers.get("x-identity-header").is_none_or(|value| value != SECRET) {
        return (StatusCode::UNAUTHORIZED, json!({ "error": "unauthorized" }).to_string());
    }
    let query = query.unwrap_or_default();
    let query: HashMap<_, _> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    match (query.get("api-version").map(String::as_str), query.get("resource")) {
        (Some("2019-08-01"), Some(resource)) => {
            let expires = EXPIRES.to_string();
            let given = json!({
                "access_token": token(resource), "expires_on": expires, "resource": resource, "token_type": "Bearer",
            });
            (StatusCode::OK, given.to_string())
        }
        _ => (StatusCode::BAD_REQUEST, json!({ "error": "invalid_request" }).to_string()),
    }
}
