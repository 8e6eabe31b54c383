//! Queues of Service Bus against the fake, which Microsoft's client takes for one (`./test azure`): `./test service-bus`.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod server;
mod sessions;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use azure_core::time::OffsetDateTime;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyturn_azure::ServiceBus;
use keyturn_azure::service_bus::{Access, Settings};
use keyturn_domain::ambient::SystemEntropy;
use keyturn_domain::clock::Clock as _;
use keyturn_ports::Kind;
use keyturn_ports::dead_letters::DeadLetters as _;
use keyturn_ports::queue::{DeadReason, Leased, NewMessage, Queue as _, QueueName, Receipt, Settlement};
use keyturn_testkit::clock::ManualClock;
use keyturn_testkit::conformance::sample;
use keyturn_testkit::service_bus::{Certificate, FakeServiceBus, KEY};

use self::server::{Deployment, by_key, on, queues, settings, usual};

keyturn_testkit::conformance!(queue_with_strict_leases, Deployment);

const QUEUE: QueueName = QueueName::Findings;
const ON: &str = "k-findings";
const LEASE: Duration = Duration::from_mins(1);

async fn lease_one(queues: &ServiceBus) -> Leased {
    let mut leased = queues.lease(QUEUE, 9, LEASE).await.unwrap();
    assert_eq!(leased.len(), 1, "exactly one message is visible");
    leased.remove(0)
}

async fn settle(queues: &ServiceBus, leased: &Leased, settlement: Settlement) -> Vec<Receipt> {
    queues.settle(QUEUE, vec![(leased.receipt.clone(), settlement)], Vec::new()).await.unwrap()
}

fn later() -> Settlement {
    Settlement::Retry { after: Duration::from_secs(30), error: "the vault is away".to_owned() }
}

/// Where the contract leaves a choice: on this engine a lease that ran out is void, and the message comes again.
#[tokio::test]
async fn a_lock_that_ran_out_is_void_and_the_message_comes_again() {
    let Deployment { queues, clock, .. } = &Deployment::with(&usual());
    queues.send(QUEUE, vec![sample::message(1)]).await.unwrap();
    let lost = lease_one(queues).await;
    clock.advance(LEASE);
    for settlement in [later(), Settlement::Release, Settlement::Complete] {
        assert_eq!(settle(queues, &lost, settlement).await, std::slice::from_ref(&lost.receipt));
    }
    let again = lease_one(queues).await;
    assert_eq!(again.deliveries, 2);
    assert!(settle(queues, &again, Settlement::Complete).await.is_empty());
    assert_eq!(queues.depth(QUEUE).await.unwrap().total, 0, "what was lost left no copy behind");
}

/// A connection that breaks before or after each kind of step loses no message, and what was done is done once.
#[tokio::test]
async fn links_that_drop_lose_and_double_nothing() {
    let Deployment { queues, fake, clock, .. } = &Deployment::with(&usual());
    for how in ["before", "after"] {
        fake.fault("send", how, 1);
        queues.send(QUEUE, vec![sample::message(1)]).await.unwrap();
        fake.drop_links();
        let leased = lease_one(queues).await;
        fake.fault("renew-lock", how, 1);
        assert_eq!(queues.renew(QUEUE, vec![leased.receipt.clone()], LEASE).await.unwrap(), []);
        fake.fault("schedule-message", how, 1);
        assert_eq!(settle(queues, &leased, later()).await, []);
        assert_eq!(queues.depth(QUEUE).await.unwrap().total, 1, "one copy, {how}");
        clock.advance(Duration::from_secs(30));
        let again = lease_one(queues).await;
        assert_eq!((again.deliveries, &again.message), (2, &sample::message(1)));
        fake.fault("update-disposition", how, 1);
        let void = settle(queues, &again, Settlement::Complete).await;
        // What was done before its answer was lost looks like a lock that was lost: the message is gone all the same.
        assert_eq!(void.len(), usize::from(how == "after"), "{how}");
        clock.advance(LEASE);
        assert!(queues.lease(QUEUE, 9, LEASE).await.unwrap().is_empty(), "{how}");
        assert_eq!(fake.look(ON)["faults"], 0, "every fault was met");
    }
}

/// How long this process has run, in hundredths of a second.
fn processor_time() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
    fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

/// A server that takes bytes and answers nothing costs no time, however often it is tried again; and it is back when it is.
#[tokio::test]
async fn a_service_that_answers_nothing_is_waited_for_at_rest() {
    let given = Deployment::with(&usual());
    let settings = Settings { timeout: Duration::from_millis(300), ..settings(&given.fake.url("amqp")) };
    let (queues, _state, _folder) = on(&settings, by_key(KEY), &given.clock);
    queues.send(QUEUE, vec![sample::message(1)]).await.unwrap();
    assert_eq!(lease_one(&queues).await.message, sample::message(1));
    given.fake.pause();
    for _ in 0..3 {
        let tried = queues.send(QUEUE, vec![sample::message(2)]).await;
        assert_eq!(tried.unwrap_err().kind(), Kind::Unavailable);
    }
    // Time enough to take leave of the connections that were given up.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let before = processor_time();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let spent = processor_time() - before;
    assert!(spent < 20, "{spent} hundredths of a second of two seconds");
    given.fake.resume();
    queues.send(QUEUE, vec![sample::message(3)]).await.unwrap();
}

/// A death between the copy and the completion leaves both; the next worker's copy is the same one.
#[tokio::test]
async fn a_death_between_copy_and_completion_doubles_a_message_once_at_most() {
    let deployment = Deployment::with(&usual());
    let Deployment { fake, clock, .. } = &deployment;
    let queues = deployment.sibling();
    queues.send(QUEUE, vec![sample::message(1)]).await.unwrap();
    let first = lease_one(&queues).await;
    // The process dies while its completion is on the way.
    fake.fault("update-disposition", "before", 99);
    queues.settle(QUEUE, vec![(first.receipt.clone(), later())], Vec::new()).await.unwrap_err();
    drop(queues);
    fake.tell(&serde_json::json!({ "calm": true }));
    assert_eq!(fake.look(ON)["alive"].as_array().unwrap().len(), 2, "the message and its copy");
    clock.advance(LEASE);
    let other = deployment.sibling();
    let both = other.lease(QUEUE, 9, LEASE).await.unwrap();
    assert_eq!(both.iter().map(|one| one.deliveries).collect::<Vec<_>>(), [2, 2]);
    let retries = both.iter().map(|one| (one.receipt.clone(), later())).collect();
    assert_eq!(other.settle(QUEUE, retries, Vec::new()).await.unwrap(), []);
    assert_eq!(fake.look(ON)["alive"].as_array().unwrap().len(), 1, "they are one again");
}

/// Duplicate detection takes nothing for a duplicate but what is one.
#[tokio::test]
async fn a_message_that_is_sent_again_on_purpose_arrives() {
    let Deployment { queues, .. } = &Deployment::with(&usual());
    for _ in 0..2 {
        queues.send(QUEUE, vec![sample::message(1)]).await.unwrap();
    }
    assert_eq!(queues.lease(QUEUE, 9, LEASE).await.unwrap().len(), 2);
}

/// Tokens are replaced before their end, and a link that was closed all the same is had again.
#[tokio::test]
async fn tokens_that_run_out_stop_nobody() {
    let Deployment { queues, fake, clock, .. } = &Deployment::with(&usual());
    queues.send(QUEUE, vec![sample::message(1)]).await.unwrap();
    let leased = lease_one(queues).await;
    assert_eq!(fake.look(ON)["connections"], 1);
    // A token lasts an hour and is replaced four minutes before its end.
    clock.advance(Duration::from_mins(57));
    queues.send(QUEUE, vec![sample::message(2)]).await.unwrap();
    clock.advance(Duration::from_mins(4));
    queues.send(QUEUE, vec![sample::message(3)]).await.unwrap();
    assert_eq!(fake.look(ON)["connections"], 1, "it is the same connection, with a newer token");
    assert_eq!(settle(queues, &leased, Settlement::Complete).await.len(), 1);
    // Nobody was there to replace it, and the service closed the links.
    clock.advance(Duration::from_hours(3));
    let mut all = queues.lease(QUEUE, 9, LEASE).await.unwrap();
    all.sort_by_key(|one| one.message.request);
    let messages: Vec<_> = all.iter().map(|one| one.message.clone()).collect();
    assert_eq!(messages, [1, 2, 3].map(sample::message));
    fake.fault("put-token", "busy", 1);
    clock.advance(Duration::from_hours(3));
    queues.send(QUEUE, vec![sample::message(4)]).await.unwrap();
}

/// Who is throttled waits and tries again, and tells when it lasts.
#[tokio::test]
async fn a_busy_service_is_left_alone_for_a_while() {
    let Deployment { queues, fake, .. } = &Deployment::with(&usual());
    fake.fault("send", "busy", 2);
    queues.send(QUEUE, vec![sample::message(1)]).await.unwrap();
    let leased = lease_one(queues).await;
    fake.fault("update-disposition", "busy", 2);
    assert_eq!(settle(queues, &leased, Settlement::Complete).await, []);
    assert_eq!(fake.look(ON)["connections"], 1, "a busy service is as good as before");
    fake.fault("send", "busy", 4);
    let error = queues.send(QUEUE, vec![sample::message(1)]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("server-busy"), "{error}");
    assert_eq!(fake.look(ON)["faults"], 0, "four attempts and no more");
}

#[tokio::test]
async fn messages_die_into_the_index_and_the_services_own_dead_letters() {
    let Deployment { queues, state, clock, fake, .. } = &Deployment::with(&usual());
    queues.send(QUEUE, vec![sample::message(1)]).await.unwrap();
    let sent = clock.now();
    for n in 0..10 {
        let after = Duration::from_secs(n % 2);
        let retry = Settlement::Retry { after, error: format!("attempt {n}") };
        assert_eq!(settle(queues, &lease_one(queues).await, retry).await, []);
        clock.advance(after);
    }
    let doomed = lease_one(queues).await;
    assert_eq!(doomed.deliveries, 11);
    queues.renew(QUEUE, vec![doomed.receipt.clone()], LEASE).await.unwrap();
    let dead = || Settlement::DeadLetter { reason: DeadReason::Exhausted, error: "the end".to_owned() };
    assert_eq!(settle(queues, &doomed, dead()).await, []);
    assert_eq!(settle(queues, &doomed, dead()).await.len(), 1, "it dies once");

    // What is in the index already is not put there again.
    clock.advance(LEASE);
    assert!(queues.lease(QUEUE, 9, LEASE).await.unwrap().is_empty());
    let letters = state.list(None, 9).await.unwrap();
    let [letter] = letters.as_slice() else { panic!("{letters:?}") };
    assert_eq!((&letter.message, letter.queue, letter.deliveries), (&sample::message(1), QUEUE, 11));
    assert_eq!(letter.enqueued, sent);
    let errors: Vec<_> = letter.attempts.iter().map(|attempt| attempt.error.as_str()).collect();
    assert_eq!(errors.first().zip(errors.last()), Some((&"attempt 3", &"the end")));
    assert_eq!(errors.len(), 8);
    let told = &fake.look(ON)["dead"][0]["properties"];
    assert_eq!(
        (&told["DeadLetterReason"], &told["DeadLetterErrorDescription"]),
        (&"exhausted".into(), &"the end".into())
    );
    assert_eq!(queues.depth(QUEUE).await.unwrap().dead, 1);
}

/// A queue that was made with too small a maximum gives messages up by itself: they are not lost to operators.
#[tokio::test]
async fn what_the_service_gives_up_by_itself_is_in_the_index_once() {
    let deployment = Deployment::with(&serde_json::json!({ "lockMs": 60_000, "maxDelivery": 1 }));
    let Deployment { queues, state, clock, .. } = &deployment;
    queues.send(QUEUE, vec![sample::message(1)]).await.unwrap();
    lease_one(queues).await;
    clock.advance(LEASE);
    for _ in 0..2 {
        assert!(queues.lease(QUEUE, 9, LEASE).await.unwrap().is_empty());
        assert!(deployment.sibling().lease(QUEUE, 9, LEASE).await.unwrap().is_empty());
        clock.advance(LEASE);
    }
    let letters = state.list(None, 9).await.unwrap();
    let [letter] = letters.as_slice() else { panic!("{letters:?}") };
    assert_eq!((&letter.message, letter.reason), (&sample::message(1), DeadReason::Exhausted));
    let last = letter.attempts.last().unwrap();
    assert!(last.error.contains("MaxDeliveryCountExceeded"), "{}", last.error);
}

#[tokio::test]
async fn what_goes_wrong_is_told_without_a_secret() {
    let deployment = Deployment::with(&usual());
    let clock = &deployment.clock;
    let send = async |settings: Settings, access| {
        let (queues, ..) = on(&settings, access, clock);
        queues.send(QUEUE, vec![sample::message(1)]).await.unwrap_err()
    };
    let here = || settings(&deployment.fake.url("amqp"));
    let error = send(here(), by_key("secret-canary")).await;
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
    let error = send(Settings { prefix: "other-".to_owned(), ..here() }, by_key(KEY)).await;
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(error.to_string().contains("404"), "{error}");
    let error = send(settings("amqp://127.0.0.1:1"), by_key(KEY)).await;
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    let long = NewMessage { body: "x".repeat(256 * 1024), ..sample::message(1) };
    assert_eq!(deployment.queues.send(QUEUE, vec![long]).await.unwrap_err().kind(), Kind::Corrupt);
}

/// A token that the fake takes: it looks at the claims, and at no signature.
#[derive(Debug)]
struct Tokens {
    audience: &'static str,
    clock: ManualClock,
}

#[async_trait]
impl TokenCredential for Tokens {
    async fn get_token(
        &self,
        scopes: &[&str],
        _: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        assert_eq!(scopes, ["https://servicebus.azure.net/.default"]);
        let ends = i64::try_from(self.clock.now().0 / 1000).unwrap() + 600;
        let part = |text: String| URL_SAFE_NO_PAD.encode(text);
        let claims = serde_json::json!({ "aud": self.audience, "exp": ends }).to_string();
        let token = format!("{}.{}.c2ln", part(r#"{"alg":"RS256","typ":"JWT"}"#.to_owned()), part(claims));
        Ok(AccessToken::new(token, OffsetDateTime::from_unix_timestamp(ends).unwrap()))
    }
}

#[tokio::test]
async fn tokens_of_entra_id_open_the_queues_under_tls_and_those_for_others_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let pki = Certificate { certificate: folder.path().join("c.pem"), key: folder.path().join("k.pem") };
    let issued = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(&pki.certificate, issued.cert.pem()).unwrap();
    std::fs::write(&pki.key, issued.signing_key.serialize_pem()).unwrap();
    let fake = FakeServiceBus::start(&queues(&usual()), Some(&pki));
    let clock = fake.clock();
    let access = |audience| Access::Token(Arc::new(Tokens { audience, clock: clock.clone() }));
    let ours = "https://servicebus.azure.net";
    let trusting = Settings { ca: Some(issued.cert.pem().into_bytes()), ..settings(&fake.url("sb")) };
    let (good, ..) = on(&trusting, access(ours), &clock);
    good.send(QUEUE, vec![sample::message(1)]).await.unwrap();
    assert_eq!(lease_one(&good).await.message, sample::message(1));
    let sent = async |settings: &Settings, audience| {
        let (queues, ..) = on(settings, access(audience), &clock);
        queues.send(QUEUE, vec![sample::message(1)]).await.unwrap_err()
    };
    let error = sent(&trusting, "https://vault.azure.net").await;
    assert_eq!(error.kind(), Kind::Denied, "a token for another service: {error}");
    let error = sent(&settings(&fake.url("sb")), ours).await;
    assert_eq!(error.kind(), Kind::Unavailable, "a server that nobody vouches for: {error}");
    let (state, time) = (on(&trusting, access(ours), &clock).1, Arc::new(clock.clone()));
    let plain = ServiceBus::new(
        settings("amqp://127.0.0.1:1"),
        access(ours),
        Arc::new(state),
        time,
        Arc::new(SystemEntropy),
    );
    assert!(plain.is_err(), "a token never goes over plain TCP");
}

/// Who may listen and not send is told so by a question that sends nothing, and the other way around.
#[tokio::test]
async fn whether_messages_may_be_sent_is_asked_without_one() {
    let deployment = Deployment::with(&usual());
    deployment.queues.may_send(QUEUE).await.unwrap();
    deployment.fake.rights(&["Listen"]);
    let refused = deployment.sibling();
    let error = refused.may_send(QUEUE).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    assert!(error.to_string().contains("Data Sender"), "{error}");
    assert_eq!(refused.depth(QUEUE).await.unwrap().total, 0, "it may look");
    refused.agrees(QUEUE).await.unwrap();
    deployment.fake.rights(&["Send"]);
    let other = deployment.sibling();
    other.may_send(QUEUE).await.unwrap();
    assert_eq!(other.agrees(QUEUE).await.unwrap_err().kind(), Kind::Denied);
    assert_eq!(deployment.fake.look("k-findings")["sent"], 0, "nothing was sent");
}

/// Many workers at once: every message is completed once.
#[tokio::test]
async fn workers_side_by_side_share_the_work() {
    let deployment = Deployment::with(&usual());
    let messages = (0..80).map(sample::message).collect();
    deployment.queues.send(QUEUE, messages).await.unwrap();
    let work = async || {
        let (queues, mut done) = (deployment.sibling(), Vec::new());
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
    done.sort_unstable();
    assert_eq!(done, (0..80).map(sample::request).collect::<Vec<_>>());
}
