//! Reading a body within its bounds of size and time.

use axum::extract::Request;
use axum::http::header;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use crate::api::Limits;
use crate::refusal::Refusal;

/// The message in a request's body.
pub(crate) async fn read(request: Request, limits: Limits) -> Result<String, Refusal> {
    let headers = request.headers();
    if headers.contains_key(header::TRANSFER_ENCODING) && headers.contains_key(header::CONTENT_LENGTH) {
        return Err(Refusal::Malformed("the body's length is told twice".to_owned()));
    }
    if headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind != "application/jose")
        || headers.contains_key(header::CONTENT_ENCODING)
    {
        return Err(Refusal::MediaType);
    }
    let length =
        headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > limits.body_bytes) {
        return Err(Refusal::TooLarge(limits.body_bytes));
    }
    let reading = Limited::new(request.into_body(), limits.body_bytes).collect();
    let body = tokio::time::timeout(limits.body_time, reading).await.map_err(|_| Refusal::Slow)?;
    let body = body.map_err(|error| {
        if error.downcast_ref::<LengthLimitError>().is_some() {
            Refusal::TooLarge(limits.body_bytes)
        } else {
            Refusal::Malformed("the body ended early".to_owned())
        }
    })?;
    String::from_utf8(body.to_bytes().into())
        .map_err(|_| Refusal::Malformed("the message is not UTF-8".to_owned()))
}
