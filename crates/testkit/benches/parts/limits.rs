//! What the machine needs for the same work without Keyturn: RSA of aws-lc-rs alone, and a log in a file that does not
//! grow.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use aws_lc_rs::signature::{ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use super::{Counted, Part, pure};

/// 1 KiB, the size that messages of the pipeline have.
pub(super) const BODY: &str = {
    const BYTES: [u8; 1024] = [b'x'; 1024];
    match std::str::from_utf8(&BYTES) {
        Ok(text) => text,
        Err(_) => "",
    }
};

/// Of the log, which starts over at its end.
const LOG: u64 = 16 << 20;

pub(super) fn parts(folder: &Path) -> Vec<Part> {
    let (key, input, signature) = signed();
    let (raw_input, raw_signature) = (input.clone(), signature.clone());
    let parsed = ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &key).unwrap();
    let bare = |name, call: Box<dyn FnMut()>| Part { counted: Counted::No, call, ..Part::pure(name, || ()) };
    vec![
        bare(
            "bare: RSA-2048 verify",
            Box::new(move || {
                let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &key);
                black_box(key.verify(&input, &signature)).unwrap();
            }),
        ),
        bare(
            "bare: RSA-2048 verify, key parsed before",
            Box::new(move || black_box(parsed.verify_sig(&raw_input, &raw_signature)).unwrap()),
        ),
        log(folder, "bare: log of 1", 1),
        log(folder, "bare: log of 64", 64),
    ]
}

/// The key of the message of the vectors, what it signed, and how.
fn signed() -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let certificate = include_str!("../../../../schemas/vectors/certificate.json");
    let certificate: serde_json::Value = serde_json::from_str(certificate).unwrap();
    let key = STANDARD.decode(certificate["rsa_public_key_der"].as_str().unwrap()).unwrap();
    let text = pure::message();
    let (input, signature) = text.rsplit_once('.').unwrap();
    (key, input.as_bytes().to_vec(), URL_SAFE_NO_PAD.decode(signature).unwrap())
}

/// Appends so many messages at once to a log that was written before, and waits for the disk.
fn log(folder: &Path, name: &'static str, items: u32) -> Part {
    let path = folder.join(format!("{items}.log"));
    let mut file = None;
    let bytes = BODY.as_bytes().repeat(items as usize);
    let mut at = 0;
    let call = move || {
        let file: &File = file.get_or_insert_with(|| written(&path));
        file.write_all_at(&bytes, at).unwrap();
        file.sync_data().unwrap();
        at = (at + bytes.len() as u64) % (LOG - bytes.len() as u64);
    };
    Part { items, counted: Counted::No, call: Box::new(call), ..Part::pure(name, || ()) }
}

fn written(path: &Path) -> File {
    let file = File::create(path).unwrap();
    file.write_all_at(&vec![0; usize::try_from(LOG).unwrap()], 0).unwrap();
    file.sync_all().unwrap();
    file
}
