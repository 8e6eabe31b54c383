//! A running server tells of its queues and changes its log level.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use crate::deployment::Deployment;
use crate::processes::free_address;

#[test]
fn a_server_tells_of_its_queues_and_changes_its_log_level() {
    let deployment = Deployment::init();
    let (listen, health) = (free_address(), free_address());
    deployment.configure(&format!("[ingress]\nlisten = \"{listen}\"\n[health]\nall = \"{health}\"\n"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyturn"));
    let command = command.arg("--config").arg(deployment.config()).arg("up").stderr(Stdio::piped());
    let mut server = command.spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&server);
    let mut log = BufReader::new(server.stderr.take().unwrap()).lines();
    let mut until = |said: &str| log.by_ref().map(Result::unwrap).find(|line| line.contains(said)).unwrap();
    until("working");
    let scraped = loop {
        let Ok(mut stream) = TcpStream::connect(health) else { continue };
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        break text;
    };
    for metric in [
        "keyturn_queue_oldest_message_age_seconds{queue=\"requests\"} 0",
        "keyturn_queue_dead_letters{queue=\"alarms\"} 0",
    ] {
        assert!(scraped.contains(metric), "{metric}: {scraped}");
    }
    rustix::process::kill_process(pid, rustix::process::Signal::USR1).unwrap();
    assert!(until("told to log more").contains("\"debug\":true"));
    rustix::process::kill_process(pid, rustix::process::Signal::USR1).unwrap();
    assert!(until("told to log more").contains("\"debug\":false"));
    let config = deployment.config();
    let before = std::fs::read_to_string(&config).unwrap();
    let hang_up = |text: &str| {
        std::fs::write(&config, text).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    };
    let with = |level: &str| format!("{before}[logs]\nlevel = \"{level}\"\n");
    hang_up(&with("warn,keyturn_service=info"));
    assert!(until("the log level was read again").contains("\"level\":\"warn,keyturn_service=info\""));
    hang_up(&with("keyturn_service=loud"));
    assert!(until("the configuration cannot be used, the log level stays as it is").contains("loud"));
    hang_up("nonsense");
    until("the configuration cannot be used, the log level stays as it is");
    hang_up(&before);
    until("the log level was read again");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(server.wait().unwrap().success());
}
