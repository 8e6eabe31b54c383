//! A file of OpenSSL's, with the certificate in it.

use std::fs;

use super::{Device, tool};
use crate::server::device_id;

const SECTION: &str = "kind = \"pkcs12\"\nfile = \"device.p12\"\npassphrase_file = \"pin\"";

async fn device() -> Device {
    let device = Device::new(SECTION).await;
    let folder = device.folder();
    let name = format!("/CN={}", device_id());
    let make = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "p12.key", "-out", "p12.crt"];
    tool("openssl", &[&make[..], &["-subj", &name]].concat(), folder, &[]);
    let export = ["pkcs12", "-export", "-inkey", "p12.key", "-in", "p12.crt", "-out", "device.p12"];
    tool("openssl", &[&export[..], &["-passout", "pass:open sesame"]].concat(), folder, &[]);
    device.pin("open sesame");
    device
}

#[tokio::test]
async fn a_key_in_a_file_with_a_passphrase_rotates() {
    let device = device().await;
    let at = device.folder().display().to_string();
    device.change(&format!("certificate = \"{at}/device.crt\"\n"), "");
    device.rotates("device.p12").await;
    // The certificate beside the file serves as well.
    device.change("wait = ", &format!("certificate = \"{at}/p12.crt\"\nwait = "));
    assert!(device.examined().await.is_ok());
    let log = crate::server::log();
    assert!(!log.contains("open sesame"));
}

#[tokio::test]
async fn what_is_wrong_is_said_before_anything_is_done() {
    let device = device().await;
    let told = device.examined().await.unwrap_err();
    assert!(told.contains("key.file: the private key does not belong to the certificate"), "{told}");
    let at = device.folder().display().to_string();
    device.change(&format!("certificate = \"{at}/device.crt\"\n"), "");
    device.pin("open barley");
    let told = device.examined().await.unwrap_err();
    assert!(told.contains("key.file: the passphrase does not open it"), "{told}");
    fs::remove_file(device.folder().join("pin")).unwrap();
    let told = device.examined().await.unwrap_err();
    assert!(told.contains("key.passphrase_file: ") && told.contains("cannot be read"), "{told}");
}
