use std::fs;

use rcgen::{CertifiedKey as Generated, generate_simple_self_signed};
use rustls::SupportedCipherSuite;
use tempfile::TempDir;

use super::*;

struct Pem {
    folder: TempDir,
}

impl Pem {
    /// Writes a fresh certificate and returns it.
    fn renew(&self, seconds: u64) -> Vec<u8> {
        let Generated { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        self.write("certificate.pem", &cert.pem(), seconds);
        self.write("key.pem", &signing_key.serialize_pem(), seconds);
        cert.der().to_vec()
    }

    /// Writes a file as if so many seconds had passed since the epoch: two writes of one test may fall into one
    /// tick of the file system's clock.
    fn write(&self, name: &str, text: &str, seconds: u64) {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
    }

    fn files(&self) -> Files {
        Files {
            certificate: self.folder.path().join("certificate.pem"),
            key: self.folder.path().join("key.pem"),
            provider: Arc::new(provider()),
        }
    }
}

fn served(current: &Current) -> Vec<u8> {
    current.0.read().unwrap().cert[0].to_vec()
}

#[test]
fn a_changed_certificate_is_served_and_a_broken_one_is_not() {
    let pem = Pem { folder: tempfile::tempdir().unwrap() };
    let first = pem.renew(1);
    let files = pem.files();
    let current = Current(RwLock::new(Arc::new(files.read().unwrap())));
    let mut seen = files.changed();
    files.refresh(&current, &mut seen);
    assert_eq!(served(&current), first);

    let second = pem.renew(2);
    files.refresh(&current, &mut seen);
    assert_eq!(served(&current), second);

    pem.write("key.pem", "not a key", 3);
    files.refresh(&current, &mut seen);
    assert_eq!(served(&current), second, "the old one stays");

    let third = pem.renew(4);
    files.refresh(&current, &mut seen);
    assert_eq!(served(&current), third);
}

#[test]
fn what_is_wrong_is_said_with_the_file() {
    let pem = Pem { folder: tempfile::tempdir().unwrap() };
    pem.renew(1);
    for (name, content, said) in [
        ("certificate.pem", "", "there is no certificate in it"),
        ("key.pem", "", "there is no private key in it"),
    ] {
        pem.renew(2);
        pem.write(name, content, 2);
        let error = pem.files().read().unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(said), "{error}");
    }
    pem.renew(3);
    let certificate = fs::read_to_string(pem.folder.path().join("certificate.pem")).unwrap();
    pem.renew(4);
    pem.write("certificate.pem", &certificate, 5);
    let error = pem.files().read().unwrap_err().to_string();
    assert!(error.contains("does not serve this certificate"), "{error}");
}

#[test]
fn the_cheapest_cipher_suite_comes_first_and_there_is_one_provider() {
    let suites = provider().cipher_suites;
    assert_eq!(
        suites.first().map(SupportedCipherSuite::suite),
        Some(rustls::CipherSuite::TLS13_AES_128_GCM_SHA256)
    );
}
