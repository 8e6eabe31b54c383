//! Whole rotations of a real account, with the strict server.

use std::sync::Arc;

use keyturn_agent::accounts::{Accounts as _, Verdict};
use keyturn_agent::platform::linux::{LinuxAccounts, Options};
use keyturn_agent::{Agent, Deps, Outcome, Settings};
use keyturn_domain::ids::VersionId;
use keyturn_domain::password::Password;

use super::island::{self, done, shadow, system};
use super::{NAME, account};
use crate::server::Server;

fn real(server: &Server) -> LinuxAccounts {
    account(NAME, &server.folder().join("state"), Options::default())
}

fn agent(server: &Server, settings: Settings) -> Agent {
    Agent::new(settings, Deps::system(Arc::new(real(server)))).unwrap()
}

/// The version the account has, if it is one of the server's.
fn version(server: &Server) -> Option<VersionId> {
    let account = real(server);
    let has = |text: &String| account.verify(&Password::new(text.clone())).unwrap() == Verdict::Accepted;
    server.world().vault.iter().find(|(_, text)| has(text)).map(|(version, _)| *version)
}

/// Logs on as a person would: su, started by somebody who is not root, asks for the password.
fn logs_on(password: &str) -> bool {
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", "su", NAME, "-c", "id -un"];
    let output = system("setpriv", nobody, &format!("{password}\n"));
    String::from_utf8_lossy(&output.stdout).trim() == NAME
}

#[test]
fn a_rotation_ends_with_a_password_that_logs_on() {
    island::run("linux::rotation::a_rotation_ends_with_a_password_that_logs_on", async {
        let server = Server::start().await;
        let agent = agent(&server, server.settings());
        let first = agent.once().await.unwrap();
        let Outcome::Rotated { version: set, recorded: true } = first else { panic!("{first}") };
        assert_eq!((version(&server), server.journal().cur), (Some(set), Some(set)));
        let password = server.world().vault[&set].clone();
        assert!(logs_on(&password), "the password of the vault opens the account");
        assert!(!logs_on("another"), "and no other does");
        assert!(matches!(agent.once().await.unwrap(), Outcome::NotDue { .. }));

        done("chpasswd", &[], &format!("{NAME}:set by hand\n"));
        let second = agent.once().await.unwrap();
        {
            let world = server.world();
            let state = world.claims.iter().filter_map(|claims| claims.state()).nth(3).unwrap().clone();
            assert_eq!(state.cur, None, "what was set by hand is noticed at once");
            assert!(state.in_doubt.contains(&set));
        }
        let Outcome::Rotated { version: next, recorded: true } = second else { panic!("{second}") };
        assert_eq!((version(&server), server.journal().cur), (Some(next), Some(next)));
        assert!(next != set && !logs_on("set by hand"));
    });
}

#[test]
fn a_locked_account_is_rotated_behind_its_lock() {
    island::run("linux::rotation::a_locked_account_is_rotated_behind_its_lock", async {
        let server = Server::start().await;
        let agent = agent(&server, server.settings());
        agent.once().await.unwrap();
        done("usermod", &["--lock", NAME], "");
        server.world().force();
        let outcome = agent.once().await.unwrap();
        let Outcome::Rotated { version: set, recorded: true } = outcome else { panic!("{outcome}") };
        let password = server.world().vault[&set].clone();
        assert!(shadow(NAME, 1).starts_with("!$") && !logs_on(&password));
        done("usermod", &["--unlock", NAME], "");
        assert!(logs_on(&password));
        assert!(matches!(agent.once().await.unwrap(), Outcome::NotDue { .. }), "a lock raises no doubt");
    });
}

#[test]
fn two_agents_at_once_leave_a_password_that_is_known() {
    island::run("linux::rotation::two_agents_at_once_leave_a_password_that_is_known", async {
        let server = Server::start().await;
        let (one, two) = (agent(&server, server.settings()), agent(&server, server.settings()));
        let (first, second) = tokio::join!(one.once(), two.once());
        let codes =
            [first, second].map(|end| end.map_or_else(|error| error.code(), |outcome| outcome.code()));
        assert!(codes.contains(&"rotated") && codes.contains(&"locked"), "{codes:?}");
        // Two installations that were pointed at one account by mistake.
        let elsewhere = Settings { state: server.folder().join("elsewhere"), ..server.settings() };
        let other = agent(&server, elsewhere);
        for _ in 0..3 {
            server.world().force();
            let (first, second) = tokio::join!(one.once(), other.once());
            assert!(first.is_ok() && second.is_ok(), "{first:?} {second:?}");
            assert!(version(&server).is_some(), "the account's password is in the vault");
        }
    });
}

/// The program with settings of kind `linux`, as an administrator has it.
#[test]
fn the_program_manages_an_account_with_drawn_digits() {
    island::run("linux::rotation::the_program_manages_an_account_with_drawn_digits", async {
        let server = Server::start().await;
        let config = crate::config::write(server.folder(), &format!("http://{}", server.address));
        let text = std::fs::read_to_string(&config).unwrap();
        let path = text.lines().find(|line| line.starts_with("path = ")).unwrap();
        let text = text.replace("kind = \"file\"", "kind = \"linux\"").replace(path, "random_suffix = 4");
        std::fs::write(&config, text).unwrap();
        let run = async |command: &str| {
            let mut program = tokio::process::Command::new(env!("CARGO_BIN_EXE_keyturn-agent"));
            let output = program.arg(command).arg("--config").arg(&config).output().await.unwrap();
            (String::from_utf8(output.stdout).unwrap(), output.status.success())
        };
        let (before, _) = run("status").await;
        assert!(before.contains("Account     lapsadmin and 4 digits, not drawn yet"), "{before}");
        assert!(run("doctor").await.1);
        let (line, good) = run("rotate").await;
        assert!(good, "{line}");
        let name = std::fs::read_to_string(server.folder().join("state/account-name")).unwrap();
        assert!(name.starts_with(NAME) && name.len() == NAME.len() + 4, "{name}");
        let account = account(&name, &server.folder().join("state"), Options::default());
        let password = server.world().vault.values().next().unwrap().clone();
        assert_eq!(account.verify(&Password::new(password)).unwrap(), Verdict::Accepted);
        assert_eq!(run("detect").await, ("Fine: nothing is due. code=not_due\n".to_owned(), true));
        let (doctor, good) = run("doctor").await;
        assert!(good && doctor.contains(&format!("account      {name}, number ")), "{doctor}");
        done("chpasswd", &[], &format!("{name}:set by hand\n"));
        assert!(run("detect").await.0.ends_with(" code=changed\n"));
    });
}
