//! Storage Queues against a real Azurite: `./test azurite`.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod server;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use azure_core::time::OffsetDateTime;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use keyturn_azure::storage_queues::{Access, Endpoint};
use keyturn_azure::{Reach, StorageQueues};
use keyturn_domain::clock::Clock as _;
use keyturn_ports::Kind;
use keyturn_ports::dead_letters::{DeadLetters as _, Died, Graveyard, Strays as _};
use keyturn_ports::queue::{DeadReason, NewMessage, Queue as _, QueueName, Settlement};
use keyturn_testkit::azurite::{ACCOUNT, KEY};
use keyturn_testkit::conformance::sample;

use self::server::{Azurite, Deployment, signature};

const QUEUE: QueueName = QueueName::Findings;
const LEASE: Duration = Duration::from_mins(1);

keyturn_testkit::conformance!(queue_on_one_server, Azurite);

#[tokio::test]
async fn messages_die_into_the_index() {
    let azurite = Azurite::start().await;
    let Deployment { queues, state, clock, .. } = &azurite.deployment();
    queues.send(QUEUE, vec![sample::message(1), sample::message(2)]).await.unwrap();
    let sent = clock.now();
    for n in 0..10 {
        let leased = queues.lease(QUEUE, 9, LEASE).await.unwrap();
        let doomed = leased.iter().find(|leased| leased.message == sample::message(1)).unwrap();
        let retry = Settlement::Retry { after: Duration::ZERO, error: format!("attempt {n}") };
        let void = queues.settle(QUEUE, vec![(doomed.receipt.clone(), retry)], Vec::new()).await.unwrap();
        assert_eq!(void.len(), 0);
    }
    let doomed = queues.lease(QUEUE, 9, LEASE).await.unwrap().remove(0);
    assert_eq!(doomed.deliveries, 11);
    clock.advance(Duration::from_secs(2));
    queues.renew(QUEUE, vec![doomed.receipt.clone()], LEASE).await.unwrap();
    let dead = Settlement::DeadLetter { reason: DeadReason::Exhausted, error: "the end".to_owned() };
    let void = queues.settle(QUEUE, vec![(doomed.receipt, dead)], Vec::new()).await.unwrap();
    assert_eq!(void.len(), 0, "a renewed lease is settled by the receipt it was given out with");

    let letters = state.list(None, 9).await.unwrap();
    let [letter] = letters.as_slice() else { panic!("{letters:?}") };
    assert_eq!((&letter.message, letter.queue, letter.deliveries), (&sample::message(1), QUEUE, 11));
    assert_eq!((letter.enqueued, letter.died), (sent, clock.now()));
    let errors: Vec<_> = letter.attempts.iter().map(|attempt| attempt.error.as_str()).collect();
    assert_eq!(errors.first().zip(errors.last()), Some((&"attempt 3", &"the end")));
    assert_eq!(errors.len(), 8);
    let depth = queues.depth(QUEUE).await.unwrap();
    assert_eq!(
        (depth.total, depth.dead),
        (1, 0),
        "the neighbour lives, and what the index has is nowhere else"
    );
}

/// What another program put onto the poison queue, by two sweepers at once, and by one that died before it took away
/// what it had written down.
#[tokio::test]
async fn what_others_gave_up_on_is_adopted_once() {
    let azurite = Azurite::start().await;
    let (endpoint, prefix) = (azurite.endpoint(), "d0-");
    let deployment = Deployment::with(&endpoint, azurite.clock());
    let Deployment { queues, state, clock, .. } = &deployment;
    assert_eq!((queues.unindexed(QUEUE).await.unwrap(), queues.adopt(QUEUE, 9).await.unwrap()), (0, 0));
    // Our own texts as Functions moves them, and one that is none of ours.
    queues.send(QUEUE, (0..70).map(sample::message).collect()).await.unwrap();
    for text in azurite.peek(&format!("{prefix}findings")).await {
        azurite.put(&format!("{prefix}findings-poison"), &text).await;
    }
    azurite.put(&format!("{prefix}findings-poison"), "not ours").await;
    let lies = queues.unindexed(QUEUE).await.unwrap();
    assert_eq!(lies, 33, "32 of ours and the other");
    assert_eq!(queues.adopt(QUEUE, 3).await.unwrap(), 3, "no more than asked for");

    // One writes a page down and dies: nobody else has it before its lease is over, and then it is written down once.
    let dying = StorageQueues::new(
        &endpoint,
        &Access::SharedKey { account: ACCOUNT.to_owned(), key: KEY.into() },
        Arc::new(DiesAfter(state.clone())),
        Arc::new(clock.clone()),
    )
    .unwrap();
    assert_eq!(dying.adopt(QUEUE, 10).await.unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(state.list(None, 99).await.unwrap().len(), 13);
    clock.advance(LEASE + Duration::from_secs(5));
    let another = another(&endpoint, &deployment);
    let (one, two) = tokio::join!(queues.adopt(QUEUE, 99), another.adopt(QUEUE, 99));
    assert_eq!(one.unwrap() + two.unwrap(), 30);
    assert_eq!(queues.unindexed(QUEUE).await.unwrap(), 0);
    let letters = state.list(None, 99).await.unwrap();
    assert_eq!(letters.len(), 33);
    let strange: Vec<_> = letters.iter().filter(|letter| letter.message.body == "not ours").collect();
    assert_eq!(strange.iter().map(|letter| letter.reason).collect::<Vec<_>>(), [DeadReason::Undecodable]);
    let ours = letters.iter().filter(|letter| letter.reason == DeadReason::Exhausted);
    let mut requests: Vec<_> =
        ours.map(|letter| (letter.message.request, letter.message.body.clone())).collect();
    requests.sort();
    requests.dedup();
    assert_eq!(requests.len(), 32, "each once, as it was sent");
}

/// An index whose process dies right after it has written.
struct DiesAfter(keyturn_embedded::Database);

#[async_trait]
impl Graveyard for DiesAfter {
    async fn bury(&self, dead: Vec<Died>) -> Result<(), keyturn_ports::Error> {
        self.0.bury(dead).await?;
        Err(keyturn_ports::Error::new(Kind::Unavailable, "burying", "the process died"))
    }
}

/// Another process on the same queues.
fn another(endpoint: &Endpoint, deployment: &Deployment) -> StorageQueues {
    reached_by(&Access::SharedKey { account: ACCOUNT.to_owned(), key: KEY.into() }, endpoint, deployment)
}

/// Another process on the same queues, which may do what a signature permits.
fn permitted(permissions: &str, endpoint: &Endpoint, deployment: &Deployment) -> StorageQueues {
    reached_by(&Access::Signature(signature(permissions).into()), endpoint, deployment)
}

fn reached_by(access: &Access, endpoint: &Endpoint, deployment: &Deployment) -> StorageQueues {
    let (state, clock) = (Arc::new(deployment.state.clone()), Arc::new(deployment.clock.clone()));
    StorageQueues::new(endpoint, access, state, clock).unwrap()
}

#[tokio::test]
async fn what_the_service_cannot_carry_is_refused_and_what_others_wrote_is_passed_on() {
    let azurite = Azurite::start().await;
    let Deployment { queues, .. } = &azurite.deployment();
    let with = |body: String| vec![NewMessage { body, ..sample::message(1) }];
    for body in ["x".repeat(64 * 1024), "\u{0}".to_owned()] {
        assert_eq!(queues.send(QUEUE, with(body)).await.unwrap_err().kind(), Kind::Corrupt);
    }
    let odd = "{\"a\":\"<&>'\\\" ]]> \u{1f511} \\n\"}\n\n  end ";
    let longest = "é".repeat(31 * 1024);
    for body in [odd.to_owned(), longest, String::new()] {
        queues.send(QUEUE, with(body.clone())).await.unwrap();
        let leased = queues.lease(QUEUE, 9, LEASE).await.unwrap().remove(0);
        assert_eq!(leased.message.body, body);
        let complete = vec![(leased.receipt, Settlement::Complete)];
        assert!(queues.settle(QUEUE, complete, Vec::new()).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn what_goes_wrong_is_told_without_a_secret() {
    let azurite = Azurite::start().await;
    let deployment = azurite.deployment();
    let send = async |endpoint: Endpoint, access: Access| {
        let graveyard = Arc::new(deployment.state.clone());
        match StorageQueues::new(&endpoint, &access, graveyard, Arc::new(deployment.clock.clone())) {
            Ok(queues) => queues.send(QUEUE, vec![sample::message(1)]).await.unwrap_err(),
            Err(error) => error,
        }
    };
    let by_key = |key: &str| Access::SharedKey { account: ACCOUNT.to_owned(), key: key.into() };
    let signature = Access::Signature("sv=2022-11-02&sig=secret-canary".into());
    for access in [by_key("c2VjcmV0LWNhbmFyeQ=="), signature, by_key("secret canary!")] {
        let error = send(azurite.endpoint(), access).await;
        let told = format!("{error} {error:?}");
        assert_eq!(error.kind(), Kind::Denied, "{told}");
        assert!(!told.contains("canary") && !told.contains("c2VjcmV0"), "{told}");
    }
    let away = Endpoint::new("http://127.0.0.1:1/devstoreaccount1", "d-").unwrap();
    let error = send(away, by_key(KEY)).await;
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    drop(azurite);
    let sent = deployment.queues.send(QUEUE, vec![sample::message(1)]).await;
    assert_eq!(sent.unwrap_err().kind(), Kind::Unavailable);
}

/// Each signature permits some of what there is: r looking, a sending, u renewing and putting off, p deleting.
#[tokio::test]
async fn what_an_identity_may_do_is_told_and_no_message_is_touched_by_it() {
    let azurite = Azurite::start().await;
    let deployment = azurite.deployment();
    let endpoint = azurite.endpoint();
    let by = |permissions: &str| permitted(permissions, &endpoint, &deployment);
    let all = by("rwdlacup");
    all.send(QUEUE, vec![sample::message(1)]).await.unwrap();
    for (permissions, settles, sends) in [
        ("rwdlacup", true, true),
        ("raup", true, true),
        ("rup", true, false),
        ("rap", false, true),
        ("r", false, false),
        ("a", false, true),
        ("au", false, true),
    ] {
        let queues = by(permissions);
        let (settled, sent) = (queues.may_settle(QUEUE).await, queues.try_sending(QUEUE).await);
        for (tried, expected) in [(&settled, settles), (&sent, sends)] {
            let denied = tried.as_ref().is_err_and(|error| error.kind() == Kind::Denied);
            assert!(tried.is_ok() == expected && denied != expected, "{permissions}: {tried:?}");
        }
        // Who may send and not delete leaves a message that runs out by itself.
        assert!(permissions.starts_with('a') || all.depth(QUEUE).await.unwrap().total == 1, "{permissions}");
        let leased = all.lease(QUEUE, 9, LEASE).await.unwrap();
        assert_eq!(leased.len(), 1, "{permissions}: nobody sees another message than the one that was sent");
        deployment.clock.advance(2 * LEASE);
    }
}

/// Who tries to send and dies before it deletes, or may not: the message is visible for a second in the end.
#[tokio::test]
async fn a_trial_that_nobody_took_away_is_nobodys_work() {
    let azurite = Azurite::start().await;
    let deployment = azurite.deployment();
    let endpoint = azurite.endpoint();
    let by = |permissions: &str| permitted(permissions, &endpoint, &deployment);
    let all = by("rwdlacup");
    assert_eq!(all.depth(QUEUE).await.unwrap().total, 0);
    by("a").try_sending(QUEUE).await.unwrap();
    assert!(all.lease(QUEUE, 9, LEASE).await.unwrap().is_empty());
    assert_eq!(all.depth(QUEUE).await.unwrap().total, 1, "it is there, and hidden");
    deployment.clock.advance(Duration::from_millis(59_500));
    let leased = all.lease(QUEUE, 9, LEASE).await.unwrap();
    assert!(leased.is_empty(), "{} messages for a worker", leased.len());
    assert_eq!(all.depth(QUEUE).await.unwrap().total, 0, "it was seen, and taken away");
}

/// A token that Azurite takes: it looks at the claims, and at no signature.
#[derive(Debug)]
struct Tokens {
    audience: &'static str,
}

#[async_trait]
impl TokenCredential for Tokens {
    async fn get_token(
        &self,
        scopes: &[&str],
        _: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        assert_eq!(scopes, ["https://storage.azure.com/.default"]);
        let claims = serde_json::json!({
            "aud": self.audience, "iss": "https://sts.windows.net/00000000-0000-0000-0000-000000000001/",
            "iat": 1_700_000_000, "nbf": 1_700_000_000, "exp": EXPIRES,
        });
        let part = |text: String| URL_SAFE_NO_PAD.encode(text);
        let head = part(r#"{"alg":"RS256","typ":"JWT"}"#.to_owned());
        let token = format!("{head}.{}.c2ln", part(claims.to_string()));
        Ok(AccessToken::new(token, OffsetDateTime::from_unix_timestamp(EXPIRES).unwrap()))
    }
}

/// The first of January 2100.
const EXPIRES: i64 = 4_102_444_800;

#[tokio::test]
async fn tokens_of_entra_id_open_the_queues_and_those_for_others_do_not() {
    let (azurite, ca) = Azurite::start_for_tokens().await;
    let state = azurite.deployment().state;
    let queues = |scheme: &str, audience, ca: Option<&str>| {
        let reach = Reach { timeout: LEASE, ca: ca.map(|pem| pem.as_bytes().to_vec()), proxy: None };
        let access = Access::Token { credential: Arc::new(Tokens { audience }), reach };
        let clock = Arc::new(azurite.clock());
        StorageQueues::new(&azurite.endpoint_over(scheme), &access, Arc::new(state.clone()), clock)
    };
    let storage = "https://storage.azure.com";
    let good = queues("https", storage, Some(&ca)).unwrap();
    good.send(QUEUE, vec![sample::message(1)]).await.unwrap();
    assert_eq!(good.lease(QUEUE, 9, LEASE).await.unwrap().remove(0).message, sample::message(1));

    let sent = async |queues: StorageQueues| queues.send(QUEUE, vec![sample::message(1)]).await.unwrap_err();
    let elsewhere = queues("https", "https://vault.azure.net", Some(&ca)).unwrap();
    assert_eq!(sent(elsewhere).await.kind(), Kind::Denied, "a token for another service");
    let stranger = queues("https", storage, None).unwrap();
    assert_eq!(sent(stranger).await.kind(), Kind::Unavailable, "a server that nobody vouches for");
    assert!(queues("http", storage, Some(&ca)).is_err(), "a token never goes over plain HTTP");
}

/// Many workers at once: every message is completed once, though leases are lost and renewed meanwhile.
#[tokio::test]
async fn workers_side_by_side_share_the_work() {
    let azurite = Azurite::start().await;
    let Deployment { queues, .. } = &azurite.deployment();
    let messages = |from: u8| (from..from + 40).map(sample::message).collect::<Vec<_>>();
    queues.send(QUEUE, messages(0)).await.unwrap();
    queues.send(QUEUE, messages(100)).await.unwrap();
    let work = async || {
        let mut done = Vec::new();
        loop {
            let leased = queues.lease(QUEUE, 7, LEASE).await.unwrap();
            if leased.is_empty() {
                return done;
            }
            let receipts = leased.iter().map(|leased| leased.receipt.clone()).collect();
            assert_eq!(queues.renew(QUEUE, receipts, LEASE).await.unwrap(), []);
            let settled =
                leased.iter().map(|leased| (leased.receipt.clone(), Settlement::Complete)).collect();
            assert_eq!(queues.settle(QUEUE, settled, Vec::new()).await.unwrap(), []);
            done.extend(leased.into_iter().map(|leased| leased.message.request));
        }
    };
    let (one, two, three) = tokio::join!(work(), work(), work());
    let mut done = [one, two, three].concat();
    assert_eq!(done.len(), 80);
    done.sort_unstable();
    done.dedup();
    assert_eq!(done.len(), 80, "nobody else had the same message");
}
