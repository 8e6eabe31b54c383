use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RSA_PSS_SHA256};

use super::DeviceAlgorithm::{PS256, RS256};
use super::*;
use crate::fixtures::{DEVICE, certificate, device, rsa, stranger};

const F4: &[u8] = &[1, 0, 1];

#[test]
fn only_sound_rsa_keys_are_accepted() {
    let cases: [(&str, usize, &[u8], bool); 12] = [
        ("2048 bits", 2048, F4, true),
        ("3072 bits", 3072, F4, true),
        ("4096 bits", 4096, F4, true),
        ("a large odd exponent", 2048, &[1, 0, 0, 0, 1], true),
        ("1024 bits", 1024, F4, false),
        ("2047 bits", 2047, F4, false),
        ("4097 bits", 4097, F4, false),
        ("exponent 1", 2048, &[1], false),
        ("exponent 3", 2048, &[3], false),
        ("exponent 65535", 2048, &[0xff, 0xff], false),
        ("an even exponent", 2048, &[1, 0, 2], false),
        ("an exponent of nine bytes", 2048, &[1, 0, 0, 0, 0, 0, 0, 0, 1], false),
    ];
    for (what, bits, exponent, good) in cases {
        let read = DeviceCertificate::from_der(&certificate(&[DEVICE], &rsa(bits, exponent)));
        let expected = if good { None } else { Some(CertificateError::Key) };
        assert_eq!(read.err(), expected, "{what}");
    }
}

#[test]
fn keys_of_other_kinds_are_refused() {
    let elliptic = rcgen::generate_simple_self_signed([DEVICE.to_owned()]).unwrap();
    assert_eq!(DeviceCertificate::from_der(elliptic.cert.der()), Err(CertificateError::Key));
}

#[test]
fn only_one_whole_certificate_is_read() {
    let good = &device().der;
    assert!(DeviceCertificate::from_der(good).is_ok());
    let trailing = [good.as_slice(), &[0]].concat();
    let large = [good.as_slice(), &vec![0; MAX_DER]].concat();
    for (what, der) in [
        ("nothing", &[] as &[u8]),
        ("half", &good[..good.len() / 2]),
        ("more", &trailing),
        ("too much", &large),
    ] {
        assert_eq!(DeviceCertificate::from_der(der), Err(CertificateError::Syntax), "{what}");
    }
}

#[test]
fn the_common_name_counts_if_it_is_the_only_one_and_a_device_id() {
    let key = rsa(2048, F4);
    let upper = DEVICE.to_uppercase();
    let cases: [(&[&str], bool); 6] = [
        (&[DEVICE], true),
        (&[&upper], true),
        (&[], false),
        (&["LAB-07"], false),
        (&[DEVICE, DEVICE], false),
        (&[DEVICE, "LAB-07"], false),
    ];
    for (names, counts) in cases {
        let read = DeviceCertificate::from_der(&certificate(names, &key)).unwrap();
        assert_eq!(read.common_name(), counts.then(|| DEVICE.parse().unwrap()), "{names:?}");
    }
}

#[test]
fn a_signature_is_that_of_one_key_algorithm_and_message() {
    let own = DeviceCertificate::from_der(&device().der).unwrap();
    let other = DeviceCertificate::from_der(&stranger().der).unwrap();
    let (pkcs1, pss) = (device().sign(&RSA_PKCS1_SHA256, "text"), device().sign(&RSA_PSS_SHA256, "text"));
    assert!(own.verifies(RS256, b"text", &pkcs1) && own.verifies(PS256, b"text", &pss));
    assert!(!own.verifies(PS256, b"text", &pkcs1) && !own.verifies(RS256, b"text", &pss));
    assert!(!own.verifies(RS256, b"Text", &pkcs1) && !other.verifies(RS256, b"text", &pkcs1));
    assert!(!own.verifies(RS256, b"text", &[]) && !own.verifies(RS256, b"text", &[0; 256]));
}
