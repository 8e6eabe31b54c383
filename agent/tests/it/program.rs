//! The program, run as a person or a management tool runs it.

use std::path::Path;
use std::process::{Output, Stdio};

use tokio::process::Command;

use crate::config::write;
use crate::server::{Server, device_id};

async fn run(arguments: &[&str], config: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyturn-agent"));
    command.args(arguments).arg("--config").arg(config).stdin(Stdio::null()).env_remove("KEYTURN_AGENT_LOG");
    command.output().await.unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[tokio::test]
async fn once_says_one_line_and_status_what_is_known() {
    let server = Server::start().await;
    let config = write(server.folder(), &format!("http://{}", server.address));
    let device = device_id();
    let address = server.address;

    let before = run(&["status"], &config).await;
    let expected = format!(
        "Device      {device}\nAccount     lapsadmin\nPassword    not known\nIn doubt    none\n\
         Server      http://{address}\nLast run    never\n"
    );
    assert_eq!(said(&before), expected);

    let first = run(&["once"], &config).await;
    let version = server.real().unwrap();
    assert_eq!(said(&first), format!("Rotated and confirmed version {version}. code=rotated\n"));
    assert_eq!((first.status.code(), first.stderr.len()), (Some(0), 0));
    server.check_settled();

    let second = run(&["once"], &config).await;
    let line = said(&second);
    assert!(line.starts_with("Not due until 2") && line.ends_with("Z. code=not_due\n"), "{line}");
    assert_eq!(second.status.code(), Some(0));

    let status: serde_json::Value =
        serde_json::from_slice(&run(&["status", "--output", "json"], &config).await.stdout).unwrap();
    assert_eq!(status["version"], version.to_string());
    assert_eq!(
        (&status["last_run"]["code"], &status["in_doubt"]),
        (&"not_due".into(), &serde_json::json!([]))
    );
    let text = said(&run(&["status"], &config).await);
    assert!(
        text.contains(&format!("Password    version {version}, proved\n"))
            && text.contains("\nNext        2"),
        "{text}"
    );
}

#[tokio::test]
async fn a_first_line_even_when_it_fails() {
    let folder = tempfile::tempdir().unwrap();
    let config = write(folder.path(), "https://keyturn.example.org");
    std::fs::write(&config, std::fs::read_to_string(&config).unwrap().replace("wait =", "wiat =")).unwrap();
    let failed = run(&["once"], &config).await;
    assert_eq!(failed.status.code(), Some(1));
    let line = said(&failed);
    assert!(
        line.starts_with("Failed: ")
            && line.contains("agent.toml:8: wiat: ")
            && line.ends_with(" code=config\n"),
        "{line}"
    );
}

#[tokio::test]
async fn wrong_usage_is_2() {
    let nowhere = Path::new("/nowhere");
    assert_eq!(run(&["twice"], nowhere).await.status.code(), Some(2));
    assert_eq!(run(&["status", "--output", "xml"], nowhere).await.status.code(), Some(2));
    assert_eq!(run(&["status"], nowhere).await.status.code(), Some(1));
}

#[tokio::test]
async fn a_service_ends_cleanly_on_sigterm() {
    let server = Server::start().await;
    let config = write(server.folder(), &format!("http://{}", server.address));
    let mut child = Command::new(env!("CARGO_BIN_EXE_keyturn-agent"))
        .args(["run", "--config"])
        .arg(&config)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    server.until(|world| world.claims.len() == 2).await;
    let pid = rustix::process::Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
    server.check_settled();
}

/// The word lists of passphrases come into the program's libraries, and the linker leaves them out: an agent
/// generates nothing. One that starts to has to answer for a tenth of a megabyte.
#[test]
fn the_program_has_no_word_lists() {
    let program = std::fs::read(env!("CARGO_BIN_EXE_keyturn-agent")).unwrap();
    for words in ["abacus\nabdomen\n", "acid\nacorn\n", "aardvark\nabandoned\n"] {
        let mut places = program.windows(words.len());
        assert!(!places.any(|bytes| bytes == words.as_bytes()), "{words:?} is in the program");
    }
}
