//! A real Azurite, the emulator of Azure Storage, in a process of its own: only what it takes for queues.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "what a test stands on fails by panicking"
)]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// The account that every Azurite has (learn.microsoft.com/azure/storage/common/storage-use-azurite).
pub const ACCOUNT: &str = "devstoreaccount1";

/// Its key.
pub const KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// The newest version of the API that Azurite 3.35 knows.
pub const API_VERSION: &str = "2025-11-05";

/// A running Azurite; gone when it is dropped, with all that it had.
pub struct Azurite {
    server: Child,
    port: u16,
}

impl Azurite {
    /// Starts the one in the folder that KEYTURN_AZURITE names, in which npm installed it, with `more` arguments. Its
    /// clock shows what is in the file `clock`, in milliseconds since 1970-01-01T00:00:00Z, if there is one.
    pub async fn start(more: &[&str], clock: Option<&Path>) -> Self {
        let installed = std::env::var_os("KEYTURN_AZURITE").expect("KEYTURN_AZURITE: see ./test azurite");
        let program = PathBuf::from(installed).join("node_modules/azurite/dist/src/queue/main.js");
        // Somebody else may get the port before Azurite has it; then it says so and the test fails.
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
        let port = listener.local_addr().expect("it is bound").port();
        drop(listener);
        let mut command = Command::new("node");
        if let Some(clock) = clock {
            command.arg("--require").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/src/azurite_clock.js"));
            command.env("KEYTURN_CLOCK", clock);
        }
        let server = command
            .arg(&program)
            .args(["--queueHost", "127.0.0.1", "--queuePort", &port.to_string()])
            .args(["--silent", "--inMemoryPersistence", "--disableTelemetry"])
            .args(more)
            .stdout(Stdio::null())
            .spawn()
            .expect("node is installed");
        let azurite = Self { server, port };
        for _ in 0..600 {
            if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return azurite;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("Azurite does not start");
    }

    /// Takes it away: it takes connections, and answers nothing until [`Azurite::resume`].
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Puts it back, with all that it had.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.server), signal).expect("it runs");
    }

    /// The account's address for queues, with this scheme.
    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://127.0.0.1:{}/{ACCOUNT}", self.port)
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        drop(self.server.kill());
        drop(self.server.wait());
    }
}
