//! The client of the Logs Ingestion API against a strict fake of it.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use azure_core::time::OffsetDateTime;
use keyturn_azure::logs::{LogsIngestion, Settings, StreamName};
use keyturn_azure::{Attempts, Reach};
use keyturn_domain::ambient::{SystemClock, SystemEntropy};
use keyturn_domain::clock::Clock as _;
use keyturn_ports::Kind;
use keyturn_testkit::azure::identity;
use keyturn_testkit::azure::logs::{FakeLogs, Fault, RULE};
use serde_json::{Value, json};

const STREAM: &str = "Custom-CloudLAPSAudit_CL";

/// Tokens for whatever is asked for; it counts and can be turned off.
#[derive(Debug, Default)]
struct Tokens(Mutex<Vec<String>>, Mutex<bool>);

#[async_trait]
impl TokenCredential for Tokens {
    async fn get_token(
        &self,
        scopes: &[&str],
        _: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        self.0.lock().unwrap().push(scopes[0].to_owned());
        let audience = if *self.1.lock().unwrap() { "https://elsewhere" } else { scopes[0] };
        let expires = OffsetDateTime::from_unix_timestamp(identity::EXPIRES.try_into().unwrap()).unwrap();
        Ok(AccessToken::new(identity::token(audience.trim_end_matches("/.default")), expires))
    }
}

fn template() -> Value {
    serde_json::from_str(include_str!("../../../infra/azure/logs.json")).unwrap()
}

struct Site {
    fake: FakeLogs,
    logs: LogsIngestion,
    tokens: Arc<Tokens>,
    stream: StreamName,
}

impl Site {
    async fn start(batch_bytes: usize, compress: bool) -> Self {
        let fake = FakeLogs::start(&template()).await;
        let settings = Settings {
            endpoint: fake.server.url().parse().unwrap(),
            audience: "https://monitor.azure.com".parse().unwrap(),
            rule: RULE.parse().unwrap(),
            attempts: Attempts {
                most: 3,
                first_delay: Duration::from_millis(10),
                max_delay: Duration::from_secs(2),
            },
            batch_bytes,
            compress,
        };
        let ca = fake.server.ca.clone().into_bytes();
        let reach = Reach { timeout: Duration::from_millis(500), ca: Some(ca), proxy: None };
        let tokens = Arc::new(Tokens::default());
        let credential = Arc::clone(&tokens) as Arc<dyn TokenCredential>;
        let logs = LogsIngestion::open(settings, &reach, credential, Arc::new(SystemEntropy)).unwrap();
        Self { fake, logs, tokens, stream: STREAM.parse().unwrap() }
    }

    async fn send(&self, rows: &[String]) -> Result<usize, keyturn_ports::Error> {
        self.logs.send(&self.stream, rows).await
    }

    /// The reasons of the rows that arrived.
    fn arrived(&self) -> Vec<String> {
        let rows = self.fake.rows(STREAM);
        rows.iter().map(|row| row["Reason"].as_str().unwrap().to_owned()).collect()
    }
}

fn row(n: usize, filling: usize) -> String {
    json!({ "TimeGenerated": "2026-11-22T00:00:00Z", "Reason": n.to_string(), "Detail": "x".repeat(filling) })
        .to_string()
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|n| n.to_string()).collect()
}

#[tokio::test]
async fn rows_arrive_in_order_in_as_many_calls_as_they_need() {
    for compress in [false, true] {
        let site = Site::start(100_000, compress).await;
        let rows: Vec<String> = (0..50).map(|n| row(n, 10_000)).collect();
        let (mut sent, mut calls) = (0, 0);
        while sent < rows.len() {
            let count = site.send(&rows[sent..]).await.unwrap();
            assert!((1..10).contains(&count), "{count} rows of 10 kB in 100 kB");
            sent += count;
            calls += 1;
        }
        assert_eq!(site.arrived(), numbers(50));
        assert_eq!(site.fake.calls(), calls);
        assert_eq!(site.send(&[]).await.unwrap(), 0);
        assert_eq!(site.fake.calls(), calls, "nothing to send is no call");
        assert!(
            site.tokens.0.lock().unwrap().iter().all(|scope| scope == "https://monitor.azure.com/.default")
        );
    }
}

#[tokio::test]
async fn what_is_too_much_is_split_and_one_row_that_is_told() {
    let site = Site::start(1_000_000, false).await;
    site.fake.limit(1000);
    let rows: Vec<String> = (0..20).map(|n| row(n, 200)).collect();
    let mut sent = 0;
    while sent < rows.len() {
        let count = site.send(&rows[sent..]).await.unwrap();
        assert!((1..=3).contains(&count), "{count}");
        sent += count;
    }
    assert_eq!(site.arrived(), numbers(20));
    let error = site.send(&[row(20, 2000)]).await.unwrap_err();
    assert!(error.kind() == Kind::Corrupt && error.to_string().contains("one row alone"), "{error}");
}

#[tokio::test]
async fn a_call_of_unknown_outcome_is_made_again() {
    for fault in [Fault::DoneThen500, Fault::DoneThenCut, Fault::DoneInSilence] {
        let site = Site::start(1_000_000, true).await;
        site.fake.faults([fault.clone()]);
        assert_eq!(site.send(&[row(0, 1), row(1, 1)]).await.unwrap(), 2, "{fault:?}");
        assert_eq!(site.arrived(), ["0", "1", "0", "1"], "{fault:?}");
        assert!(site.fake.all_happened());
    }
    for fault in [Fault::Unavailable, Fault::Silence, Fault::Late(Duration::from_millis(50))] {
        let site = Site::start(1_000_000, true).await;
        site.fake.faults([fault.clone()]);
        assert_eq!(site.send(&[row(0, 1)]).await.unwrap(), 1, "{fault:?}");
        assert_eq!(site.arrived(), ["0"], "{fault:?}");
    }
}

#[tokio::test]
async fn who_is_throttled_waits_as_told_or_gives_up() {
    let site = Site::start(1_000_000, true).await;
    site.fake.faults([Fault::Throttled(Some(1))]);
    let before = SystemClock.monotonic();
    site.send(&[row(0, 1)]).await.unwrap();
    assert!(
        SystemClock.monotonic().saturating_sub(before) >= Duration::from_secs(1),
        "Retry-After is obeyed"
    );

    site.fake.faults([Fault::Throttled(Some(60))]);
    let error = site.send(&[row(1, 1)]).await.unwrap_err();
    assert!(error.kind() == Kind::Unavailable && error.to_string().contains("throttled"), "{error}");
    let calls = site.fake.calls();
    let error = site.send(&[row(1, 1)]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert_eq!(site.fake.calls(), calls, "it is left alone until then");
    assert_eq!(site.arrived(), ["0"]);
}

#[tokio::test]
async fn a_refusal_tells_what_mends_it_and_no_page_is_an_answer() {
    let site = Site::start(1_000_000, true).await;
    site.fake.always(Some(Fault::Forbidden));
    for error in
        [site.send(&[row(0, 1)]).await.unwrap_err(), site.logs.probe(&site.stream).await.unwrap_err()]
    {
        assert_eq!(error.kind(), Kind::Denied);
        assert!(error.to_string().contains("Monitoring Metrics Publisher"), "{error}");
    }
    assert_eq!(site.fake.calls(), 2, "a refusal is not asked for again");
    site.fake.always(Some(Fault::Html));
    let error = site.send(&[row(0, 1)]).await.unwrap_err();
    assert!(error.kind() == Kind::Unavailable && error.to_string().contains("on the way"), "{error}");
    site.fake.always(None);

    let unknown: StreamName = "Custom-Other_CL".parse().unwrap();
    let error = site.logs.probe(&unknown).await.unwrap_err();
    assert!(error.kind() == Kind::Denied && error.to_string().contains("azure.logs.endpoint"), "{error}");
    let reached = site.logs.probe(&site.stream).await.unwrap();
    assert!(reached.time.unwrap().0.abs_diff(SystemClock.now().0) < 60_000, "{reached:?}");

    *site.tokens.1.lock().unwrap() = true;
    let error = site.logs.probe(&site.stream).await.unwrap_err();
    assert!(error.kind() == Kind::Denied && error.to_string().contains("the token is refused"), "{error}");
    assert!(site.arrived().is_empty(), "nothing was stored by all this");
}
