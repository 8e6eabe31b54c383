//! A token of SoftHSM. OpenSC's spy stands between the agent and the module and writes down what is asked of it.

use std::fs;

use super::{Device, tool};

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
/// OpenSC's, which passes every call on to the module that the environment names.
const SPY: &str = "/usr/lib/x86_64-linux-gnu/pkcs11/pkcs11-spy.so";
const PIN: &str = "1234";

const SECTION: &str = "kind = \"pkcs11\"\nmodule = \"MODULE\"\ntoken = \"entra\"\nlabel = \"device\"\nid = \"a1\"\n\
                       pin_file = \"pin\"";

/// A device whose key was made in the token and never left it.
async fn device(module: &str) -> Device {
    let mut device = Device::new(&SECTION.replace("MODULE", module)).await;
    let folder = device.folder().to_owned();
    let tokens = folder.join("tokens");
    fs::create_dir(&tokens).unwrap();
    let conf = format!("directories.tokendir = {}\nobjectstore.backend = file\n", tokens.display());
    fs::write(folder.join("softhsm2.conf"), conf).unwrap();
    device.environment = vec![
        ("SOFTHSM2_CONF", folder.join("softhsm2.conf").display().to_string()),
        ("PKCS11SPY", MODULE.to_owned()),
        ("PKCS11SPY_OUTPUT", folder.join("spy").display().to_string()),
    ];
    let init = ["--init-token", "--free", "--label", "entra", "--pin", PIN, "--so-pin", "87654321"];
    tool("softhsm2-util", &init, &folder, &device.environment);
    make_key(&device, "device", "a1");
    let read = ["--read-object", "--type", "pubkey", "--id", "a1", "--output-file", "public.der"];
    pkcs11_tool(&device, &read);
    device.certify(&folder.join("public.der"));
    device.pin(PIN);
    device
}

fn pkcs11_tool(device: &Device, arguments: &[&str]) -> String {
    let login = ["--module", MODULE, "--token-label", "entra", "--login", "--pin", PIN];
    tool("pkcs11-tool", &[&login[..], arguments].concat(), device.folder(), &device.environment)
}

fn make_key(device: &Device, label: &str, id: &str) {
    pkcs11_tool(device, &["--keypairgen", "--key-type", "rsa:2048", "--label", label, "--id", id]);
}

/// How often the token was asked to let somebody in.
fn logins(device: &Device) -> usize {
    let log = fs::read_to_string(device.folder().join("spy")).unwrap_or_default();
    log.lines().filter(|line| line.ends_with(": C_Login")).count()
}

#[tokio::test]
async fn a_key_in_a_token_rotates() {
    let device = device(MODULE).await;
    device.rotates("the key \"device\" (id a1) of the token \"entra\"").await;
    assert!(pkcs11_tool(&device, &["--list-objects", "--type", "privkey"]).contains("never extractable"));
}

#[tokio::test]
async fn a_wrong_pin_is_tried_once() {
    let device = device(SPY).await;
    device.pin("0000");
    device.fails("refused what is in").await;
    assert_eq!(logins(&device), 1);
    // However often somebody, or a service manager, starts it again.
    for _ in 0..5 {
        device.fails("still has what was refused before").await;
        let told = device.examined().await.unwrap_err();
        assert!(told.contains("key-tries.json"), "{told}");
    }
    device.says("run", 1).await;
    assert_eq!(logins(&device), 1);
    assert!(!fs::read_to_string(device.folder().join("state/key-tries.json")).unwrap().contains("0000"));
    // A management tool writes the same wrong PIN again.
    device.pin("0000");
    device.fails("still has what was refused before").await;
    assert_eq!(logins(&device), 1);
    device.pin(PIN);
    device.rotates("\"entra\"").await;
    assert!(logins(&device) > 3, "one for each signature");
}

#[tokio::test]
async fn a_try_that_nobody_saw_the_end_of_is_not_repeated_for_ever() {
    let device = device(SPY).await;
    fs::create_dir_all(device.folder().join("state")).unwrap();
    fs::write(device.folder().join("state/key-tries.json"), r#"{"unanswered":2,"refused":null}"#).unwrap();
    device.fails("ended without an answer").await;
    assert_eq!(logins(&device), 0);
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let device = device(MODULE).await;
    let section = fs::read_to_string(&device.config).unwrap();
    let told = async |from: &str, to: &str| {
        fs::write(&device.config, &section).unwrap();
        device.change(from, to);
        device.examined().await.unwrap_err()
    };
    for (from, to, expected) in [
        ("\"entra\"", "\"intra\"", "the token \"intra\" cannot be reached"),
        ("\"entra\"", "\"intra\"", "has \"entra\""),
        ("id = \"a1\"", "id = \"b2\"", "there is \"device\" (id a1)"),
        ("label = \"device\"", "label = \"divice\"", "\"divice\" (id a1) was looked for"),
        ("id = \"a1\"", "id = \"a\"", "key.id: expected the id in hexadecimal"),
        ("libsofthsm2.so", "libhardhsm.so", "key.module: /usr/lib/softhsm/libhardhsm.so cannot be read"),
        (MODULE, "libsofthsm2.so", "key.module: must be an absolute path"),
        (MODULE, "/etc/os-release", "is it a PKCS#11 module"),
        ("pin_file = \"pin\"", "", "name a file with it in key.pin_file"),
        ("pin_file = \"pin\"", "pin_file = \"device.crt\"", "key.pin_file: "),
        (
            "pin_file = \"pin\"",
            "pin_file = \"pin\"\nhandle = \"0x81010001\"",
            "key.handle: a key of kind `pkcs11`",
        ),
        ("label = \"device\"\nid = \"a1\"", "", "name the key by its `label`, its `id`, or both"),
    ] {
        let told = told(from, to).await;
        assert!(told.contains(expected), "{told}");
    }
    // A module that others could exchange is code that others run as root.
    let copy = device.folder().join("module.so");
    fs::copy(MODULE, &copy).unwrap();
    fs::set_permissions(&copy, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let shown = told(MODULE, copy.to_str().unwrap()).await;
    assert!(shown.contains("that nobody else can write to"), "{shown}");
}

#[tokio::test]
async fn another_key_than_the_certificates_is_found_out() {
    let device = device(MODULE).await;
    make_key(&device, "device", "b2");
    device.change("id = \"a1\"", "");
    let told = device.examined().await.unwrap_err();
    assert!(told.contains("there are several"), "{told}");
    device.change("label = \"device\"", "id = \"b2\"");
    let told = device.examined().await.unwrap_err();
    assert!(told.contains("is not the certificate's"), "{told}");
    device.fails("does not belong to the certificate").await;
}
