//! A TPM of swtpm, which is what virtual machines have. Its own counter tells how often it was asked wrongly.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Device, tool};

const HANDLE: &str = "0x81010001";
const SECTION: &str = "kind = \"tpm2\"\ntcti = \"TCTI\"\nhandle = \"0x81010001\"\npin_file = \"pin\"";
const SIGNS: &str = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign";

struct Tpm {
    process: Child,
    device: Device,
}

impl Drop for Tpm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Tpm {
    /// A device whose key was made in a TPM of its own and never left it.
    async fn start(algorithm: &str) -> Self {
        let port = ports();
        let tcti = format!("swtpm:host=127.0.0.1,port={port}");
        let mut device = Device::new(&SECTION.replace("TCTI", &tcti)).await;
        device.environment = vec![("TPM2TOOLS_TCTI", tcti)];
        let state = device.folder().join("tpm");
        std::fs::create_dir(&state).unwrap();
        let mut command = Command::new("swtpm");
        command.args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"]);
        command.args(["--tpmstate", &format!("dir={}", state.display())]);
        command.args(["--server", &format!("type=tcp,port={port}")]);
        command.args(["--ctrl", &format!("type=tcp,port={}", port + 1)]);
        let process = command.stdin(Stdio::null()).spawn().expect("swtpm; ./test keys names the packages");
        let tpm = Self { process, device };
        tpm.wait(port).await;
        tpm.tool("tpm2_createprimary", &["-C", "o", "-c", "primary.ctx"]);
        let create =
            ["-C", "primary.ctx", "-G", algorithm, "-a", SIGNS, "-p", "s3cret", "-u", "pub", "-r", "priv"];
        tpm.tool("tpm2_create", &create);
        tpm.tool("tpm2_load", &["-C", "primary.ctx", "-u", "pub", "-r", "priv", "-c", "key.ctx"]);
        tpm.tool("tpm2_evictcontrol", &["-C", "o", "-c", "key.ctx", HANDLE]);
        tpm.tool("tpm2_readpublic", &["-c", HANDLE, "-f", "der", "-o", "public.der"]);
        tpm.device.certify(&tpm.device.folder().join("public.der"));
        tpm.device.pin("s3cret");
        tpm
    }

    async fn wait(&self, port: u16) {
        for _ in 0..200 {
            if tokio::net::TcpStream::connect(("127.0.0.1", port + 1)).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("swtpm does not start");
    }

    /// Runs one of tpm2-tools. There is no resource manager: what they leave behind would fill the TPM.
    fn tool(&self, name: &str, arguments: &[&str]) -> String {
        let (folder, environment) = (self.device.folder(), &self.device.environment);
        let said = tool(name, arguments, folder, environment);
        tool("tpm2_flushcontext", &["-t"], folder, environment);
        said
    }

    /// How many wrong tries the TPM counts.
    fn wrong_tries(&self) -> u32 {
        let said = self.tool("tpm2_getcap", &["properties-variable"]);
        let line =
            said.lines().find_map(|line| line.trim().strip_prefix("TPM2_PT_LOCKOUT_COUNTER: 0x")).unwrap();
        u32::from_str_radix(line, 16).unwrap()
    }
}

/// Two ports, one after the other, that were free a moment ago.
fn ports() -> u16 {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
}

#[tokio::test]
async fn a_key_in_a_tpm_rotates() {
    let tpm = Tpm::start("rsa2048").await;
    tpm.device.rotates("the key 0x81010001 of the TPM at swtpm:").await;
    let held = tpm.tool("tpm2_getcap", &["handles-transient"])
        + &tpm.tool("tpm2_getcap", &["handles-loaded-session"]);
    assert!(held.trim().is_empty(), "the agent leaves nothing in the TPM: {held}");
}

#[tokio::test]
async fn a_key_that_is_bound_to_the_protocols_scheme_rotates() {
    Tpm::start("rsa2048:rsassa-sha256:null").await.device.rotates("0x81010001").await;
}

#[tokio::test]
async fn a_wrong_authorization_is_tried_once() {
    let tpm = Tpm::start("rsa2048").await;
    tpm.device.pin("wrong");
    tpm.device.fails("refused what is in").await;
    for _ in 0..4 {
        tpm.device.fails("still has what was refused before").await;
    }
    assert_eq!(tpm.wrong_tries(), 1);
    tpm.device.pin("s3cret");
    tpm.device.rotates("0x81010001").await;
}

#[tokio::test]
async fn what_cannot_serve_is_named() {
    let tpm = Tpm::start("rsa2048:rsapss-sha256:null").await;
    let told = tpm.device.examined().await.unwrap_err();
    assert!(told.contains("bound to another scheme than RSASSA"), "{told}");
    assert_eq!(tpm.wrong_tries(), 0);
    tpm.device.change("0x81010001", "0x81010009");
    let told = tpm.device.examined().await.unwrap_err();
    assert!(told.contains("nothing is stored at 0x81010009"), "{told}");
    tpm.device.change("0x81010009", "0x80000001");
    let told = tpm.device.examined().await.unwrap_err();
    assert!(told.contains("key.handle: expected a persistent handle"), "{told}");
}

#[tokio::test]
async fn another_key_than_the_certificates_is_found_out() {
    let tpm = Tpm::start("rsa2048").await;
    let folder = tpm.device.folder();
    let other = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    std::fs::write(folder.join("other.der"), rcgen::PublicKeyData::subject_public_key_info(&other)).unwrap();
    tpm.device.certify(&folder.join("other.der"));
    tpm.device.fails("does not belong to the certificate").await;
}

#[tokio::test]
async fn a_tpm_that_hangs_is_given_up() {
    let mut tpm = Tpm::start("rsa2048").await;
    tpm.device.change("handle =", "time_limit = \"1s\"\nhandle =");
    let pid = rustix::process::Pid::from_child(&tpm.process);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    tpm.device.fails("gave no answer within 1 s").await;
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    tpm.device.rotates("0x81010001").await;
    tpm.process.kill().unwrap();
    tpm.process.wait().unwrap();
    let told = tpm.device.examined().await.unwrap_err();
    assert!(told.contains("cannot be reached"), "{told}");
}
