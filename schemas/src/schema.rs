//! JSON Schema 2020-12 of what travels and what lies in key files, from the types themselves.
//!
//! A schema describes what a correct writer writes. Readers are laxer in one way (they ignore members they do not
//! know in claims, answers and envelopes) and stricter in others (duplicate members, the signature, key sizes,
//! small-order points), so a schema helps to write a client and replaces no check.

use std::borrow::Cow;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::alarm::{AlarmRaised, Notice};
use crate::answers::{NonceAnswer, TicketAnswer};
use crate::claims::{self, Deployment, EphemeralKey, MAX_LISTED, Version1};
use crate::envelope::{Data, Envelope, Found, Stamped, TraceParent};
use crate::finding::Finding;
use crate::key_set::{self, KeySet};
use crate::nonce::Nonce;
use crate::outcome::Outcome;
use crate::problem::Problem;
use crate::result::{self, Answer};
use crate::signing::{self, PublicKey};
use crate::stamp::Stamp;
use crate::vault::WrappedFile;
use crate::{mac, message};

/// One kind of document: its schema, and the type that reads it.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its name, in lower case with hyphens.
    pub name: &'static str,
    /// Its schema.
    pub schema: Value,
    /// Reads a text with the type itself and writes it again, or says what is wrong with it.
    pub read: fn(&str) -> Result<Value, String>,
}

/// Every kind of document.
pub fn documents() -> Vec<Document> {
    vec![
        document::<claims::Request>("request-claims"),
        document::<claims::Report>("report-claims"),
        document::<claims::Event>("event-claims"),
        document::<message::Header>("message-header"),
        document::<Stamp>("stamp"),
        document::<Finding>("finding"),
        envelope::<Stamped>("request-envelope"),
        envelope::<Found>("finding-envelope"),
        envelope::<Outcome>("outcome-envelope"),
        envelope::<AlarmRaised>("alarm-envelope"),
        document::<Notice>("alarm-notice"),
        document::<Answer>("answer"),
        document::<result::Header>("answer-header"),
        document::<KeySet>("key-set"),
        document::<key_set::Header>("key-set-header"),
        document::<PublicKey>("public-key"),
        document::<mac::RingFile>("key-ring-file"),
        document::<WrappedFile>("wrapped-keys-file"),
        document::<signing::KeyFile>("signing-key-file"),
        document::<signing::KeyReference>("signing-key-reference"),
        document::<Problem>("problem"),
        document::<NonceAnswer>("nonce-answer"),
        document::<TicketAnswer>("ticket-answer"),
    ]
}

fn document<T: JsonSchema + Serialize + DeserializeOwned>(name: &'static str) -> Document {
    let schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>();
    let mut schema = unlink(schema.to_value());
    if let Some(members) = schema.as_object_mut() {
        members.insert("$id".to_owned(), json!(format!("urn:keyturn:schema:{name}:v1")));
    }
    Document { name, schema, read: read::<T> }
}

fn envelope<D: Data + JsonSchema>(name: &'static str) -> Document {
    let mut document = document::<Envelope<D>>(name);
    if let Some(kind) = document.schema.pointer_mut("/properties/type").and_then(Value::as_object_mut) {
        kind.insert("const".to_owned(), json!(D::TYPE));
    }
    Document {
        read: |text| Envelope::<D>::parse(text).map_err(|error| error.to_string()).and_then(write),
        ..document
    }
}

fn read<T: Serialize + DeserializeOwned>(text: &str) -> Result<Value, String> {
    serde_json::from_str::<T>(text).map_err(|error| error.to_string()).and_then(write)
}

fn write(document: impl Serialize) -> Result<Value, String> {
    serde_json::to_value(document).map_err(|error| error.to_string())
}

/// Turns the links of Rust documentation into plain words.
fn unlink(schema: Value) -> Value {
    match schema {
        Value::String(text) => Value::String(text.replace("[`", "`").replace("`]", "`")),
        Value::Array(items) => items.into_iter().map(unlink).collect(),
        Value::Object(members) => {
            Value::Object(members.into_iter().map(|(name, member)| (name, unlink(member))).collect())
        }
        other => other,
    }
}

/// What the account on the device demands of a password. It may only lengthen or restrict.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "it stands for the domain's type, which knows nothing of schemas")]
pub(crate) struct Hints {
    /// Shortest password the device takes, in characters.
    min_len: Option<u32>,
    /// Whether the device demands several character classes.
    complexity: Option<bool>,
    /// Longest password the device takes, in characters.
    max_len: Option<u32>,
}

/// An answer that says `rotate` encloses a version, and one that encloses anything encloses all of it.
pub(crate) fn rotate_encloses(schema: &mut Schema) {
    let all = ["version", "epk_thumbprint", "enc", "ct"];
    schema.insert("if".to_owned(), json!({"properties": {"code": {"const": "rotate"}}}));
    schema.insert("then".to_owned(), json!({"required": all}));
    let absent: Vec<Value> = all.iter().map(|member| json!({"required": [member]})).collect();
    schema.insert("else".to_owned(), json!({"not": {"anyOf": absent}}));
}

/// Declares texts of a fixed form.
macro_rules! texts {
    ($($(#[doc = $doc:literal])* $name:ident: $pattern:expr;)*) => {$(
        $(#[doc = $doc])*
        pub(crate) struct $name;

        text!($name, stringify!($name), $pattern, concat!($($doc),*));
    )*};
}

/// Declares the schema of a type that is written as a text of a fixed form.
macro_rules! text {
    ($name:ident, $title:expr, $pattern:expr, $description:expr) => {
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                $title.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string", "pattern": $pattern, "description": $description.trim()})
            }
        }
    };
}

/// Base64url without padding of so many bytes, in its one canonical form.
macro_rules! base64url {
    (16) => {
        "^[A-Za-z0-9_-]{21}[AQgw]$"
    };
    (32) => {
        "^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$"
    };
    (36) => {
        "^[A-Za-z0-9_-]{48}$"
    };
    (272) => {
        "^[A-Za-z0-9_-]{362}[AEIMQUYcgkosw048]$"
    };
}

texts! {
    /// A signed message: SHA-256 of its compact JWS, byte for byte as sent. Base64url of 32 bytes.
    RequestId: base64url!(32);
    /// A password version: 128 random bits, never a counter. Base64url of 16 bytes.
    VersionId: base64url!(16);
    /// A lane: the first 128 bits of a hash over its key. Base64url of 16 bytes.
    LaneId: base64url!(16);
    /// SHA-256 of the RSAPublicKey DER of a device key. Base64url of 32 bytes.
    KeyHash: base64url!(32);
    /// An installation of the agent. Base64url of 32 bytes.
    InstallId: base64url!(32);
    /// The sender's own mark on a message, 128 random bits, unique per key. Base64url of 16 bytes.
    MessageMark: base64url!(16);
    /// An event of a timeline: the same for the same fact. Base64url of 16 bytes.
    EventId: base64url!(16);
    /// Something that does not happen to an honest, healthy device.
    AlarmKind: "^(?:second_lane|clone|unknown_current|rolled_back|clock_reset|held)$";
    /// `keyturn.alarm.` and what it is about.
    NoticeType: "^keyturn\\.alarm\\.[a-z_]+$";
    /// A webhook, as the configuration names it.
    WebhookName: "^[a-z0-9-]{1,32}$";
    /// The full HMAC-SHA256. Base64url of 32 bytes.
    Seal: base64url!(32);
    /// A secret key or seed. Base64url of 32 bytes.
    Secret: base64url!(32);
    /// The RFC 7638 thumbprint of a JWK. Base64url of 32 bytes.
    KeyThumbprint: base64url!(32);
    /// The encapsulated key of HPKE. Base64url of 32 bytes.
    EncapsulatedKey: base64url!(32);
    /// The ciphertext of HPKE, tag included. Base64url of 272 bytes.
    Ciphertext: base64url!(272);
    /// Base64url of the 32 bytes of an Ed25519 key, or of the 65 bytes of an uncompressed P-256 point.
    ServerKey: "^(?:[A-Za-z0-9_-]{42}|B[A-P][A-Za-z0-9_-]{84})[AEIMQUYcgkosw048]$";
    /// A device in the directory: a GUID in lower case with hyphens.
    DeviceId: "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$";
    /// A group in the directory. Lower case.
    GroupId: "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$";
    /// An account as its operating system numbers it: a Windows SID, a Linux uid, a macOS GeneratedUID.
    AccountId: "^[A-Za-z0-9._-]{1,128}$";
    /// A JWS in compact form (RFC 7515).
    Jws: "^[A-Za-z0-9_-]+\\.[A-Za-z0-9_-]+\\.[A-Za-z0-9_-]+$";
    /// A ticket: two digits of the key id, then base64url of 48 bytes.
    Ticket: "^[0-9a-f]{2}[A-Za-z0-9_-]{64}$";
    /// A certificate: standard base64 with padding of its DER (RFC 7515 section 4.1.6).
    Certificate: "^(?:[A-Za-z0-9+/]{4})+(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$";
}

text!(Nonce, "Nonce", base64url!(36), "A nonce. Base64url of 36 bytes.");
text!(Deployment, "Deployment", "^[a-z0-9.-]{1,64}$", "The name of a deployment.");
text!(
    TraceParent,
    "TraceParent",
    "^00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]$",
    "A W3C trace context of version 00."
);

/// A text that a device says about itself.
pub(crate) struct Label;

impl JsonSchema for Label {
    fn schema_name() -> Cow<'static, str> {
        "Label".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // The characters that the domain's type calls hidden, as far as they lie in the basic plane.
        let hidden = r"\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb";
        json_schema!({
            "type": "string",
            "maxLength": keyturn_domain::label::MAX,
            "pattern": format!(r"^(?:[^\s{hidden}](?:[^{hidden}]*[^\s{hidden}])?)?$"),
            "description": "At most 64 printable characters, without control, direction and zero-width \
                characters, tags (U+E0000 to U+E007F), and space at its ends. May be empty.",
        })
    }
}

/// A set of versions.
pub(crate) struct Versions;

impl JsonSchema for Versions {
    fn schema_name() -> Cow<'static, str> {
        "Versions".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let items = generator.subschema_for::<VersionId>();
        json_schema!({"type": "array", "items": items, "maxItems": MAX_LISTED, "uniqueItems": true})
    }
}

/// A point in time.
pub(crate) struct UnixMillis;

impl JsonSchema for UnixMillis {
    fn schema_name() -> Cow<'static, str> {
        "UnixMillis".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "integer",
            "minimum": 0,
            "description": "Milliseconds since 1970-01-01T00:00:00Z by the server's clock.",
        })
    }
}

impl JsonSchema for Version1 {
    fn schema_name() -> Cow<'static, str> {
        "Version1".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "integer", "const": 1})
    }
}

impl JsonSchema for EphemeralKey {
    fn schema_name() -> Cow<'static, str> {
        "EphemeralKey".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "description": "An X25519 public key as a JWK (RFC 8037), not of small order.",
            "properties": {
                "kty": {"type": "string", "const": "OKP"},
                "crv": {"type": "string", "const": "X25519"},
                "x": {"type": "string", "pattern": base64url!(32)},
            },
            "required": ["kty", "crv", "x"],
            "additionalProperties": false,
        })
    }
}
