//! The columns of a stream, and bodies that keep to them.

use std::collections::BTreeMap;
use std::io::Read as _;

use axum::http::{HeaderMap, StatusCode};
use flate2::read::GzDecoder;
use keyturn_schemas::envelope::parse_rfc3339;
use serde_json::Value;

use super::Refusal;

/// The longest text; the service cuts off what is behind it.
const FIELD_BYTES: usize = 64 << 10;

/// The columns of a stream with their types.
#[derive(Debug)]
pub(super) struct Columns(BTreeMap<String, String>);

impl Columns {
    /// Those that a stream of a data collection rule declares.
    pub(super) fn declared(stream: &Value) -> Self {
        let columns = stream["columns"].as_array().expect("a stream has columns").iter();
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let named = columns.map(|column| (text(&column["name"]), text(&column["type"]))).collect();
        Self(named)
    }

    /// The rows of a body: a JSON array of objects, whole.
    pub(super) fn read(&self, headers: &HeaderMap, body: &[u8], most: usize) -> Result<Vec<Value>, Refusal> {
        let bad = |message: &str| (StatusCode::BAD_REQUEST, "InvalidRequestContent", message.to_owned());
        let too_large = || {
            let message = "Maximum allowed content length exceeded.".to_owned();
            (StatusCode::PAYLOAD_TOO_LARGE, "ContentLengthLimitExceeded", message)
        };
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        if !header("content-type").is_some_and(|kind| kind.starts_with("application/json")) {
            return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", String::new()));
        }
        if body.len() > most {
            return Err(too_large());
        }
        let mut text = Vec::new();
        match header("content-encoding") {
            None => text.extend_from_slice(body),
            Some("gzip") => {
                let most = u64::try_from(most).unwrap_or(u64::MAX);
                GzDecoder::new(body)
                    .take(most.saturating_add(1))
                    .read_to_end(&mut text)
                    .map_err(|_| bad("the body is not gzip"))?;
            }
            Some(_) => return Err(bad("the encoding is not known")),
        }
        if text.len() > most {
            return Err(too_large());
        }
        let rows: Vec<Value> = serde_json::from_slice(&text).map_err(|_| bad("the body is no JSON array"))?;
        for row in &rows {
            self.check(row).map_err(|problem| bad(&problem))?;
        }
        Ok(rows)
    }

    fn check(&self, row: &Value) -> Result<(), String> {
        let row = row.as_object().ok_or("a row is no object")?;
        for (name, value) in row {
            let kind = self.0.get(name).ok_or_else(|| format!("{name} is not declared"))?;
            let fits = match (kind.as_str(), value) {
                (_, Value::Null) => name != "TimeGenerated",
                ("string", Value::String(text)) => text.len() <= FIELD_BYTES,
                ("datetime", Value::String(text)) => parse_rfc3339(text).is_some(),
                ("dynamic", Value::Object(_) | Value::Array(_)) => true,
                _ => false,
            };
            if !fits {
                return Err(format!("{name} is no {kind}"));
            }
        }
        if !row.contains_key("TimeGenerated") {
            return Err("TimeGenerated is missing".to_owned());
        }
        Ok(())
    }
}
