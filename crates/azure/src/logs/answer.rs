//! What answers of Azure Monitor say.

use azure_core::time::parse_rfc7231;
use keyturn_domain::time::UnixMillis;
use reqwest::Response;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

use crate::failure::{Refused, code_in};

/// The most bytes of an error that are looked at.
const ERROR_BYTES: usize = 16 << 10;

/// The time in the header `Date`.
pub(crate) fn date(headers: &HeaderMap) -> Option<UnixMillis> {
    let text = headers.get(DATE)?.to_str().ok()?;
    let seconds = parse_rfc7231(text).ok()?.unix_timestamp();
    Some(UnixMillis(u64::try_from(seconds).ok()?.saturating_mul(1000)))
}

/// An error, as far as it is believed.
pub(super) async fn refusal(mut response: Response) -> Refused {
    let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = header.and_then(|text| text.trim().parse().ok());
    let status = response.status().as_u16();
    let mut body = Vec::new();
    // An error that breaks off has no code, and is one all the same.
    while let Ok(Some(chunk)) = response.chunk().await {
        if body.len() + chunk.len() > ERROR_BYTES {
            body.clear();
            break;
        }
        body.extend_from_slice(&chunk);
    }
    Refused { status, code: code_in(&body), retry_after }
}
