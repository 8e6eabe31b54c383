//! Runs without an adversary: the network is merely unreliable.

use std::time::Duration;

use keyturn_agent::accounts::file::Faults;
use keyturn_agent::{Agent, Deps, Error, Outcome};
use keyturn_domain::ids::RequestId;
use keyturn_schemas::claims::ReportOp;
use keyturn_schemas::message::Claims;

use crate::server::world::{PollTrick, PostTrick};
use crate::server::{Server, log};

#[tokio::test]
async fn a_first_run_rotates_and_reports() {
    let server = Server::start().await;
    let outcome = server.agent().once().await.unwrap();
    let Outcome::Rotated { version, recorded: true } = outcome else { panic!("{outcome}") };
    assert_eq!(server.real(), Some(version));
    server.check_settled();
    let world = server.world();
    let [Claims::Request(request), Claims::Report(report)] = &world.claims[..] else {
        panic!("{:?}", world.claims)
    };
    assert!(request.state.account_missing, "the account was created in this run");
    assert_eq!((report.op, report.state.cur), (ReportOp::Applied, Some(version)));
    assert!(report.state.in_doubt.is_empty());
}

#[tokio::test]
async fn a_second_run_has_nothing_to_do_until_a_rotation_is_forced() {
    let server = Server::start().await;
    let agent = server.agent();
    let first = agent.once().await.unwrap();
    let second = agent.once().await.unwrap();
    assert!(matches!(second, Outcome::NotDue { retry_at: Some(_) }), "{second}");
    server.world().force();
    let third = agent.once().await.unwrap();
    assert!(matches!(third, Outcome::Rotated { recorded: true, .. }) && third != first, "{third}");
    server.check_settled();
}

#[tokio::test]
async fn a_stale_nonce_is_replaced_by_the_one_in_the_answer() {
    let server = Server::start().await;
    server.world().on_post.push_back(PostTrick::StaleNonce);
    assert!(server.agent().once().await.unwrap().is_success());
    let world = server.world();
    assert_ne!(world.posts[0], world.posts[1], "signed anew");
    drop(world);
    server.check_settled();
}

#[tokio::test]
async fn nonces_that_are_always_stale_end_the_run() {
    let server = Server::start().await;
    server.world().on_post.extend((0..10).map(|_| PostTrick::StaleNonce));
    let error = server.agent().once().await.unwrap_err();
    assert_eq!(error.code(), "unreachable", "{error}");
    assert_eq!(server.world().posts.len(), 3);
}

#[tokio::test]
async fn a_lost_answer_makes_the_agent_send_the_same_bytes_again() {
    let server = Server::start().await;
    server.world().on_post.push_back(PostTrick::LoseAnswer);
    assert!(server.agent().once().await.unwrap().is_success());
    {
        let world = server.world();
        assert_eq!(world.posts[0], world.posts[1]);
        assert_eq!(world.claims.len(), 2, "one request and one report");
        assert_eq!(world.vault.len(), 1);
    }
    server.check_settled();
}

#[tokio::test]
async fn answers_that_are_none_are_as_good_as_lost() {
    let server = Server::start().await;
    server.world().on_post.extend([
        PostTrick::Answer(200, "text/html", "<h1>Sign in to the hotel</h1>"),
        PostTrick::Answer(500, "text/plain", "oops"),
        PostTrick::Answer(202, "application/json", r#"{"ticket":"../../evil"}"#),
        PostTrick::Busy(0),
    ]);
    assert!(server.agent().once().await.unwrap().is_success());
    let world = server.world();
    assert!(world.posts[..5].iter().all(|post| *post == world.posts[0]));
}

#[tokio::test]
async fn a_busy_server_is_left_alone_for_as_long_as_it_asks() {
    let server = Server::start().await;
    server.world().on_post.push_back(PostTrick::Busy(720));
    let outcome = server.agent().once().await.unwrap();
    assert_eq!(outcome, Outcome::Throttled { after: Duration::from_mins(12) });
    assert_eq!(server.world().posts.len(), 1);
}

#[tokio::test]
async fn a_refusal_of_the_message_is_final() {
    let server = Server::start().await;
    let body =
        r#"{"type":"urn:keyturn:error:KT-0101","title":"Not a message","status":400,"code":"KT-0101"}"#;
    server.world().on_post.push_back(PostTrick::Answer(400, "application/problem+json", body));
    let error = server.agent().once().await.unwrap_err();
    assert_eq!((error.code(), server.world().posts.len()), ("rejected", 1));
    assert!(error.chain().contains("KT-0101"), "{}", error.chain());
}

#[tokio::test]
async fn pending_polls_are_repeated_and_a_forgotten_ticket_is_asked_anew() {
    let server = Server::start().await;
    server.world().on_poll.extend([
        PollTrick::Pending,
        PollTrick::Pending,
        PollTrick::Gone,
        PollTrick::Pending,
    ]);
    assert!(server.agent().once().await.unwrap().is_success());
    let world = server.world();
    assert_eq!((world.posts.len(), world.vault.len()), (3, 1), "asked twice, one version, one report");
    drop(world);
    server.check_settled();
}

#[tokio::test]
async fn tickets_that_are_always_forgotten_end_the_run() {
    let server = Server::start().await;
    server.world().on_poll.push_back(PollTrick::Gone);
    server.world().sticky = true;
    assert_eq!(server.agent().once().await.unwrap_err().code(), "no_progress");
    assert_eq!(server.world().posts.len(), 4);
}

#[tokio::test]
async fn an_unsigned_refusal_only_ends_the_run() {
    let server = Server::start().await;
    server.world().on_poll.push_back(PollTrick::Forbidden);
    let agent = server.agent();
    assert_eq!(agent.once().await.unwrap(), Outcome::Refused);
    assert_eq!(server.real(), None);
    assert!(agent.once().await.unwrap().is_success());
    server.check_settled();
}

#[tokio::test]
async fn a_report_without_an_answer_rides_in_the_next_request() {
    let server = Server::start().await;
    server.world().on_poll.extend([PollTrick::Forge(genuine), PollTrick::Forbidden]);
    let agent = server.agent();
    let outcome = agent.once().await.unwrap();
    assert!(matches!(outcome, Outcome::Rotated { recorded: false, .. }), "{outcome}");
    server.check();
    assert!(matches!(agent.once().await.unwrap(), Outcome::NotDue { .. }));
    server.check_settled();
}

fn genuine(genuine: &crate::server::world::Genuine<'_>) -> axum::response::Response {
    crate::server::answer(200, "application/jose", genuine.text.clone())
}

#[tokio::test]
async fn an_unreachable_server_is_said_so() {
    let server = Server::start().await;
    let mut settings = server.settings();
    settings.server = "http://127.0.0.1:9".parse().unwrap();
    let agent = Agent::new(settings, Deps::system(server.account(Faults::default()))).unwrap();
    let error = agent.once().await.unwrap_err();
    assert_eq!(error.code(), "unreachable");
    assert!(error.chain().contains("refused"), "{}", error.chain());
}

#[tokio::test]
async fn one_agent_at_a_time() {
    let server = Server::start().await;
    server.world().on_poll.push_back(PollTrick::Pending);
    server.world().sticky = true;
    let first = server.agent();
    let running = tokio::spawn(async move { first.once().await });
    server.until(|world| !world.posts.is_empty()).await;
    let error = server.agent().once().await.unwrap_err();
    assert!(matches!(error, Error::Lock(_)), "{error}");
    assert!(error.to_string().contains("another keyturn-agent is at work"));
    server.world().sticky = false;
    running.await.unwrap().unwrap();
    server.check_settled();
}

#[tokio::test]
async fn a_service_stops_when_told_to() {
    let server = Server::start().await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let agent = server.agent();
    let running = tokio::spawn(async move { agent.run(async { stopped.await.unwrap() }).await });
    server.until(|world| world.claims.len() == 2).await;
    stop.send(()).unwrap();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_service_that_has_time_does_not_arrive_with_all_the_others() {
    let server = Server::start().await;
    let settings = keyturn_agent::Settings { splay: Duration::from_hours(24), ..server.settings() };
    let agent = Agent::new(settings, Deps::system(server.account(Faults::default()))).unwrap();
    assert!(agent.once().await.unwrap().is_success());
    let heard = server.world().claims.len();
    // Not due: it waits, and stops when it is told to.
    agent.run(async { tokio::task::yield_now().await }).await.unwrap();
    assert_eq!(server.world().claims.len(), heard);
    // Overdue: it comes at once.
    let path = server.folder().join("state/last-run.json");
    let mut last: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    last["next"] = 1_000.into();
    std::fs::write(path, last.to_string()).unwrap();
    let heard_more = server.until(|world| world.claims.len() > heard);
    agent.run(heard_more).await.unwrap();
}

#[tokio::test]
async fn the_log_names_what_happened() {
    let server = Server::start().await;
    server.agent().once().await.unwrap();
    let world = server.world();
    let rid = RequestId::of(&world.posts[0]).to_string();
    let version = world.vault.keys().next().unwrap().to_string();
    let log = log();
    assert!(log.contains(&rid) && log.contains(&version) && log.contains("event.id=1112"));
}
