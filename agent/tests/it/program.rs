//! The program, run as a person or a management tool runs it.

use std::path::Path;
use std::process::{Output, Stdio};

use tokio::process::Command;

use crate::config::write;
use crate::server::world::{PollTrick, PostTrick};
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

/// A word that somebody's script waits for is in the manual.
#[test]
fn the_manual_names_every_word() {
    let manual = include_str!("../../../docs/AGENT.md");
    let sources = [
        include_str!("../../src/outcome.rs"),
        include_str!("../../src/cycle.rs"),
        include_str!("../../src/agent.rs"),
        include_str!("../../src/detect.rs"),
    ];
    let mut words = Vec::new();
    for source in sources {
        let body = source.split("pub fn code(&self)").nth(1).unwrap().split("\n    }\n").next().unwrap();
        words.extend(body.split('"').skip(1).step_by(2));
    }
    assert!(words.len() > 20, "{words:?}");
    for word in words {
        assert!(manual.contains(&format!("`{word}`")), "{word}");
    }
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

#[tokio::test]
async fn a_management_tool_asks_first_and_acts_after() {
    let server = Server::start().await;
    let config = write(server.folder(), &format!("http://{}", server.address));
    let ends = |output: &Output, code: i32, line: &str| {
        assert_eq!(
            (said(output), output.status.code(), output.stderr.len()),
            (format!("{line}\n"), Some(code), 0)
        );
    };
    let detect = || run(&["detect", "--intune"], &config);
    ends(&detect().await, 1, "The managed account does not exist. code=account");

    let dry = run(&["rotate", "--dry-run"], &config).await;
    let expected = format!(
        "Would create the account lapsadmin.\n\
         Would ask http://{} for a password (due for all this device knows; the server decides).\n\
         Would set what it sends, prove it by logging on, and report it.\nNothing was changed. code=dry_run",
        server.address
    );
    ends(&dry, 0, &expected);
    assert!(!server.folder().join("state").exists() && !server.folder().join("account.json").exists());
    assert!(server.world().posts.is_empty());

    let rotated = run(&["rotate", "--intune"], &config).await;
    let version = server.real().unwrap();
    ends(&rotated, 0, &format!("Rotated and confirmed version {version}. code=rotated"));
    ends(&detect().await, 0, "Fine: nothing is due. code=not_due");
    let again = run(&["rotate", "--intune"], &config).await;
    assert!(again.status.success() && said(&again).ends_with(" code=not_due\n"));
    assert!(said(&detect().await).starts_with("Fine: not due until 2"));

    // Somebody else sets the password.
    let account = server.folder().join("account.json");
    let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&account).unwrap()).unwrap();
    record["last_set"] = 5.into();
    std::fs::write(&account, record.to_string()).unwrap();
    ends(&detect().await, 1, "The password was changed by other means than the agent. code=changed");
}

#[tokio::test]
async fn a_failure_is_found_by_the_next_look() {
    let server = Server::start().await;
    let config = write(server.folder(), &format!("http://{}", server.address));
    assert!(run(&["once"], &config).await.status.success());
    let text = std::fs::read_to_string(&config).unwrap();
    let away = text.replace(&server.address.to_string(), "127.0.0.1:9");
    std::fs::write(&config, &away).unwrap();
    let failed = run(&["rotate", "--intune"], &config).await;
    let line = said(&failed);
    assert!(line.starts_with("Failed: ") && line.ends_with(" code=unreachable\n"), "{line}");
    assert_eq!((failed.status.code(), failed.stderr.len(), line.lines().count()), (Some(1), 0, 1));
    let found = run(&["detect", "--intune"], &config).await;
    assert_eq!(said(&found), format!("The last run: {line}"));
    assert_eq!(found.status.code(), Some(1));
}

/// What is mended on the server is not looked for here, and whoever asks there is told of whom.
#[tokio::test]
async fn the_doctor_tells_of_a_refusal_and_who_mends_it() {
    let server = Server::start().await;
    let config = write(server.folder(), &format!("http://{}", server.address));
    let rotation = async || {
        let output = run(&["doctor"], &config).await;
        let line = said(&output).lines().find(|line| line.contains(" rotation ")).unwrap().to_owned();
        (output.status.code(), line)
    };
    let show = format!("`keyturn device show {}` names the code", device_id());
    // Before it ever rotated, and after.
    for _ in 0..2 {
        server.world().on_poll.push_back(PollTrick::Forbidden);
        assert_eq!(run(&["once"], &config).await.status.code(), Some(1));
        let (code, line) = rotation().await;
        assert!(
            code == Some(1) && line.starts_with("fail  rotation     the server refused this device at 2"),
            "{line}"
        );
        assert!(
            line.contains(&show) && line.contains("KT-0206") && !line.contains("run keyturn-agent"),
            "{line}"
        );
        assert!(run(&["once"], &config).await.status.success());
        let (code, line) = rotation().await;
        assert!(code == Some(0) && line.starts_with("ok    rotation "), "{line}");
    }
    server.world().on_post.push_back(PostTrick::Answer(
        403,
        "application/problem+json",
        r#"{"type":"about:blank","title":"The message is refused","status":403,"code":"KT-0106"}"#,
    ));
    assert!(!run(&["once"], &config).await.status.success());
    let (_, line) = rotation().await;
    assert!(line.contains("did not take this device's message at 2") && line.contains("KT-0106"), "{line}");
}

#[tokio::test]
async fn the_doctor_names_what_is_wrong_and_what_mends_it() {
    let server = Server::start().await;
    let config = write(server.folder(), &format!("http://{}", server.address));
    let healthy = run(&["doctor"], &config).await;
    let lines = said(&healthy);
    assert!(healthy.status.success(), "{lines}");
    let checks: Vec<&str> = lines.lines().filter_map(|line| line.strip_prefix("ok    ")).collect();
    let begins =
        ["settings", "identity", "state", "journal", "account", "rotation", "server", "clock", "key set"];
    assert_eq!(checks.len(), lines.lines().count(), "{lines}");
    assert!(checks.iter().zip(begins).all(|(line, begin)| line.starts_with(begin)), "{lines}");
    assert!(lines.contains("lapsadmin does not exist and will be created"), "{lines}");
    assert!(server.world().posts.is_empty());

    let text = std::fs::read_to_string(&config).unwrap();
    let told = async |from: &str, to: &str| {
        std::fs::write(&config, text.replace(from, to)).unwrap();
        let output = run(&["doctor"], &config).await;
        assert_eq!(output.status.code(), Some(1));
        said(&output).lines().filter(|line| line.starts_with("fail")).collect::<Vec<_>>().join("\n")
    };
    let away = told(&server.address.to_string(), "127.0.0.1:9").await;
    assert!(away.starts_with("fail  server ") && away.contains("check server, proxy and ca"), "{away}");
    let other = told("\"contoso\"", "\"fabrikam\"").await;
    assert!(
        other.starts_with("fail  key set ") && other.contains("compare deployment and root_key"),
        "{other}"
    );
    let missing = told("name = \"lapsadmin\"", "name = \"lapsadmin\"\ncreate = false").await;
    assert!(missing.contains("set account.create = true"), "{missing}");
    let settings = told("wait =", "wiat =").await;
    assert!(settings.starts_with("fail  settings ") && settings.contains(":8: wiat: "), "{settings}");
    std::fs::create_dir_all(server.folder().join("state")).unwrap();
    std::fs::write(server.folder().join("state/journal.json"), "{").unwrap();
    let damaged = told("nothing", "nothing").await;
    assert!(damaged.contains("fail  journal "), "{damaged}");
}
