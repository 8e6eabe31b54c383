//! HPKE base mode (RFC 9180) written out from the RFC, so that the library's is not only checked against itself
//! and so that vectors can be sealed with a sender's key that is known.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use aws_lc_rs::hmac;

use crate::world::hex;

/// The AEAD of a suite with DHKEM(X25519, HKDF-SHA256) and HKDF-SHA256, by its number.
#[derive(Clone, Copy)]
pub(crate) enum Aead {
    Aes128Gcm = 1,
    Aes256Gcm = 2,
}

/// Seals with the sender's ephemeral key given; answers with the encapsulated key and the ciphertext.
pub(crate) fn seal(
    aead: Aead,
    sender: &[u8; 32],
    recipient: &[u8],
    info: &[u8],
    associated: &[u8],
    plain: &[u8],
) -> (Vec<u8>, Vec<u8>) {
    let enc = public(sender);
    let shared = agreed(sender, recipient);
    let (key, nonce) = schedule(aead, &shared_secret(&shared, &enc, recipient), info);
    let mut sealed = plain.to_vec();
    key.seal_in_place_append_tag(nonce, Aad::from(associated), &mut sealed).unwrap();
    (enc, sealed)
}

/// Opens what was sealed to `recipient`.
pub(crate) fn open(
    aead: Aead,
    recipient: &[u8; 32],
    enc: &[u8],
    info: &[u8],
    associated: &[u8],
    sealed: &[u8],
) -> Vec<u8> {
    let shared = agreed(recipient, enc);
    let (key, nonce) = schedule(aead, &shared_secret(&shared, enc, &public(recipient)), info);
    let mut plain = sealed.to_vec();
    key.open_in_place(nonce, Aad::from(associated), &mut plain).unwrap().to_vec()
}

/// The public half of an X25519 key.
pub(crate) fn public(secret: &[u8; 32]) -> Vec<u8> {
    PrivateKey::from_private_key(&X25519, secret).unwrap().compute_public_key().unwrap().as_ref().to_vec()
}

fn agreed(secret: &[u8; 32], public: &[u8]) -> Vec<u8> {
    let secret = PrivateKey::from_private_key(&X25519, secret).unwrap();
    agree(&secret, UnparsedPublicKey::new(&X25519, public), (), |shared| Ok(shared.to_vec())).unwrap()
}

fn shared_secret(agreed: &[u8], enc: &[u8], recipient: &[u8]) -> Vec<u8> {
    let suite = b"KEM\x00\x20";
    let key = extract(suite, &[], b"eae_prk", agreed);
    expand(suite, &key, b"shared_secret", &[enc, recipient].concat(), 32)
}

fn schedule(aead: Aead, shared: &[u8], info: &[u8]) -> (LessSafeKey, Nonce) {
    let suite = [b"HPKE\x00\x20\x00\x01\x00".as_slice(), &[aead as u8]].concat();
    let (psk, info) = (extract(&suite, &[], b"psk_id_hash", &[]), extract(&suite, &[], b"info_hash", info));
    let context = [&[0], psk.as_slice(), &info].concat();
    let secret = extract(&suite, shared, b"secret", &[]);
    let algorithm: &Algorithm = match aead {
        Aead::Aes128Gcm => &AES_128_GCM,
        Aead::Aes256Gcm => &AES_256_GCM,
    };
    let key = expand(&suite, &secret, b"key", &context, algorithm.key_len());
    let nonce = expand(&suite, &secret, b"base_nonce", &context, 12);
    let key = LessSafeKey::new(UnboundKey::new(algorithm, &key).unwrap());
    (key, Nonce::try_assume_unique_for_key(&nonce).unwrap())
}

fn extract(suite: &[u8], salt: &[u8], label: &[u8], material: &[u8]) -> Vec<u8> {
    mac(salt, &[b"HPKE-v1", suite, label, material])
}

/// One block of HKDF-Expand, which is all that HPKE takes with SHA-256 and these AEADs.
fn expand(suite: &[u8], key: &[u8], label: &[u8], info: &[u8], length: usize) -> Vec<u8> {
    let wanted = u16::try_from(length).unwrap().to_be_bytes();
    let mut block = mac(key, &[&wanted, b"HPKE-v1", suite, label, info, &[1]]);
    block.truncate(length);
    block
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), &parts.concat()).as_ref().to_vec()
}

fn bytes(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// RFC 9180 appendix A.1.1, the first encryption.
#[test]
fn it_is_hpke_by_the_vectors_of_the_rfc() {
    let recipient = bytes("4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8");
    let sender = bytes("52c4a758a802cd8b936eceea314432798d5baf2d7e9235dc084ab1b9cfa2f736");
    let (info, associated) = (bytes("4f6465206f6e2061204772656369616e2055726e"), bytes("436f756e742d30"));
    let plain = bytes("4265617574792069732074727574682c20747275746820626561757479");
    let sealed = "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a";
    let enc = "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431";
    let recipient: [u8; 32] = recipient.try_into().unwrap();
    let sender: [u8; 32] = sender.try_into().unwrap();
    let made = seal(Aead::Aes128Gcm, &sender, &public(&recipient), &info, &associated, &plain);
    assert_eq!((hex(made.0).as_str(), hex(made.1).as_str()), (enc, sealed));
    assert_eq!(open(Aead::Aes128Gcm, &recipient, &bytes(enc), &info, &associated, &bytes(sealed)), plain);
}
