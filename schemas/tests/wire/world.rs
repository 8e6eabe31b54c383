//! Fixed inputs, shared by examples and vectors: one device, one deployment, one instant. All secrets in it are
//! published with the source.

use std::fs;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use keyturn_domain::entropy::Entropy;
use keyturn_domain::ids::{DeviceId, GroupId, InstallId, MessageMark, RequestId, VersionId};
use keyturn_domain::lane::{Hints, LaneKey, Order};
use keyturn_domain::time::UnixMillis;
use keyturn_schemas::certificate::{DeviceAlgorithm, DeviceCertificate};
use keyturn_schemas::claims::{
    Account, Common, Deployment, EphemeralKey, Event, EventOp, Labels, Report, ReportOp, Request, RequestOp,
    State, Version1,
};
use keyturn_schemas::finding::{Check, Facts, Finding, FindingKeys};
use keyturn_schemas::key_set::KeySet;
use keyturn_schemas::mac::{KeyId, KeyRing};
use keyturn_schemas::message::{self, Claims, SignedMessage};
use keyturn_schemas::nonce::{Nonce, NonceKeys};
use keyturn_schemas::seal::Binding;
use keyturn_schemas::signing::SigningKey;
use keyturn_schemas::stamp::{Stamp, StampKeys};
use keyturn_schemas::ticket::TicketKeys;

use crate::golden;

/// When the first nonce is given out.
pub(crate) const START: UnixMillis = UnixMillis(1_790_000_000_000);
/// When the first message comes in.
pub(crate) const RECEIVED: UnixMillis = UnixMillis(START.0 + 1_250);
/// The name of the one ingress.
pub(crate) const INGRESS: &str = "ingress-1";
/// The password in all vectors.
pub(crate) const PASSWORD: &str = "Zp4:wq,Kd7.Rm-T3";
/// The private half of the ephemeral key of RFC 7748 section 6.1 (Alice).
pub(crate) const EPHEMERAL_SECRET: [u8; 32] = [
    0x77, 0x07, 0x6d, 0x0a, 0x73, 0x18, 0xa5, 0x7d, 0x3c, 0x16, 0xc1, 0x72, 0x51, 0xb2, 0x66, 0x45, 0xdf,
    0x4c, 0x2f, 0x87, 0xeb, 0xc0, 0x99, 0x2a, 0xb1, 0x77, 0xfb, 0xa5, 0x1d, 0xb9, 0x2c, 0x2a,
];
const EPHEMERAL_PUBLIC: [u8; 32] = [
    0x85, 0x20, 0xf0, 0x09, 0x89, 0x30, 0xa7, 0x54, 0x74, 0x8b, 0x7d, 0xdc, 0xb4, 0x3e, 0xf7, 0x5a, 0x0d,
    0xbf, 0x3a, 0x0d, 0x26, 0x38, 0x1a, 0xf4, 0xeb, 0xa4, 0xa9, 0x8e, 0xaa, 0x9b, 0x4e, 0x6a,
];

/// Bytes that count up from a start: recognisable, and never random.
pub(crate) fn counting<const N: usize>(start: u8) -> [u8; N] {
    std::array::from_fn(|at| start.wrapping_add(at.to_le_bytes()[0]))
}

/// An entropy that is none.
pub(crate) struct Counting(pub(crate) u8);

impl Entropy for Counting {
    fn fill(&self, out: &mut [u8]) {
        for (byte, value) in out.iter_mut().zip(counting::<256>(self.0)) {
            *byte = value;
        }
    }
}

/// The secret of the one key in a ring.
pub(crate) const NONCE_SECRET: [u8; 32] = [0xa1; 32];
pub(crate) const STAMP_SECRET: [u8; 32] = [0xa2; 32];
pub(crate) const TICKET_SECRET: [u8; 32] = [0xa3; 32];
pub(crate) const FINDING_SECRET: [u8; 32] = [0xa4; 32];
pub(crate) const SIGNING_SEED: [u8; 32] = [0xb1; 32];
pub(crate) const ROOT_SEED: [u8; 32] = [0xb2; 32];

pub(crate) fn nonce_keys() -> NonceKeys {
    NonceKeys::new(KeyRing::new([(KeyId(1), NONCE_SECRET)]))
}

pub(crate) fn stamp_keys() -> StampKeys {
    StampKeys::new(KeyRing::new([(KeyId(2), STAMP_SECRET)]))
}

pub(crate) fn ticket_keys() -> TicketKeys {
    TicketKeys::new(KeyRing::new([(KeyId(3), TICKET_SECRET)]))
}

pub(crate) fn finding_keys() -> FindingKeys {
    FindingKeys::new(KeyRing::new([(KeyId(4), FINDING_SECRET)]))
}

pub(crate) fn signing_key() -> SigningKey {
    SigningKey::from_seed("sign-1", &SIGNING_SEED).unwrap()
}

pub(crate) fn root_key() -> SigningKey {
    SigningKey::from_seed("root-1", &ROOT_SEED).unwrap()
}

pub(crate) fn deployment() -> Deployment {
    "example".parse().unwrap()
}

pub(crate) fn device() -> DeviceId {
    "3f6a1c2e-0b1d-4c55-9a77-5d1f0c9b2e11".parse().unwrap()
}

pub(crate) fn version(number: u8) -> VersionId {
    VersionId(counting(0x10 * number))
}

pub(crate) fn ephemeral() -> EphemeralKey {
    EphemeralKey::from_bytes(EPHEMERAL_PUBLIC).unwrap()
}

pub(crate) fn nonce(at: UnixMillis) -> Nonce {
    nonce_keys().issue(at, &Counting(0x20)).unwrap()
}

pub(crate) fn key_set() -> KeySet {
    let not_after = UnixMillis(START.0 + 90 * 86_400_000);
    KeySet { v: Version1, deployment: deployment(), serial: 7, keys: vec![signing_key().public()], not_after }
}

/// The published test device: its key and certificate.
pub(crate) struct Device {
    pair: RsaKeyPair,
    pub(crate) der: Vec<u8>,
}

impl Device {
    pub(crate) fn published() -> Self {
        let pair = RsaKeyPair::from_pkcs8(&pem("test-only-device.key.pem")).unwrap();
        Self { pair, der: pem("test-only-device.cert.pem") }
    }

    pub(crate) fn certificate(&self) -> DeviceCertificate {
        DeviceCertificate::from_der(&self.der).unwrap()
    }

    pub(crate) fn rsa_public_key(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    pub(crate) fn lane(&self) -> LaneKey {
        let Account { id: account, .. } = account();
        LaneKey { device: device(), account, install: install(), key: self.certificate().key_hash() }
    }

    /// Signs with RS256, which always gives the same bytes.
    pub(crate) fn sign(&self, claims: &Claims) -> String {
        let input = message::signing_input(claims, DeviceAlgorithm::RS256, &self.der).unwrap();
        let signature = self.signature(input.as_bytes());
        message::complete(input, &signature)
    }

    pub(crate) fn signature(&self, input: &[u8]) -> Vec<u8> {
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), input, &mut signature).unwrap();
        signature
    }

    pub(crate) fn binding(&self) -> Binding {
        Binding { rid: RequestId::of(&self.sign(&request())), lane: self.lane().id(), version: version(2) }
    }
}

fn pem(name: &str) -> Vec<u8> {
    let text = fs::read_to_string(golden::folder("vectors").join(name)).unwrap();
    let lines = text.lines().skip_while(|line| !line.starts_with("-----BEGIN")).skip(1);
    STANDARD.decode(lines.take_while(|line| !line.starts_with("-----END")).collect::<String>()).unwrap()
}

pub(crate) fn install() -> InstallId {
    InstallId(counting(0x60))
}

fn account() -> Account {
    Account {
        id: "S-1-5-21-1004336348-1177238915-682003330-500".parse().unwrap(),
        name: label("Administrator"),
    }
}

fn label(text: &str) -> keyturn_domain::label::Label {
    keyturn_domain::label::Label::parse(text).unwrap()
}

fn common(mark: u8, nonce: Nonce) -> Common {
    let (serial, host, os) = (label("5CD0123ABC"), label("LAB-07"), label("Windows 11 Pro 24H2"));
    Common {
        v: Version1,
        aud: deployment(),
        jti: MessageMark(counting(mark)),
        iat: START.0 / 1000,
        nonce,
        device_id: device(),
        labels: Labels { serial, host, os, vm: false },
        account: account(),
        install_id: install(),
    }
}

/// A request of a device that uses version 1 and once was refused version 3.
pub(crate) fn request() -> Claims {
    let refused = [version(3)];
    let state = State {
        cur: Some(version(1)),
        in_doubt: refused.into(),
        refused: refused.into(),
        password_age: Some(259_200),
        account_missing: false,
    };
    Claims::Request(Request {
        common: common(0x80, nonce(START)),
        op: RequestOp::Rotate,
        epk: ephemeral(),
        wait_s: 600,
        state,
        policy: Hints { min_len: Some(14), complexity: Some(true), max_len: Some(127) },
        reason: label("scheduled"),
    })
}

/// The first request of a device that knows nothing yet.
pub(crate) fn first_request() -> Claims {
    let Claims::Request(request) = request() else { unreachable!() };
    let state = State { password_age: None, ..State::default() };
    let common = Common { labels: Labels::default(), ..common(0x90, nonce(START)) };
    Claims::Request(Request { common, state, policy: Hints::default(), reason: label(""), ..request })
}

/// The report that version 2 is in use.
pub(crate) fn report() -> Claims {
    let state = State { cur: Some(version(2)), password_age: Some(1), ..State::default() };
    let common = common(0xa0, nonce(UnixMillis(START.0 + 4_000)));
    Claims::Report(Report { common, op: ReportOp::Applied, state, policy: Hints::default() })
}

pub(crate) fn event() -> Claims {
    let common = common(0xb0, nonce(UnixMillis(START.0 + 6_000)));
    Claims::Event(Event {
        common,
        op: EventOp::Event,
        result: label("PasswordRotated"),
        message: label("done"),
    })
}

pub(crate) fn stamp(rid: RequestId) -> Stamp {
    stamp_keys().stamp(rid, Order { received: RECEIVED, nonce: START }, INGRESS).unwrap()
}

pub(crate) fn facts(message: &SignedMessage, failed: Option<Check>) -> Facts {
    let key_hash = message.certificate().key_hash();
    Facts {
        rid: message.rid(),
        key_hash,
        enabled: failed != Some(Check::Enabled),
        failed,
        directory_ms: RECEIVED,
        groups: [].into(),
    }
}

pub(crate) fn finding(message: &SignedMessage, failed: Option<Check>) -> Finding {
    finding_keys().seal(facts(message, failed)).unwrap()
}

/// The same, of a device in groups that policies go by.
pub(crate) fn facts_with_groups(message: &SignedMessage) -> Facts {
    let groups = [0xfe, 0x0b].map(|first| GroupId::from_bytes([first; 16])).into();
    Facts { groups, ..facts(message, None) }
}

pub(crate) fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
