//! Files that OpenSSL wrote.

use std::path::Path;
use std::process::{Command, Stdio};

use super::*;
use crate::key::Signer as _;

const MODERN: [&str; 6] = ["-keypbe", "AES-256-CBC", "-certpbe", "AES-256-CBC", "-macalg", "sha256"];

fn openssl(folder: &Path, arguments: &[&str]) {
    let done = Command::new("openssl").args(arguments).current_dir(folder).stdin(Stdio::null()).output();
    let done = done.expect("openssl is installed");
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A key with its certificate, which a PKCS#12 file is made of.
fn made() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let subject = ["-subj", "/CN=3f6a1c2e-0b1d-4c55-9a77-5d1f0c9b2e11", "-days", "2"];
    let request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem"];
    openssl(folder.path(), &[&request[..], &subject].concat());
    folder
}

fn exported(folder: &Path, passphrase: &str, options: &[&str]) -> Vec<u8> {
    let word = format!("pass:{passphrase}");
    let export =
        ["pkcs12", "-export", "-inkey", "key.pem", "-in", "cert.pem", "-out", "it.p12", "-passout", &word];
    openssl(folder, &[&export[..], options].concat());
    std::fs::read(folder.join("it.p12")).unwrap()
}

fn opened(file: &[u8], passphrase: &str) -> Result<Contents, Error> {
    Contents::open(file, passphrase, "it.p12")
}

#[test]
fn what_openssl_writes_is_read() {
    let folder = made();
    for options in [
        &[][..],
        &MODERN,
        &["-keypbe", "AES-128-CBC", "-certpbe", "AES-128-CBC", "-macalg", "sha512"],
        &["-keypbe", "AES-256-CBC", "-certpbe", "NONE", "-macalg", "sha1", "-iter", "1"],
        &["-keypbe", "NONE", "-certpbe", "NONE", "-macalg", "sha384", "-iter", "100000"],
    ] {
        for passphrase in [
            "pw",
            "a much longer pass phrase, of more than one block of the hash that it goes into",
            "Grüße 🔑",
        ] {
            // OpenSSL takes what is beyond Latin letters in several ways; UTF-8 is the one of the RFCs.
            let file = exported(folder.path(), passphrase, options);
            let (key, certificate) = opened(&file, passphrase).unwrap().into_pair().unwrap();
            let certificate = DeviceCertificate::from_der(&certificate).unwrap();
            let signature = key.sign(b"message").unwrap();
            let algorithm = keyturn_schemas::certificate::DeviceAlgorithm::RS256;
            assert!(certificate.verifies(algorithm, b"message", &signature), "{options:?}");
            assert_eq!(opened(&file, "wrong").err(), Some(Error::Passphrase), "{options:?}");
            assert_eq!(opened(&file, "").err(), Some(Error::Passphrase), "{options:?}");
        }
    }
}

#[test]
fn what_is_not_supported_says_so() {
    let folder = made();
    let triple = ["-keypbe", "PBE-SHA1-3DES", "-certpbe", "PBE-SHA1-3DES", "-macalg", "sha1"];
    assert_eq!(opened(&exported(folder.path(), "pw", &triple), "pw").err(), Some(Error::Unsupported));
    let file = exported(folder.path(), "pw", &[&MODERN[..], &["-nomac"]].concat());
    assert_eq!(opened(&file, "pw").err(), Some(Error::NoMac));
    let file = exported(folder.path(), "pw", &[&MODERN[..], &["-nocerts"]].concat());
    assert_eq!(opened(&file, "pw").unwrap().into_pair().err(), Some(Error::Certificate));
    let file = exported(folder.path(), "pw", &[&MODERN[..], &["-nokeys"]].concat());
    assert_eq!(opened(&file, "pw").err(), Some(Error::Keys(0)));
    assert_eq!(opened(b"-----BEGIN PRIVATE KEY-----", "pw").err(), Some(Error::Syntax));
}

/// Whatever byte is changed or missing: an error, and never a panic or another key.
#[test]
fn a_damaged_file_is_refused() {
    let folder = made();
    let file = exported(folder.path(), "pw", &[&MODERN[..], &["-iter", "1"]].concat());
    let hash = opened(&file, "pw").unwrap().into_key().hash();
    for place in 0..file.len() {
        let mut damaged = file.clone();
        damaged[place] ^= 0x41;
        assert!(opened(&damaged, "pw").is_err(), "byte {place}");
        assert!(opened(&file[..place], "pw").is_err(), "{place} bytes");
    }
    assert!(opened(&[&file[..], b"\0"].concat(), "pw").is_err());
    assert_eq!(opened(&file, "pw").unwrap().into_key().hash(), hash);
}
