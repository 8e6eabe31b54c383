//! A fake device: a real key and certificate, the real journal, and an account that is a string in memory.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "what a test stands on fails by panicking"
)]

use std::collections::BTreeSet;
use std::sync::{Mutex, OnceLock, PoisonError};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair as RsaKey;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyturn_domain::ids::{DeviceId, InstallId, MessageMark, RequestId, VersionId};
use keyturn_domain::journal::Journal;
use keyturn_domain::label::Label;
use keyturn_domain::lane::{Hints, LaneKey};
use keyturn_domain::password::Password;
use keyturn_ports::directory::{AlternativeSecurityId, DeviceRecord};
use keyturn_schemas::certificate::{DeviceAlgorithm, DeviceCertificate};
use keyturn_schemas::claims::{
    Account, Common, Deployment, Event, EventOp, Labels, Report, ReportOp, Request, RequestOp, State,
    Version1,
};
use keyturn_schemas::message::{Claims, complete, signing_input};
use keyturn_schemas::nonce::Nonce;
use keyturn_schemas::result::{Answer, Code};
use keyturn_schemas::seal::{self, Binding, EphemeralSecret};
use keyturn_schemas::security_id::{DEVICE_KEY, RegisteredKey};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_RSA_SHA256, RsaKeySize};

/// A fake device.
pub struct FakeDevice {
    /// As the directory numbers it.
    pub id: DeviceId,
    /// What the account accepts.
    pub account: Option<Password>,
    /// The version of it.
    pub version: Option<VersionId>,
    /// The journal, as it is on disk.
    pub journal: Journal,
    certificate: DeviceCertificate,
    der: Vec<u8>,
    key: RsaKey,
    deployment: Deployment,
    marks: u8,
    waiting: Option<(RequestId, EphemeralSecret)>,
}

/// Keys made so far: an RSA key takes a tenth of a second, and tests use the same few.
static KEYS: OnceLock<Mutex<Vec<Vec<u8>>>> = OnceLock::new();

fn key(number: usize) -> Vec<u8> {
    let mut keys = KEYS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    while keys.len() <= number {
        let made =
            KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("an RSA key can be made");
        keys.push(made.serialize_der());
    }
    keys[number].clone()
}

impl FakeDevice {
    /// The device of this number, with a key of its own.
    pub fn new(number: u8, deployment: Deployment) -> Self {
        Self::with_key(number, usize::from(number), deployment)
    }

    /// The device of this number, with the key of another number.
    pub fn with_key(number: u8, key_number: usize, deployment: Deployment) -> Self {
        let id = DeviceId::from_bytes([number; 16]);
        let key = key(key_number);
        let pair = KeyPair::try_from(key.as_slice()).expect("the key is one of ours");
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, id.to_string());
        let der = params.self_signed(&pair).expect("a certificate can be made").der().to_vec();
        Self {
            id,
            account: None,
            version: None,
            journal: Journal::default(),
            certificate: DeviceCertificate::from_der(&der).expect("the certificate is sound"),
            der,
            key: RsaKey::from_pkcs8(&key).expect("the key is one of ours"),
            deployment,
            marks: 0,
            waiting: None,
        }
    }

    /// The directory's record of this device.
    pub fn record(&self) -> DeviceRecord {
        let key = RegisteredKey {
            thumbprint: self.certificate.thumbprint(),
            key_hash: self.certificate.key_hash(),
        };
        DeviceRecord {
            device_id: self.id,
            display_name: Some(format!("TEST-{:02}", self.id.as_bytes()[0])),
            account_enabled: Some(true),
            trust_type: Some("AzureAd".to_owned()),
            alternative_security_ids: vec![AlternativeSecurityId { kind: DEVICE_KEY, key: key.encode() }],
            operating_system: None,
            groups: None,
        }
    }

    /// The lane it speaks for.
    pub fn lane(&self) -> LaneKey {
        let common = self.common("AAAA".repeat(12).parse().expect("a nonce's form"), 0);
        LaneKey {
            device: self.id,
            account: common.account.id,
            install: common.install_id,
            key: self.certificate.key_hash(),
        }
    }

    /// A signed request. The device waits for its answer from now on.
    pub fn request(&mut self, nonce: Nonce) -> String {
        let (secret, epk) = seal::generate().expect("a key can be made");
        self.marks += 1;
        let claims = Claims::Request(Request {
            common: self.common(nonce, self.marks),
            op: RequestOp::Rotate,
            epk,
            wait_s: 900,
            state: self.state(),
            policy: Hints::default(),
            reason: Label::default(),
        });
        let text = self.sign(&claims);
        self.waiting = Some((RequestId::of(&text), secret));
        text
    }

    /// A signed report of the journal.
    pub fn report(&mut self, nonce: Nonce) -> String {
        self.marks += 1;
        let (common, state) = (self.common(nonce, self.marks), self.state());
        self.sign(&Claims::Report(Report { common, op: ReportOp::Applied, state, policy: Hints::default() }))
    }

    /// A signed event.
    pub fn event(&mut self, nonce: Nonce, result: &str) -> String {
        self.marks += 1;
        let label = |text| Label::parse(text).expect("a label");
        let common = self.common(nonce, self.marks);
        self.sign(&Claims::Event(Event {
            common,
            op: EventOp::Event,
            result: label(result),
            message: label("test"),
        }))
    }

    /// Its certificate, in DER.
    pub fn certificate(&self) -> &[u8] {
        &self.der
    }

    /// Signs any claims.
    pub fn sign(&self, claims: &Claims) -> String {
        self.complete(signing_input(claims, DeviceAlgorithm::RS256, &self.der).expect("claims are JSON"))
    }

    /// Signs exactly these bytes as header and payload of a JWS, whatever they are.
    pub fn sign_bytes(&self, header: &[u8], payload: &[u8]) -> String {
        self.complete(format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload)))
    }

    fn complete(&self, input: String) -> String {
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), input.as_bytes(), &mut signature)
            .expect("signing works");
        complete(input, &signature)
    }

    /// Does what the answer to the live request says: journal, set, journal. Returns whether a version was set.
    pub fn apply(&mut self, answer: &Answer) -> bool {
        let (Code::Rotate, Some(enclosed)) = (answer.code, &answer.enclosed) else { return false };
        let (rid, secret) = self.waiting.take().expect("the device waits for an answer");
        assert_eq!(answer.rid, rid, "the answer is to the live request");
        let binding = Binding { rid, lane: self.lane().id(), version: enclosed.version };
        let password = secret.open(&enclosed.sealed().expect("sealed"), &binding).expect("the seal opens");
        self.journal.setting(enclosed.version);
        (self.account, self.version) = (Some(password), Some(enclosed.version));
        self.journal.proved(enclosed.version, Some(1));
        true
    }

    /// What every message says.
    pub fn common(&self, nonce: Nonce, mark: u8) -> Common {
        let label = |text: &str| Label::parse(text).expect("a label");
        Common {
            v: Version1,
            aud: self.deployment.clone(),
            jti: MessageMark([mark; 16]),
            iat: 0,
            nonce,
            device_id: self.id,
            labels: Labels { serial: label("SN-1"), host: label("host"), os: label("Test"), vm: false },
            account: Account { id: "uid-1000".parse().expect("an account id"), name: label("localadmin") },
            install_id: InstallId([7; 32]),
        }
    }

    fn state(&self) -> State {
        let known = self.journal.known(64);
        let set = |list: Vec<VersionId>| list.into_iter().collect::<BTreeSet<_>>();
        State {
            cur: known.cur,
            in_doubt: set(known.in_doubt),
            refused: set(known.refused),
            password_age: None,
            account_missing: false,
        }
    }
}
