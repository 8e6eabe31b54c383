//! What the server says in signed answers, and how the agent obeys.

use axum::response::Response;
use keyturn_agent::Outcome;
use keyturn_domain::time::UnixMillis;
use keyturn_schemas::result::{self, Code};

use crate::server::world::{Genuine, PollTrick};
use crate::server::{Server, answer};

fn says(genuine: &Genuine<'_>, code: Code) -> Response {
    let mut other = genuine.answer.clone();
    (other.code, other.enclosed, other.retry_at) = (code, None, Some(UnixMillis(1_800_000_000_000)));
    answer(200, "application/jose", result::sign(&other, &genuine.keys.signing).unwrap())
}

fn stale(genuine: &Genuine<'_>) -> Response {
    says(genuine, Code::Stale)
}

fn held(genuine: &Genuine<'_>) -> Response {
    says(genuine, Code::Held)
}

fn expired(genuine: &Genuine<'_>) -> Response {
    says(genuine, Code::Expired)
}

fn refused(genuine: &Genuine<'_>) -> Response {
    says(genuine, Code::Refused)
}

fn true_answer(genuine: &Genuine<'_>) -> Response {
    answer(200, "application/jose", genuine.text.clone())
}

#[tokio::test]
async fn a_stale_request_is_made_anew_with_another_nonce() {
    let server = Server::start().await;
    server.world().on_poll.push_back(PollTrick::Forge(stale));
    assert!(server.agent().once().await.unwrap().is_success());
    let world = server.world();
    assert_ne!(world.claims[0].common().nonce, world.claims[1].common().nonce);
    assert_eq!(world.vault.len(), 1, "the outstanding version is sent again, not another");
    drop(world);
    server.check_settled();
}

#[tokio::test]
async fn requests_that_are_always_stale_end_the_run() {
    let server = Server::start().await;
    server.world().on_poll.push_back(PollTrick::Forge(stale));
    server.world().sticky = true;
    assert_eq!(server.agent().once().await.unwrap_err().code(), "no_progress");
    assert_eq!(server.world().posts.len(), 4);
}

#[tokio::test]
async fn a_stale_report_is_made_anew() {
    let server = Server::start().await;
    server.world().on_poll.extend([PollTrick::Forge(true_answer), PollTrick::Forge(stale)]);
    let outcome = server.agent().once().await.unwrap();
    assert!(matches!(outcome, Outcome::Rotated { recorded: true, .. }), "{outcome}");
    assert_eq!(server.world().posts.len(), 3);
    server.check_settled();
}

#[tokio::test]
async fn signed_words_end_the_run_and_set_nothing() {
    let retry_at = Some(UnixMillis(1_800_000_000_000));
    let cases = [
        (PollTrick::Forge(held), Outcome::Held { retry_at }),
        (PollTrick::Forge(expired), Outcome::Expired),
        (PollTrick::Forge(refused), Outcome::Refused),
    ];
    for (trick, expected) in cases {
        let server = Server::start().await;
        server.world().on_poll.push_back(trick);
        assert_eq!(server.agent().once().await.unwrap(), expected);
        assert_eq!(server.real(), None);
    }
}

#[tokio::test]
async fn an_answer_for_requests_is_none_to_a_report() {
    let server = Server::start().await;
    server.world().on_poll.extend([PollTrick::Forge(true_answer), PollTrick::Forge(held)]);
    let outcome = server.agent().once().await.unwrap();
    assert!(matches!(outcome, Outcome::Rotated { recorded: true, .. }), "{outcome}");
    assert_eq!(server.world().posts.len(), 2, "the report is not sent again, its own answer is waited for");
    server.check_settled();
}
