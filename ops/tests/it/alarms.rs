//! Alarms on their way out of the house while the process that sends them is killed, and a receiver that is away,
//! hangs and fails. Deliveries are verified by code that is none of ours.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use keyturn_testkit::receiver::{Act, Delivery, Receiver};
use serde_json::{Value, json};

use crate::deployment::{Deployment, text};
use crate::processes::{Device, free_address, install};

const DEVICES: usize = 3;
const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// `keyturn up` as a process.
struct Up(Child);

impl Up {
    fn start(deployment: &Deployment) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyturn"));
        command.arg("--config").arg(deployment.config()).arg("up").stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    /// SIGKILL.
    fn kill(mut self) {
        assert!(self.0.try_wait().unwrap().is_none(), "it ended by itself");
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn write_secret(deployment: &Deployment) {
    let mut file = std::fs::OpenOptions::new();
    let path = deployment.path("data/keys/webhook-on-call.key");
    let mut file = file.write(true).create_new(true).mode(0o600).open(path).unwrap();
    writeln!(file, "{SECRET}").unwrap();
}

/// What a process tells Prometheus.
fn metrics(health: SocketAddr) -> String {
    let mut stream = TcpStream::connect(health).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// How many alarms wait to be delivered, as `keyturn queues` tells it.
fn undelivered(deployment: &Deployment) -> u64 {
    let queues: Value = serde_json::from_str(&deployment.ok(&["--output", "json", "queues"])).unwrap();
    let alarms = queues.as_array().unwrap().iter().find(|queue| queue["queue"] == "alarms").unwrap();
    assert_eq!(alarms["dead"], 0);
    alarms["total"].as_u64().unwrap()
}

/// Until the agent has rotated, whatever becomes of the server.
async fn rotate(device: &Device) {
    for _ in 0..100 {
        if device.agent().once().await.is_ok_and(|outcome| outcome.is_success()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{} never rotated", device.name);
}

fn holds(delivery: &Delivery, body: &str) -> bool {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/independent/webhook.py");
    let mut command = Command::new("python3");
    let mut python = command.arg(script).stdin(Stdio::piped()).spawn().unwrap();
    let asked = json!({"secret": SECRET, "headers": delivery.headers, "body": body});
    python.stdin.take().unwrap().write_all(asked.to_string().as_bytes()).unwrap();
    python.wait().unwrap().success()
}

#[tokio::test(flavor = "multi_thread")]
async fn alarms_survive_a_kill_between_their_commit_and_their_delivery() {
    let deployment = Deployment::init();
    let (address, outside, health) = (free_address(), free_address(), free_address());
    deployment.configure(&format!(
        "[ingress]\nlisten = \"{address}\"\n[health]\nall = \"{health}\"\n[workers]\nlease = \"1s\"\nfirst_delay = \"50ms\"\n\
         [alarms]\nfirst_delay = \"50ms\"\nmax_delay = \"200ms\"\n[[alarms.webhook]]\nname = \"on-call\"\n\
         url = \"http://{outside}/hook\"\nsecret_file = \"keys/webhook-on-call.key\"\nkinds = [\"clone\"]\n"
    ));
    let refused = deployment.keyturn(&["config", "check"]);
    assert!(text(&refused.stdout).contains("webhook-on-call.key: there is no such file"), "{refused:?}");
    write_secret(&deployment);
    assert!(deployment.ok(&["config", "check"]).contains("ok      webhook        on-call"));
    let devices: Vec<Device> = (0..DEVICES).map(|number| install(&deployment, number, address)).collect();

    // Nobody is there to be told when the alarms are raised, and then the process dies.
    let server = Up::start(&deployment);
    for device in &devices {
        rotate(device).await;
        rotate(&device.cloned(&deployment)).await;
    }
    assert!(metrics(health).contains("\nkeyturn_alarms_undelivered 3\n"));
    server.kill();
    assert_eq!(undelivered(&deployment), DEVICES as u64, "what was committed is there");

    // It dies again while a receiver has an alarm and has not answered.
    let receiver = Receiver::on(outside).await;
    receiver.script([Act::Hang]);
    let server = Up::start(&deployment);
    receiver.wait_for(1).await;
    server.kill();
    assert_eq!(undelivered(&deployment), DEVICES as u64, "what was not answered is not delivered");

    receiver.script([Act::Answer(500), Act::Close]);
    let server = Up::start(&deployment);
    while undelivered(&deployment) > 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.kill();

    let heard = receiver.heard();
    let ids: Vec<&str> = heard.iter().map(|delivery| delivery.header("webhook-id")).collect();
    let distinct: BTreeSet<&str> = ids.iter().copied().collect();
    assert_eq!(distinct.len(), DEVICES, "each alarm has one id: {ids:?}");
    assert!(ids.len() >= DEVICES + 3, "three failed: {ids:?}");
    assert!(ids.iter().skip(1).any(|id| *id == ids[0]), "what hung came again");
    let mut told = BTreeSet::new();
    for delivery in &heard {
        assert!(holds(delivery, &delivery.body), "{delivery:?}");
        let body: Value = serde_json::from_str(&delivery.body).unwrap();
        assert_eq!(body["type"], "keyturn.alarm.clone");
        told.insert(body["data"]["device_id"].as_str().unwrap().to_owned());
    }
    assert_eq!(told.len(), DEVICES, "each device is told of");
    assert!(!holds(&heard[0], &heard[0].body.replace("clone", "held")), "the check can fail");
}
