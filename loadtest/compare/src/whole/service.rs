//! A synchronous service in the shape of CloudLAPS's `SetSecret`: the checks, the vault, and the password in the answer of
//! one request. `keyturn-compare service FLEET DEVICES FOLDER VAULT AT_ONCE GATEWAY_MS WAITS` runs it until its input ends; it prints
//! its address, and to each line of its input how many invocations are still at work.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rcgen::{CertificateParams, KeyPair};
use reqwest::{Certificate, Client};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::fleet;
use crate::Result;

/// Settings of CloudLAPS, with its own values.
const UPDATE_FREQUENCY: Duration = Duration::from_secs(3 * 86_400);
const PASSWORD_LENGTH: usize = 16;
const PASSWORD_CHARACTERS: &[u8; 77] =
    b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz.:;,-_!?$%*=+&<>@#()23456789";

/// The file of what its certificate chains to, in its folder.
pub const CA: &str = "service.pem";

struct Service {
    /// What the directory has as the key of each device; to ask Graph takes time that is not counted here.
    directory: HashMap<String, String>,
    vault: Client,
    url: String,
    token: String,
    workers: Semaphore,
    gateway: Duration,
    waits: bool,
    at_work: AtomicU64,
}

/// The request's body.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Body {
    device_name: String,
    #[serde(rename = "DeviceID")]
    device_id: String,
    serial_number: String,
    signature: String,
    thumbprint: String,
    public_key: String,
    content_type: String,
    user_name: String,
}

type Answer = (StatusCode, String);

/// Serves until standard input ends.
pub async fn run(words: &[&str]) -> Result<()> {
    let [fleet, devices, folder, url, at_once, gateway, waits] = words else {
        return Err("seven arguments".into());
    };
    let folder = Path::new(folder);
    let directory = fleet::read(Path::new(fleet), devices.parse()?)?;
    let ca = Certificate::from_pem_bundle(&std::fs::read(folder.join(super::vault::CA))?)?;
    let vault = Client::builder().tls_certs_only(ca).build()?;
    let service = Arc::new(Service {
        directory: directory.into_iter().map(|device| (device.id, device.directory_key)).collect(),
        token: token().await?,
        vault,
        url: (*url).to_owned(),
        workers: Semaphore::new(at_once.parse()?),
        gateway: Duration::from_millis(gateway.parse()?),
        waits: *waits == "1",
        at_work: AtomicU64::new(0),
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let acceptor = acceptor(&folder.join(CA))?;
    let router = Router::new().route("/api/SetSecret", post(answer)).with_state(Arc::clone(&service));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, service) = (acceptor.clone(), TowerToHyperService::new(router.clone()));
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let http = hyper::server::conn::http1::Builder::new();
                // A device that goes away is no matter.
                drop(http.serve_connection(TokioIo::new(stream), service).await);
            });
        }
    });
    println!("https://{address}/api/SetSecret");
    let asked = tokio::task::spawn_blocking(move || -> Result<()> {
        for line in std::io::stdin().lines() {
            line?;
            println!("{}", service.at_work.load(Ordering::SeqCst));
        }
        Ok(())
    });
    asked.await?
}

/// A token of the managed identity.
async fn token() -> Result<String> {
    let (endpoint, header) = (std::env::var("IDENTITY_ENDPOINT")?, std::env::var("IDENTITY_HEADER")?);
    let url = format!("{endpoint}?api-version=2019-08-01&resource=https://vault.azure.net");
    let answer: Value =
        Client::new().get(url).header("x-identity-header", header).send().await?.json().await?;
    Ok(answer["access_token"].as_str().ok_or("no token")?.to_owned())
}

/// TLS with a certificate that is written to a file.
fn acceptor(ca: &Path) -> Result<TlsAcceptor> {
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()])?.self_signed(&key)?;
    std::fs::write(ca, certificate.pem())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::try_from(key.serialize_der())?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// What the gateway does: it answers in the function's place when that takes too long. The function goes on.
async fn answer(State(service): State<Arc<Service>>, body: Bytes) -> Answer {
    service.at_work.fetch_add(1, Ordering::SeqCst);
    let invoked = Arc::clone(&service);
    let invocation = tokio::spawn(async move {
        let answer = invoke(&invoked, &body).await;
        invoked.at_work.fetch_sub(1, Ordering::SeqCst);
        answer
    });
    match tokio::time::timeout(service.gateway, invocation).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => (StatusCode::INTERNAL_SERVER_ERROR, String::new()),
        Err(_) => (StatusCode::BAD_GATEWAY, String::new()),
    }
}

async fn invoke(service: &Service, body: &[u8]) -> Answer {
    let Ok(_worker) = service.workers.acquire().await else {
        return (StatusCode::SERVICE_UNAVAILABLE, String::new());
    };
    let Ok(body) = serde_json::from_slice::<Body>(body) else {
        return (StatusCode::BAD_REQUEST, "Header validation failed".to_owned());
    };
    let known = service.directory.get(&body.device_id);
    if !known.is_some_and(|known| trusted(known, &body)) {
        return (StatusCode::FORBIDDEN, "Untrusted request".to_owned());
    }
    if updated(service, &body.serial_number).await.is_some_and(|ago| ago < UPDATE_FREQUENCY) {
        return (StatusCode::FORBIDDEN, "Secret update not allowed".to_owned());
    }
    match write(service, &body).await {
        Some(password) => (StatusCode::OK, password),
        None => (StatusCode::BAD_REQUEST, "Failed to commit secret to key vault".to_owned()),
    }
}

/// The checks, in CloudLAPS's order, against the device's key as the directory has it: thumbprint, hash of the public key,
/// signature over the device's id.
fn trusted(directory_key: &str, body: &Body) -> bool {
    let Ok(known) = STANDARD.decode(directory_key) else { return false };
    let text: String = known.chunks_exact(2).map(|pair| char::from(pair[0])).collect();
    let Ok(key) = STANDARD.decode(&body.public_key) else { return false };
    let listed =
        format!("X509:<SHA1-TP-PUBKEY>{}{}", body.thumbprint, STANDARD.encode(digest(&SHA256, &key)));
    let Ok(signature) = STANDARD.decode(&body.signature) else { return false };
    let verifier = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key);
    text == listed && verifier.verify(body.device_id.as_bytes(), &signature).is_ok()
}

/// How long ago the secret was written. An error counts as none, as `-ErrorAction SilentlyContinue` has it.
async fn updated(service: &Service, name: &str) -> Option<Duration> {
    let url = format!("{}/secrets/{name}?api-version=7.4", service.url);
    let answer =
        service.vault.get(url).bearer_auth(&service.token).send().await.ok()?.error_for_status().ok()?;
    let secret: Value = answer.json().await.ok()?;
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(secret["attributes"]["updated"].as_u64()?);
    Some(SystemTime::now().duration_since(at).unwrap_or_default())
}

/// Writes a new password; none if the vault does not take it.
async fn write(service: &Service, body: &Body) -> Option<String> {
    let password = password();
    let url = format!("{}/secrets/{}?api-version=7.4", service.url, body.serial_number);
    let secret = json!({
        "value": password, "contentType": body.content_type,
        "tags": {
            "UserName": body.user_name, "AzureADDeviceID": body.device_id, "DeviceName": body.device_name,
        },
    });
    loop {
        let answer = service.vault.put(&url).bearer_auth(&service.token).json(&secret).send().await.ok()?;
        if answer.status().is_success() {
            return Some(password);
        }
        if !(service.waits && answer.status() == reqwest::StatusCode::TOO_MANY_REQUESTS) {
            return None;
        }
        let after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        tokio::time::sleep(Duration::from_secs(after.unwrap_or(1))).await;
    }
}

fn password() -> String {
    let random = SystemRandom::new();
    let mut password = String::new();
    while password.len() < PASSWORD_LENGTH {
        let mut bytes = [0; 32];
        if random.fill(&mut bytes).is_err() {
            continue;
        }
        // 231 is three times the alphabet: what is above would favour some characters.
        let drawn = bytes.iter().filter(|byte| **byte < 231);
        let drawn = drawn.map(|byte| char::from(PASSWORD_CHARACTERS[usize::from(*byte) % 77]));
        password.extend(drawn.take(PASSWORD_LENGTH - password.len()));
    }
    password
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};

    use super::*;

    /// A device's request, and its key as the directory has it.
    fn device(id: &str) -> (Body, String) {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), id.as_bytes(), &mut signature).unwrap();
        let (key, thumbprint) = (pair.public_key().as_ref(), "AB".repeat(20));
        let text = format!("X509:<SHA1-TP-PUBKEY>{thumbprint}{}", STANDARD.encode(digest(&SHA256, key)));
        let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let body = Body {
            device_name: "D".to_owned(),
            device_id: id.to_owned(),
            serial_number: "S".to_owned(),
            signature: STANDARD.encode(signature),
            thumbprint,
            public_key: STANDARD.encode(key),
            content_type: "Local Administrator".to_owned(),
            user_name: "u".to_owned(),
        };
        (body, STANDARD.encode(utf16))
    }

    #[test]
    fn a_device_is_known_by_its_key_and_its_signature() {
        let (mut body, listed) = device("one");
        let (other, other_listed) = device("one");
        assert!(trusted(&listed, &body) && trusted(&other_listed, &other));
        assert!(!trusted(&other_listed, &body), "a key that is not listed");
        body.signature = other.signature;
        assert!(!trusted(&listed, &body), "a signature of another key");
        let (mut body, listed) = device("one");
        body.device_id = "two".to_owned();
        assert!(!trusted(&listed, &body), "a signature over another id");
        let (mut body, listed) = device("one");
        body.thumbprint = "CD".repeat(20);
        assert!(!trusted(&listed, &body), "another certificate");
    }

    #[test]
    fn passwords_are_of_the_alphabet_and_differ() {
        let (one, other) = (password(), password());
        assert!(one.len() == PASSWORD_LENGTH && one.bytes().all(|byte| PASSWORD_CHARACTERS.contains(&byte)));
        assert_ne!(one, other);
    }
}
