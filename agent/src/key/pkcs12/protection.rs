//! The passphrase's work: the MAC over the file, and the encryption within it.

use std::num::NonZeroU32;

use aws_lc_rs::cipher::{AES_128, AES_256, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::{digest, hmac, pbkdf2};
use zeroize::Zeroizing;

use super::der::{self, Der};
use super::{DATA, Error};

const PBES2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 13];
const PBKDF2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 12];
/// The hashes of HMAC as a pseudorandom function (RFC 8018 appendix B.1), and as digests of MACs.
const HMAC: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2];
const SHA_2: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2];
const SHA_1: &[u8] = &[0x2b, 14, 3, 2, 26];
const AES: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1];

/// No file asks for more rounds, and none is worth the minutes: who exports with ten million waits seconds.
const MOST_ROUNDS: u32 = 10_000_000;

/// What the MAC key is for (RFC 7292 appendix B.3).
const FOR_MAC: u8 = 3;

/// The authenticated safe of a file whose MAC is good.
pub(super) fn authenticated<'a>(file: &'a [u8], passphrase: &str) -> Result<&'a [u8], Error> {
    let mut outer = Der::new(file);
    let mut pfx = outer.inside(der::SEQUENCE)?;
    if pfx.number()? != 3 || !outer.is_empty() {
        return Err(Error::Syntax);
    }
    let mut safe = pfx.inside(der::SEQUENCE)?;
    if safe.next(der::OID)? != DATA {
        return Err(Error::NoMac);
    }
    let content = safe.inside(der::EXPLICIT_0)?.next(der::OCTETS)?;
    if pfx.is_empty() {
        return Err(Error::NoMac);
    }
    let mut mac = pfx.inside(der::SEQUENCE)?;
    let mut info = mac.inside(der::SEQUENCE)?;
    let mut named = info.inside(der::SEQUENCE)?;
    let algorithm = hash(named.next(der::OID)?)?;
    let parameters = if named.is_empty() { &[] } else { named.next(der::NULL)? };
    let expected = info.next(der::OCTETS)?;
    let salt = mac.next(der::OCTETS)?;
    let rounds = if mac.is_empty() { NonZeroU32::MIN } else { rounds(mac.number()?)? };
    // What the MAC does not cover has nothing in it that would be passed over.
    let rests = [named, info, mac, safe, pfx];
    if !parameters.is_empty() || !rests.iter().all(Der::is_empty) {
        return Err(Error::Syntax);
    }
    let key = hmac::Key::new(algorithm, &mac_key(algorithm.digest_algorithm(), passphrase, salt, rounds));
    hmac::verify(&key, content, expected).map_err(|_| Error::Passphrase)?;
    Ok(content)
}

/// Decrypts with PBES2 (RFC 8018 section 6.2.2); `algorithm` is what its AlgorithmIdentifier holds.
pub(super) fn decrypt(
    mut algorithm: Der<'_>,
    ciphertext: &[u8],
    passphrase: &str,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    if algorithm.next(der::OID)? != PBES2 {
        return Err(Error::Unsupported);
    }
    let mut parameters = algorithm.inside(der::SEQUENCE)?;
    let (mut function, mut scheme) = (parameters.inside(der::SEQUENCE)?, parameters.inside(der::SEQUENCE)?);
    let (cipher, length) = match scheme.next(der::OID)?.strip_prefix(AES) {
        Some([2]) => (&AES_128, 16),
        Some([42]) => (&AES_256, 32),
        _ => return Err(Error::Unsupported),
    };
    let iv = FixedLength::<16>::try_from(scheme.next(der::OCTETS)?).map_err(|_| Error::Syntax)?;
    let mut key = Zeroizing::new([0; 32]);
    let key = key.get_mut(..length).ok_or(Error::Syntax)?;
    derive(&mut function, passphrase, key)?;
    let key = UnboundCipherKey::new(cipher, key).and_then(PaddedBlockDecryptingKey::cbc_pkcs7);
    let key = key.map_err(|_| Error::Unsupported)?;
    let mut text = Zeroizing::new(ciphertext.to_vec());
    let clear = key.decrypt(&mut text, DecryptionContext::Iv128(iv)).map_err(|_| Error::Passphrase)?.len();
    text.truncate(clear);
    Ok(text)
}

/// PBKDF2 (RFC 8018 appendix A.2). A length that is stated must be that of the cipher.
fn derive(function: &mut Der<'_>, passphrase: &str, key: &mut [u8]) -> Result<(), Error> {
    if function.next(der::OID)? != PBKDF2 {
        return Err(Error::Unsupported);
    }
    let mut parameters = function.inside(der::SEQUENCE)?;
    let salt = parameters.next(der::OCTETS)?;
    let rounds = rounds(parameters.number()?)?;
    if parameters.is_next(der::INTEGER) && parameters.number()? as usize != key.len() {
        return Err(Error::Syntax);
    }
    let algorithm = if parameters.is_empty() {
        pbkdf2::PBKDF2_HMAC_SHA1
    } else {
        match parameters.inside(der::SEQUENCE)?.next(der::OID)?.strip_prefix(HMAC) {
            Some([7]) => pbkdf2::PBKDF2_HMAC_SHA1,
            Some([9]) => pbkdf2::PBKDF2_HMAC_SHA256,
            Some([10]) => pbkdf2::PBKDF2_HMAC_SHA384,
            Some([11]) => pbkdf2::PBKDF2_HMAC_SHA512,
            _ => return Err(Error::Unsupported),
        }
    };
    pbkdf2::derive(algorithm, rounds, salt, passphrase.as_bytes(), key);
    Ok(())
}

fn rounds(number: u32) -> Result<NonZeroU32, Error> {
    NonZeroU32::new(number).filter(|rounds| rounds.get() <= MOST_ROUNDS).ok_or(Error::Unsupported)
}

fn hash(oid: &[u8]) -> Result<hmac::Algorithm, Error> {
    match (oid, oid.strip_prefix(SHA_2)) {
        (SHA_1, _) => Ok(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
        (_, Some([1])) => Ok(hmac::HMAC_SHA256),
        (_, Some([2])) => Ok(hmac::HMAC_SHA384),
        (_, Some([3])) => Ok(hmac::HMAC_SHA512),
        _ => Err(Error::Unsupported),
    }
}

/// The key derivation of PKCS#12 (RFC 7292 appendix B.2), for a key as long as the hash: its first block alone.
fn mac_key(
    algorithm: &'static digest::Algorithm,
    passphrase: &str,
    salt: &[u8],
    rounds: NonZeroU32,
) -> Zeroizing<Vec<u8>> {
    let block = algorithm.block_len();
    let filled = |bytes: &[u8]| -> Zeroizing<Vec<u8>> {
        let length = bytes.len().div_ceil(block) * block;
        Zeroizing::new(bytes.iter().copied().cycle().take(length).collect())
    };
    // UTF-16, the high byte first, with a zero at the end.
    let text: Zeroizing<Vec<u8>> =
        Zeroizing::new(passphrase.encode_utf16().chain([0]).flat_map(u16::to_be_bytes).collect());
    let mut context = digest::Context::new(algorithm);
    context.update(&vec![FOR_MAC; block]);
    context.update(&filled(salt));
    context.update(&filled(&text));
    let mut key = Zeroizing::new(context.finish().as_ref().to_vec());
    for _ in 1..rounds.get() {
        key = Zeroizing::new(digest::digest(algorithm, &key).as_ref().to_vec());
    }
    key
}
