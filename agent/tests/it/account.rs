//! Accounts that refuse, lie or vanish, and journals that are lost.

use std::fs;

use keyturn_agent::accounts::Accounts as _;
use keyturn_agent::accounts::file::Faults;
use keyturn_agent::{Agent, Deps, Outcome};
use keyturn_domain::password::Password;
use keyturn_schemas::claims::ReportOp;
use keyturn_schemas::message::Claims;

use crate::server::{Server, log};

fn agent(server: &Server, faults: Faults) -> Agent {
    Agent::new(server.settings(), Deps::system(server.account(faults))).unwrap()
}

#[tokio::test]
async fn a_refused_version_is_reported_and_the_next_one_taken() {
    let server = Server::start().await;
    server.agent().once().await.unwrap();
    let before = server.real();
    server.world().force();
    let agent = agent(&server, Faults { refuse_next: 1, ..Faults::default() });
    let outcome = agent.once().await.unwrap();
    let Outcome::AccountRefused { version, recorded: true } = outcome else { panic!("{outcome}") };
    assert_eq!(server.real(), before, "the old password stays");
    {
        let world = server.world();
        let Some(Claims::Report(report)) = world.claims.last() else { panic!("no report") };
        assert_eq!(report.op, ReportOp::Refused);
        assert_eq!(report.state.cur, before);
        assert!(report.state.refused.contains(&version) && report.state.in_doubt.contains(&version));
    }
    let next = agent.once().await.unwrap();
    assert!(matches!(next, Outcome::Rotated { recorded: true, .. }), "{next}");
    server.check_settled();
}

#[tokio::test]
async fn refusals_without_end_are_held_by_the_server() {
    let server = Server::start().await;
    let agent = agent(&server, Faults { min_length: 200, ..Faults::default() });
    for _ in 0..3 {
        assert!(matches!(agent.once().await.unwrap(), Outcome::AccountRefused { .. }));
    }
    let outcome = agent.once().await.unwrap();
    assert!(matches!(outcome, Outcome::Held { retry_at: Some(_) }), "{outcome}");
    assert_eq!(server.real(), None);
}

#[tokio::test]
async fn an_error_that_set_the_password_all_the_same_counts_as_set() {
    let server = Server::start().await;
    let outcome = agent(&server, Faults { error_but_set_next: 1, ..Faults::default() }).once().await.unwrap();
    assert!(matches!(outcome, Outcome::Rotated { recorded: true, .. }), "{outcome}");
    server.check_settled();
}

#[tokio::test]
async fn a_journal_lost_after_a_rotation_makes_the_device_ask_and_claim_nothing() {
    let server = Server::start().await;
    let agent = server.agent();
    agent.once().await.unwrap();
    let before = server.real().unwrap();
    fs::remove_file(server.folder().join("state/journal.json")).unwrap();
    let outcome = agent.once().await.unwrap();
    assert!(matches!(outcome, Outcome::Rotated { recorded: true, .. }), "{outcome}");
    assert_ne!(server.real(), Some(before));
    assert_eq!(server.world().claims[2].state().unwrap().cur, None);
    server.check_settled();
}

#[tokio::test]
async fn a_corrupt_journal_is_kept_aside_and_counts_as_lost() {
    for damage in ["", "{", r#"{"v":2,"cur":null}"#, "\u{0}\u{0}\u{0}"] {
        let server = Server::start().await;
        let agent = server.agent();
        agent.once().await.unwrap();
        let state = server.folder().join("state");
        fs::write(state.join("journal.json"), damage).unwrap();
        let outcome = agent.once().await.unwrap();
        assert!(matches!(outcome, Outcome::Rotated { .. }), "{damage:?}: {outcome}");
        server.check_settled();
        let names =
            fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let aside: Vec<String> = names.filter(|name| name.starts_with("journal.corrupt-")).collect();
        assert_eq!(aside.len(), 1);
        assert_eq!(fs::read_to_string(state.join(&aside[0])).unwrap(), damage);
        assert!(log().contains(&aside[0]));
    }
}

#[tokio::test]
async fn a_password_set_by_hand_is_noticed() {
    let server = Server::start().await;
    let agent = server.agent();
    agent.once().await.unwrap();
    let known = server.journal();
    set_by_hand(&server);
    let outcome = agent.once().await.unwrap();
    assert!(matches!(outcome, Outcome::Rotated { recorded: true, .. }), "{outcome}");
    let world = server.world();
    let state = world.claims[2].state().unwrap();
    assert_eq!((state.cur, state.in_doubt.contains(&known.cur.unwrap())), (None, true));
    drop(world);
    server.check_settled();
}

/// Sets a password of nobody's, at another second than the last one.
fn set_by_hand(server: &Server) {
    server.account(Faults::default()).set(&Password::new("by hand".to_owned())).unwrap();
    let path = server.folder().join("account.json");
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    record["last_set"] = 5.into();
    fs::write(&path, record.to_string()).unwrap();
}

#[tokio::test]
async fn an_account_that_vanished_is_created_and_given_a_password() {
    let server = Server::start().await;
    let agent = server.agent();
    agent.once().await.unwrap();
    fs::remove_file(server.folder().join("account.json")).unwrap();
    let outcome = agent.once().await.unwrap();
    assert!(matches!(outcome, Outcome::Rotated { recorded: true, .. }), "{outcome}");
    server.check_settled();
}

#[tokio::test]
async fn an_account_that_is_missing_is_left_alone_if_none_may_be_created() {
    let server = Server::start().await;
    let mut settings = server.settings();
    settings.create_account = false;
    let agent = Agent::new(settings, Deps::system(server.account(Faults::default()))).unwrap();
    assert_eq!(agent.once().await.unwrap_err().code(), "account");
    assert!(server.world().posts.is_empty());
    assert!(!server.folder().join("account.json").exists());
}

#[test]
fn an_account_database_that_is_damaged_is_not_written_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("account.json");
    fs::write(&path, "garbage").unwrap();
    let clock = std::sync::Arc::new(keyturn_domain::ambient::SystemClock);
    let entropy = std::sync::Arc::new(keyturn_domain::ambient::SystemEntropy);
    let account = keyturn_agent::accounts::file::FileAccounts::new(
        path.clone(),
        crate::server::label("lapsadmin"),
        clock,
        entropy,
    );
    assert!(account.create().is_err() && account.set(&Password::new("x".into())).is_err());
    assert_eq!(fs::read_to_string(path).unwrap(), "garbage");
}
