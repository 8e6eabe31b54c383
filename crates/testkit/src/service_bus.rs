//! A stand-in for Azure Service Bus, in a process of its own: no emulator of it can be had. What it does is in
//! `service_bus.js`, on the AMQP library rhea; Microsoft's own client judges it (`./test azure`).

#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "what a test stands on fails by panicking"
)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use rustix::process::{Pid, Signal, kill_process};

use crate::clock::ManualClock;

/// The policy that opens everything.
pub const POLICY: &str = "RootManageSharedAccessKey";

/// Its key.
pub const KEY: &str = "bm90IGEgc2VjcmV0LCBidXQgYSB0ZXN0Cg==";

/// A certificate and its key, for one under TLS.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The file with the certificate, in PEM.
    pub certificate: PathBuf,
    /// The file with its key, in PEM.
    pub key: PathBuf,
}

/// A running fake; gone when the last clone is dropped, with all that it had.
#[derive(Clone)]
pub struct FakeServiceBus(Arc<Process>);

struct Process {
    child: Mutex<Child>,
    pipes: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    port: u16,
}

impl Drop for Process {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        drop(child.kill());
        drop(child.wait());
    }
}

impl FakeServiceBus {
    /// Starts one with these queues: names, and for each `lockMs`, `maxDelivery`, `dedupMs` and `sessions`, of which none
    /// need be given. rhea is in the folder that KEYTURN_RHEA names, in which npm installed it.
    pub fn start(queues: &Value, tls: Option<&Certificate>) -> Self {
        let installed = std::env::var_os("KEYTURN_RHEA").expect("KEYTURN_RHEA: see ./test service-bus");
        let settings = json!({
            "keyName": POLICY,
            "key": KEY,
            "queues": queues,
            "certificate": tls.map(|tls| &tls.certificate),
            "certificateKey": tls.map(|tls| &tls.key),
        });
        let mut child = Command::new("node")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/src/service_bus.js"))
            .env("NODE_PATH", PathBuf::from(installed).join("node_modules"))
            .env("KEYTURN_SERVICE_BUS", settings.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node is installed");
        let stdin = child.stdin.take().expect("it is piped");
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("it speaks");
        let told: Value = serde_json::from_str(&line).expect("the fake starts");
        let port = told.get("port").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
        let port = port.expect("it has a port");
        Self(Arc::new(Process { child: Mutex::new(child), pipes: Mutex::new((stdin, stdout)), port }))
    }

    /// Its address, with this scheme.
    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://127.0.0.1:{}", self.0.port)
    }

    /// Tells it something, and returns what it answers; see `service_bus.js`.
    pub fn tell(&self, command: &Value) -> Value {
        let mut pipes = self.0.pipes.lock().unwrap_or_else(PoisonError::into_inner);
        let (stdin, stdout) = &mut *pipes;
        writeln!(stdin, "{command}").expect("it listens");
        let mut line = String::new();
        stdout.read_line(&mut line).expect("it answers");
        serde_json::from_str(&line).expect("it answers in JSON; if not, see what it wrote to standard error")
    }

    /// Lets the next `times` operations go wrong: `op` is one of `send`, `deliver`, `put-token`, or of `$management`;
    /// `how` is `busy`, `before`, `after` or `delay`, the last of half a second.
    pub fn fault(&self, op: &str, how: &str, times: u32) {
        self.tell(&json!({ "fault": { "op": op, "how": how, "times": times, "ms": 500 } }));
    }

    /// What tokens are good for from now on, of `Listen` and `Send`. Links that are there stay.
    pub fn rights(&self, rights: &[&str]) {
        self.tell(&json!({ "rights": rights }));
    }

    /// Breaks every connection.
    pub fn drop_links(&self) {
        self.tell(&json!({ "drop": true }));
    }

    /// Takes it away: it takes connections, and answers nothing until [`FakeServiceBus::resume`].
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Puts it back, with all that it had.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.0.child.lock().unwrap_or_else(PoisonError::into_inner);
        kill_process(Pid::from_child(&child), signal).expect("it runs");
    }

    /// What is on a queue: lists of `alive` and `dead`, how many were `sent` to it, and how many `connections` and `faults`
    /// there are.
    pub fn look(&self, queue: &str) -> Value {
        self.tell(&json!({ "look": queue }))
    }

    /// A clock that it goes by.
    pub fn clock(&self) -> ManualClock {
        let fake = self.clone();
        ManualClock::default().followed(move |now| {
            fake.tell(&json!({ "clock": now.0 }));
        })
    }
}
