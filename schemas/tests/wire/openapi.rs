//! The device API as OpenAPI 3.1.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::golden;
use crate::schemas::components;

#[test]
fn the_device_api_on_disk_is_this_one() {
    golden::compare(&golden::folder("openapi.json"), &device_api());
}

fn device_api() -> Value {
    json!({
        "openapi": "3.1.1",
        "info": {
            "title": "Keyturn device API",
            "version": "1.0.0",
            "summary": "How devices ask for a password, fetch it, and report what became of it.",
            "description": "The bytes inside are described in docs/PROTOCOL.md, the errors in docs/errors. Every answer, \
                errors included, carries the headers Replay-Nonce and Keyturn-Key-Set.",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "https://{host}", "variables": {"host": {"default": "keyturn.example"}}}],
        "tags": [{"name": "device", "description": "What devices call. Messages carry their own signature."}],
        "security": [],
        "paths": {
            "/v1/nonce": {"get": nonce()},
            "/v1/requests": {"post": submit("postRequest", "Ask for a new password", "kt-req+jws", "request-claims")},
            "/v1/reports": {"post": submit("postReport", "Report what became of a result", "kt-rep+jws", "report-claims")},
            "/v1/events": {"post": submit("postEvent", "Tell of something that happened", "kt-evt+jws", "event-claims")},
            "/v1/requests/{ticket}": {"get": poll()},
        },
        "components": {
            "headers": headers(),
            "responses": problems(),
            "schemas": schemas(),
        },
    })
}

fn schemas() -> Value {
    let mut schemas = components(&[
        "nonce-answer",
        "ticket-answer",
        "problem",
        "request-claims",
        "report-claims",
        "event-claims",
        "message-header",
        "answer",
        "answer-header",
        "key-set",
        "key-set-header",
    ]);
    let members = schemas.as_object_mut().unwrap();
    members.insert(
        "Jws".to_owned(),
        json!({
            "type": "string",
            "maxLength": 16384,
            "pattern": "^[A-Za-z0-9_-]+\\.[A-Za-z0-9_-]+\\.[A-Za-z0-9_-]+$",
            "description": "A JWS in compact form (RFC 7515), in ASCII, without white space around it.",
        }),
    );
    members.insert(
        "TicketText".to_owned(),
        json!({"type": "string", "pattern": "^[0-9a-f]{2}[A-Za-z0-9_-]{64}$"}),
    );
    schemas
}

fn nonce() -> Value {
    json!({
        "operationId": "getNonce",
        "tags": ["device"],
        "summary": "Get a nonce",
        "responses": answers(
            [("200", json!({
                "description": "A fresh nonce, the same in body and header. It may be used for 300 seconds.",
                "headers": with_headers(&[("Cache-Control", "NoStore")]),
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/NonceAnswer"}}},
            }))],
            &OF_NONCE,
        ),
    })
}

fn submit(id: &str, summary: &str, kind: &str, claims: &str) -> Value {
    let claims = match claims {
        "request-claims" => "Request",
        "report-claims" => "Report",
        _ => "Event",
    };
    json!({
        "operationId": id,
        "tags": ["device"],
        "summary": summary,
        "description": format!("A message of typ {kind} whose payload is {claims}. The same bytes may be sent again at any \
            time: they get the same ticket and take effect once."),
        "requestBody": {
            "required": true,
            "content": {"application/jose": {
                "schema": {"$ref": "#/components/schemas/Jws"},
                "x-keyturn-header": {"$ref": "#/components/schemas/MessageHeader"},
                "x-keyturn-payload": {"$ref": format!("#/components/schemas/{claims}")},
            }},
        },
        "responses": answers(
            [("202", json!({
                "description": "Taken, durably.",
                "headers": with_headers(&[("Location", "Location"), ("Retry-After", "RetryAfter")]),
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/TicketAnswer"}}},
            }))],
            &OF_SUBMIT,
        ),
    })
}

/// The trace of a client, which the server's spans are linked to.
fn traceparent() -> Value {
    json!({
        "name": "traceparent", "in": "header", "required": false,
        "description": "The client's own trace (W3C Trace Context). The server's spans are linked to it.",
        "schema": {"type": "string", "pattern": "^00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]$"},
    })
}

/// What makes the messages of one run one trace.
fn follows() -> Value {
    json!({
        "name": "Keyturn-Follows", "in": "header", "required": false,
        "description": "The ticket of the first message of this run: this call belongs to the same trace.",
        "schema": {"$ref": "#/components/schemas/TicketText"},
    })
}

fn poll() -> Value {
    let result = json!({
        "description": "The result, signed by a key of the key set.",
        "headers": with_headers(&[("ETag", "ETag"), ("Cache-Control", "NoStore")]),
        "content": {"application/jose": {
            "schema": {"$ref": "#/components/schemas/Jws"},
            "x-keyturn-header": {"$ref": "#/components/schemas/AnswerHeader"},
            "x-keyturn-payload": {"$ref": "#/components/schemas/Answer"},
        }},
    });
    let pending = json!({
        "description": "There is no result yet.",
        "headers": with_headers(&[("Retry-After", "RetryAfter")]),
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/TicketAnswer"}}},
    });
    let same = json!({"description": "The result is the one with this tag.", "headers": with_headers(&[("ETag", "ETag")])});
    json!({
        "operationId": "getResult",
        "tags": ["device"],
        "summary": "Fetch the result of a message",
        "parameters": [
            {"name": "ticket", "in": "path", "required": true, "schema": {"$ref": "#/components/schemas/TicketText"}},
            {
                "name": "Prefer", "in": "header", "required": false,
                "description": "Wait up to so many seconds, 30 at most, for the result (RFC 7240). The server may wait less.",
                "schema": {"type": "string", "pattern": "^wait=[0-9]{1,2}$"}, "example": "wait=30",
            },
            {
                "name": "If-None-Match", "in": "header", "required": false, "schema": {"type": "string"},
                "description": "The ETag of a result that is at hand.",
            },
            traceparent(), follows(),
        ],
        "responses": answers(
            [("200", result), ("202", pending), ("304", same)],
            &OF_POLL,
        ),
    })
}

/// The answers of an operation: those that succeed, and one for each status among the problems.
fn answers<const N: usize>(successes: [(&str, Value); N], codes: &[&str]) -> Value {
    let mut answers: Map<String, Value> =
        successes.map(|(status, answer)| (status.to_owned(), answer)).into_iter().collect();
    for status in statuses(codes) {
        let name = response_name(&of_status(codes, status));
        answers.insert(status.to_string(), json!({"$ref": format!("#/components/responses/{name}")}));
    }
    Value::Object(answers)
}

/// The problems of the device API: code, status, title.
const PROBLEMS: [(&str, u16, &str); 14] = [
    ("KT-0101", 400, "the message is malformed"),
    ("KT-0102", 415, "the media type is not application/jose"),
    ("KT-0103", 413, "the message is larger than 16 KiB"),
    ("KT-0104", 405, "the method is not one of this path"),
    ("KT-0105", 404, "there is no such path"),
    ("KT-0106", 403, "the message was refused: its signature does not match"),
    ("KT-0107", 401, "the message is for another deployment"),
    ("KT-0108", 401, "the nonce is not fresh; sign anew with the one in this answer"),
    ("KT-0109", 429, "too many requests"),
    ("KT-0110", 404, "the ticket is unknown"),
    ("KT-0111", 503, "the message cannot be taken now"),
    ("KT-0112", 408, "the request came in too slowly"),
    ("KT-0113", 431, "the header fields are larger than 8 KiB"),
    ("KT-0201", 403, "the message was refused"),
];

/// The problems of each operation: exactly those that it can end in.
const OF_NONCE: [&str; 4] = ["KT-0104", "KT-0109", "KT-0111", "KT-0113"];
const OF_SUBMIT: [&str; 11] = [
    "KT-0101", "KT-0102", "KT-0103", "KT-0104", "KT-0106", "KT-0107", "KT-0108", "KT-0109", "KT-0111",
    "KT-0112", "KT-0113",
];
const OF_POLL: [&str; 6] = ["KT-0104", "KT-0109", "KT-0110", "KT-0111", "KT-0113", "KT-0201"];

fn statuses(codes: &[&str]) -> BTreeSet<u16> {
    PROBLEMS.iter().filter(|(code, ..)| codes.contains(code)).map(|(_, status, _)| *status).collect()
}

fn of_status<'a>(codes: &[&'a str], status: u16) -> Vec<&'a str> {
    let its = |code: &&str| PROBLEMS.iter().any(|(known, its, _)| known == code && *its == status);
    codes.iter().copied().filter(its).collect()
}

/// The codes an operation has for one status make one response.
fn response_name(codes: &[&str]) -> String {
    codes.join("_")
}

fn problems() -> Value {
    let mut responses = Map::new();
    for codes in [OF_NONCE.as_slice(), &OF_SUBMIT, &OF_POLL] {
        for status in statuses(codes) {
            let codes = of_status(codes, status);
            responses.insert(response_name(&codes), problem(status, &codes));
        }
    }
    Value::Object(responses)
}

fn problem(status: u16, codes: &[&str]) -> Value {
    let known = PROBLEMS.iter().filter(|(code, ..)| codes.contains(code));
    let texts: Vec<String> = known.map(|(code, _, title)| format!("{code}: {title}.")).collect();
    let extra: &[(&str, &str)] = match status {
        429 | 503 => &[("Retry-After", "RetryAfter")],
        405 => &[("Allow", "Allow")],
        _ => &[],
    };
    json!({
        "description": texts.join(" "),
        "headers": with_headers(extra),
        "content": {"application/problem+json": {"schema": {
            "allOf": [{"$ref": "#/components/schemas/Problem"}],
            "properties": {"status": {"const": status}, "code": {"enum": codes}},
        }}},
    })
}

/// The headers of every answer, and these.
fn with_headers(extra: &[(&str, &str)]) -> Value {
    let every = [("Replay-Nonce", "ReplayNonce"), ("Keyturn-Key-Set", "KeyturnKeySet")];
    let reference = |(name, header): &(&str, &str)| {
        ((*name).to_owned(), json!({"$ref": format!("#/components/headers/{header}")}))
    };
    Value::Object(every.iter().chain(extra).map(reference).collect())
}

fn headers() -> Value {
    json!({
        "ReplayNonce": {
            "description": "A fresh nonce for the next message.",
            "required": true,
            "schema": {"$ref": "#/components/schemas/Nonce"},
        },
        "KeyturnKeySet": {
            "description": "The key set, a JWS of typ kt-keys+jws signed by the root key, whose payload is KeySet.",
            "required": true,
            "schema": {"$ref": "#/components/schemas/Jws"},
        },
        "Location": {
            "description": "Where the result will be: /v1/requests/ and the ticket.",
            "required": true,
            "schema": {"type": "string", "pattern": "^/v1/requests/[0-9a-f]{2}[A-Za-z0-9_-]{64}$"},
        },
        "RetryAfter": {
            "description": "Ask again after so many seconds.",
            "required": true,
            "schema": {"type": "integer", "minimum": 0},
        },
        "ETag": {"description": "Names this result.", "required": true, "schema": {"type": "string"}},
        "NoStore": {
            "description": "Not to be kept by anybody in between.",
            "required": true,
            "schema": {"type": "string", "const": "no-store"},
        },
        "Allow": {"description": "The methods of this path.", "required": true, "schema": {"type": "string"}},
    })
}

#[test]
fn every_reference_leads_somewhere() {
    let api = device_api();
    let mut references = Vec::new();
    collect(&api, &mut references);
    assert!(references.len() > 50);
    for reference in references {
        assert!(api.pointer(reference.strip_prefix('#').unwrap()).is_some(), "{reference}");
    }
}

/// All references in a document.
pub(crate) fn collect(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        Value::Object(members) => {
            found.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
            members.values().for_each(|member| collect(member, found));
        }
        _ => {}
    }
}

#[test]
fn the_protocol_description_has_every_problem_and_code() {
    let text = std::fs::read_to_string(golden::folder("../docs/PROTOCOL.md")).unwrap();
    for (code, status, _) in PROBLEMS {
        assert!(text.contains(&format!("| {code} | {status} |")), "{code}");
    }
    let answer = components(&["answer"]);
    for code in answer["Code"]["oneOf"].as_array().unwrap() {
        assert!(text.contains(&format!("| `{}` |", code["const"].as_str().unwrap())), "{code}");
    }
}
