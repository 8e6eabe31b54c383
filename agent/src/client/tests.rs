use std::collections::VecDeque;

use async_trait::async_trait;
use keyturn_domain::ambient::SystemEntropy;
use keyturn_domain::time::UnixMillis;
use keyturn_schemas::mac::{KeyId, KeyRing};
use keyturn_schemas::nonce::NonceKeys;
use keyturn_schemas::signing::SigningKey;

use super::*;
use crate::transport::JOSE;

/// The executor's own clock, which these tests move by waiting.
struct Paused(tokio::time::Instant);

impl Clock for Paused {
    fn now(&self) -> UnixMillis {
        UnixMillis(1_800_000_000_000).plus(self.monotonic())
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A server that says what it is told to, in order, and remembers when it was asked.
struct Script {
    start: tokio::time::Instant,
    replies: Mutex<VecDeque<Reply>>,
    calls: Mutex<Vec<(Duration, String)>>,
    traced: Mutex<Vec<(Option<TraceParent>, Option<Ticket>)>>,
}

#[async_trait]
impl Transport for Script {
    async fn exchange(&self, call: Call<'_>) -> Result<Reply, transport::Error> {
        let said = call.message.unwrap_or(call.path).to_owned();
        self.calls.lock().unwrap().push((self.start.elapsed(), said));
        self.traced.lock().unwrap().push((call.trace, call.follows.cloned()));
        let reply =
            self.replies.lock().unwrap().pop_front().expect("no call more than the script has replies");
        if reply.status == LOST { Err(transport::Error::TooLarge) } else { Ok(reply) }
    }
}

impl Script {
    fn calls(&self) -> Vec<(Duration, String)> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }
}

fn client(replies: impl IntoIterator<Item = Reply>) -> (Client, Arc<Script>) {
    let start = tokio::time::Instant::now();
    let replies = Mutex::new(replies.into_iter().collect());
    let script = Arc::new(Script { start, replies, calls: Mutex::default(), traced: Mutex::default() });
    let root = SigningKey::from_seed("root", &[1; 32]).unwrap().public();
    let keys = KeySets::load("/nowhere/keys".into(), root, "contoso".parse().unwrap()).unwrap();
    let (clock, entropy) = (Arc::new(Paused(start)), Arc::new(SystemEntropy));
    (Client::new(script.clone(), keys, clock, entropy, Timing::default()), script)
}

fn nonce(number: u64) -> String {
    let keys = NonceKeys::new(KeyRing::new([(KeyId(1), [1; 32])]));
    keys.issue(UnixMillis(number), &SystemEntropy).unwrap().to_string()
}

/// The status of an exchange without an answer.
const LOST: u16 = 0;

fn reply(status: u16, body: &str) -> Reply {
    Reply { status, body: body.into(), ..Reply::default() }
}

fn with_nonce(status: u16, number: u64) -> Reply {
    Reply { nonce: Some(nonce(number)), ..reply(status, "") }
}

fn taken() -> Reply {
    Reply { nonce: Some(nonce(7)), ..reply(202, r#"{"ticket":"01abc"}"#) }
}

fn problem(status: u16, code: &str) -> Reply {
    let body = serde_json::to_vec(&Problem::new(status, code, "A problem")).unwrap();
    Reply { status, media_type: "application/problem+json".into(), body, ..Reply::default() }
}

fn busy(seconds: u64) -> Reply {
    Reply { retry_after: Some(Duration::from_secs(seconds)), ..problem(503, "KT-0103") }
}

async fn send(client: &Client, text: &str) -> Result<Ticket, Error> {
    client.nonce().await?;
    client.post(Endpoint::Requests, text).await
}

#[tokio::test(start_paused = true)]
async fn a_run_is_one_trace_and_names_its_first_message() {
    let (client, script) = client([
        with_nonce(204, 1),
        taken(),
        reply(202, "{}"),
        Reply { nonce: Some(nonce(8)), ..reply(202, r#"{"ticket":"01def"}"#) },
        taken(),
    ]);
    let trace = client.begin().unwrap();
    let ticket = send(&client, "request").await.unwrap();
    client.poll(&ticket, Duration::from_secs(1)).await.unwrap();
    send(&client, "report").await.unwrap();
    let next = client.begin().unwrap();
    send(&client, "the next run").await.unwrap();
    let traced = std::mem::take(&mut *script.traced.lock().unwrap());
    let traces: Vec<String> = traced.iter().map(|(step, _)| step.unwrap().trace_id()).collect();
    assert_eq!(traces, [&trace, &trace, &trace, &trace, &next].map(String::as_str));
    assert_ne!(trace, next);
    let steps: std::collections::BTreeSet<_> = traced.iter().map(|(step, _)| step.unwrap().span()).collect();
    assert_eq!(steps.len(), traced.len(), "each call is a step of its own");
    let follows: Vec<Option<&str>> =
        traced.iter().map(|(_, first)| first.as_ref().map(Ticket::as_str)).collect();
    assert_eq!(follows, [None, None, Some("01abc"), Some("01abc"), None]);
}

#[tokio::test(start_paused = true)]
async fn two_seconds_pass_between_an_answer_and_the_next_message() {
    let (client, script) = client([with_nonce(204, 1), taken(), taken()]);
    send(&client, "first").await.unwrap();
    send(&client, "second").await.unwrap();
    let calls = script.calls();
    assert_eq!(calls[1], (Duration::ZERO, "first".to_owned()));
    assert_eq!(calls[2].1, "second", "the nonce came with the first answer");
    assert!(calls[2].0 >= Duration::from_secs(2), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn after_a_message_of_unknown_fate_nothing_is_sent_for_half_a_minute() {
    let (client, script) = client([
        with_nonce(204, 1),
        reply(LOST, ""),
        reply(LOST, ""),
        reply(LOST, ""),
        reply(LOST, ""),
        reply(LOST, ""),
        with_nonce(204, 2),
        taken(),
    ]);
    assert!(matches!(send(&client, "first").await, Err(Error::Unreachable(_))));
    let calls = script.calls();
    assert!(calls[1..].iter().all(|(_, said)| said == "first") && calls.len() == 6, "{calls:?}");
    let last = calls[5].0;
    send(&client, "second").await.unwrap();
    let calls = script.calls();
    assert!(calls[0].0 >= last + Duration::from_secs(30), "{calls:?} after {last:?}");
}

#[tokio::test(start_paused = true)]
async fn a_busy_server_is_asked_again_when_it_said_and_not_before() {
    let (client, script) = client([with_nonce(204, 1), busy(20), taken()]);
    send(&client, "first").await.unwrap();
    let calls = script.calls();
    assert!(calls[2].0 >= Duration::from_secs(20), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_wants_more_than_a_minute_gets_it_from_the_next_run() {
    let (client, script) = client([with_nonce(204, 1), busy(61)]);
    let error = send(&client, "first").await.unwrap_err();
    assert!(matches!(error, Error::Throttled(after) if after == Duration::from_secs(61)), "{error}");
    assert_eq!(script.calls().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_nonce_is_given_out_once_and_not_when_it_is_old() {
    let body = format!(r#"{{"nonce":"{}"}}"#, nonce(3));
    let (client, _) =
        client([with_nonce(200, 1), with_nonce(204, 2), reply(200, &body), taken(), with_nonce(204, 9)]);
    for number in 1..=3 {
        assert_eq!(client.nonce().await.unwrap().issued(), UnixMillis(number));
    }
    client.post(Endpoint::Reports, "report").await.unwrap();
    tokio::time::advance(Duration::from_mins(5)).await;
    assert_eq!(
        client.nonce().await.unwrap().issued(),
        UnixMillis(9),
        "not the one that came with the answer"
    );
}

#[tokio::test(start_paused = true)]
async fn a_stale_nonce_is_replaced_by_the_one_in_the_problem_without_a_pause() {
    let mut stale = Problem::new(401, "KT-0108", "The nonce is not fresh");
    stale.nonce = Some(nonce(5));
    let stale = Reply { body: serde_json::to_vec(&stale).unwrap(), ..problem(401, "KT-0108") };
    let (client, script) = client([with_nonce(204, 1), stale]);
    assert!(matches!(send(&client, "first").await, Err(Error::StaleNonce)));
    assert_eq!(client.nonce().await.unwrap().issued(), UnixMillis(5));
    assert_eq!(script.start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn polls_are_read_by_status_and_media_type() {
    let jose = |status| Reply { media_type: JOSE.into(), ..reply(status, "a.b.c\n") };
    let (client, _) = client([
        taken(),
        jose(200),
        jose(500),
        reply(200, "a.b.c"),
        busy(3),
        reply(404, ""),
        problem(404, "KT-0110"),
    ]);
    let ticket = client.post(Endpoint::Requests, "first").await.unwrap();
    let mut said = Vec::new();
    for _ in 0..6 {
        said.push(format!("{:?}", client.poll(&ticket, Duration::from_secs(9)).await.unwrap()));
    }
    assert_eq!(said, ["Result(\"a.b.c\")", "Odd(500)", "Odd(200)", "Busy(Some(3s))", "Odd(404)", "Gone"]);
}

#[test]
fn tickets_are_plain_and_never_shown() {
    for bad in ["", "a/b", "a?b", "..", "a b", &"x".repeat(129)] {
        assert!(Ticket::parse(bad.to_owned()).is_none(), "{bad:?}");
    }
    assert_eq!(format!("{:?}", Ticket::parse("01abc".to_owned()).unwrap()), "Ticket([redacted])");
}
