//! The directory against a strict fake of Microsoft Graph.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use azure_core::time::OffsetDateTime;
use keyturn_azure::graph::{GraphDirectory, Keep, Settings};
use keyturn_azure::{Attempts, Reach};
use keyturn_domain::ambient::SystemEntropy;
use keyturn_domain::clock::Clock as _;
use keyturn_domain::ids::{DeviceId, GroupId};
use keyturn_ports::Kind;
use keyturn_ports::directory::{AlternativeSecurityId, Answer, DeviceRecord, Directory as _, Membership};
use keyturn_testkit::azure::graph::{FakeGraph, Fault};
use keyturn_testkit::azure::identity;
use keyturn_testkit::clock::ManualClock;
use keyturn_testkit::conformance::sample;

/// Tokens for whatever is asked for.
#[derive(Debug)]
struct Tokens;

#[async_trait]
impl TokenCredential for Tokens {
    async fn get_token(
        &self,
        scopes: &[&str],
        _: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        let audience = scopes[0].trim_end_matches("/.default");
        let expires = OffsetDateTime::from_unix_timestamp(identity::EXPIRES.try_into().unwrap()).unwrap();
        Ok(AccessToken::new(identity::token(audience), expires))
    }
}

async fn fresh() -> (FakeGraph, GraphDirectory, ManualClock) {
    asking_for([].into()).await
}

async fn asking_for(groups: BTreeSet<GroupId>) -> (FakeGraph, GraphDirectory, ManualClock) {
    let (fake, clock) = (FakeGraph::start().await, ManualClock::default());
    let settings = Settings {
        url: fake.server.url().parse().unwrap(),
        attempts: Attempts {
            most: 3,
            first_delay: Duration::from_millis(10),
            max_delay: Duration::from_secs(2),
        },
        parallel: 8,
        keep: Keep { known: Duration::from_secs(15), unknown: Duration::from_secs(5), uses: 8, entries: 100 },
    };
    let ca = fake.server.ca.clone().into_bytes();
    let reach = Reach { timeout: Duration::from_millis(500), ca: Some(ca), proxy: None };
    let (time, entropy) = (Arc::new(clock.clone()), Arc::new(SystemEntropy));
    let directory = GraphDirectory::open(settings, groups, &reach, Arc::new(Tokens), time, entropy).unwrap();
    (fake, directory, clock)
}

fn record(n: u8) -> DeviceRecord {
    DeviceRecord {
        device_id: sample::device(n),
        display_name: Some(format!("Lab's {n}")),
        account_enabled: Some(true),
        trust_type: Some("AzureAd".to_owned()),
        alternative_security_ids: vec![AlternativeSecurityId { kind: 2, key: "WAA1ADAAOQA=".to_owned() }],
        operating_system: Some("Windows".to_owned()),
        // The directory was asked and said so.
        groups: Some([].into()),
    }
}

async fn ask(directory: &GraphDirectory, device: DeviceId) -> Result<Answer, keyturn_ports::Error> {
    directory.look_up(vec![device]).await.remove(0)
}

#[tokio::test]
async fn answers_come_in_order_and_say_when() {
    let (fake, directory, clock) = fresh().await;
    fake.add(&record(1));
    fake.add(&record(2));
    clock.advance(Duration::from_secs(5));
    let answers = directory.look_up([2, 9, 1].map(sample::device).to_vec()).await;
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert!(answers.iter().all(|answer| answer.answered == clock.now()));
    let records: Vec<_> = answers.into_iter().map(|answer| answer.records).collect();
    assert_eq!(records, [vec![record(2)], vec![], vec![record(1)]]);
}

/// Only the groups that matter are asked for, in as many calls as it takes, and kept with the device. Who cannot be
/// told of groups is told nothing.
#[tokio::test]
async fn groups_that_matter_are_told_with_the_device() {
    let group = |number| GroupId::from_bytes([number; 16]);
    let (fake, directory, clock) = asking_for((1..=45).map(group).collect()).await;
    let member = |numbers: &[u8]| Some(numbers.iter().map(|n| Membership { id: group(*n) }).collect());
    fake.add(&DeviceRecord { groups: member(&[3, 21, 45, 99]), ..record(1) });
    let told = ask(&directory, sample::device(1)).await.unwrap().records.remove(0);
    assert_eq!(told.groups, member(&[3, 21, 45]));
    assert_eq!(fake.calls(), 4, "the device, and 45 groups by 20");
    ask(&directory, sample::device(1)).await.unwrap();
    assert_eq!(fake.calls(), 4);

    clock.advance(Duration::from_secs(15));
    fake.change(|device| device["transitiveMemberOf"] = serde_json::json!([]));
    assert_eq!(ask(&directory, sample::device(1)).await.unwrap().records[0].groups, member(&[]));
    assert!(ask(&directory, sample::device(2)).await.unwrap().records.is_empty());
    assert_eq!(fake.calls(), 9, "nobody asks for the groups of a device that is not there");

    clock.advance(Duration::from_secs(15));
    fake.faults([Fault::Pass, Fault::Status(403, None)]);
    let refused = ask(&directory, sample::device(1)).await.unwrap_err();
    assert!(refused.to_string().contains("Device.Read.All"), "{refused}");
    fake.faults([Fault::Pass, Fault::Cut]);
    assert_eq!(ask(&directory, sample::device(1)).await.unwrap_err().kind(), Kind::Corrupt);
    fake.faults([Fault::Pass, Fault::Status(429, Some(0)), Fault::Status(500, None)]);
    assert_eq!(ask(&directory, sample::device(1)).await.unwrap().records[0].groups, member(&[]));
}

/// Two records of one id are both told, never the first alone, and never kept.
#[tokio::test]
async fn two_records_of_a_device_are_told() {
    let (fake, directory, _) = fresh().await;
    fake.add(&record(1));
    fake.add(&DeviceRecord { display_name: Some("other".to_owned()), ..record(1) });
    for calls in 1..=2 {
        assert_eq!(ask(&directory, sample::device(1)).await.unwrap().records.len(), 2);
        assert_eq!(fake.calls(), calls);
    }
}

#[tokio::test]
async fn names_are_found_with_whatever_is_in_them() {
    let (fake, directory, _) = fresh().await;
    fake.add(&record(3));
    fake.add(&record(1));
    assert_eq!(directory.named("lab's 1").await.unwrap(), [sample::device(1)]);
    assert!(directory.named("x' or deviceId ne '").await.unwrap().is_empty());
    assert!(directory.named("").await.unwrap().is_empty());
    assert_eq!(directory.page(None, 2).await.unwrap_err().kind(), Kind::Denied);
}

#[tokio::test]
async fn answers_are_kept_for_their_time_and_no_longer() {
    let (fake, directory, clock) = fresh().await;
    fake.add(&record(1));
    let answered = clock.now();
    for seconds in [0, 5, 5] {
        clock.advance(Duration::from_secs(seconds));
        assert_eq!(ask(&directory, sample::device(1)).await.unwrap().answered, answered, "it keeps its time");
    }
    assert_eq!(fake.calls(), 1);
    clock.advance(Duration::from_secs(5));
    fake.change(|device| device["accountEnabled"] = false.into());
    let anew = ask(&directory, sample::device(1)).await.unwrap();
    assert_eq!((anew.answered, anew.records[0].account_enabled), (clock.now(), Some(false)));

    assert!(ask(&directory, sample::device(2)).await.unwrap().records.is_empty());
    fake.add(&record(2));
    assert!(ask(&directory, sample::device(2)).await.unwrap().records.is_empty(), "for 5 seconds");
    clock.advance(Duration::from_secs(5));
    assert_eq!(ask(&directory, sample::device(2)).await.unwrap().records.len(), 1);
}

/// A message that needs a newer answer than itself comes back at once, and is not told the same for ever.
#[tokio::test]
async fn an_answer_is_used_up() {
    let (fake, directory, _) = fresh().await;
    fake.add(&record(1));
    for _ in 0..18 {
        ask(&directory, sample::device(1)).await.unwrap();
    }
    assert_eq!(fake.calls(), 2, "one call and eight repeats, twice");
}

#[tokio::test]
async fn who_asks_at_once_asks_once() {
    let (fake, directory, _) = fresh().await;
    fake.add(&record(1));
    let answers = directory.look_up(vec![sample::device(1); 8]).await;
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap().records == [record(1)]));
    assert_eq!(fake.calls(), 1);
}

#[tokio::test]
async fn what_passes_is_tried_again() {
    for fault in
        [Fault::Status(429, Some(1)), Fault::Status(429, None), Fault::Status(503, None), Fault::Silence]
    {
        let (fake, directory, _) = fresh().await;
        fake.add(&record(1));
        fake.faults([fault.clone()]);
        assert_eq!(ask(&directory, sample::device(1)).await.unwrap().records.len(), 1, "{fault:?}");
        assert_eq!(fake.calls(), 2, "{fault:?}");
    }
}

#[tokio::test]
async fn what_does_not_pass_is_told_apart_and_never_an_absent_device() {
    for (fault, kind, calls) in [
        (Fault::Html, Kind::Corrupt, 1),
        (Fault::Cut, Kind::Corrupt, 1),
        (Fault::Status(403, None), Kind::Denied, 1),
        (Fault::Status(401, None), Kind::Denied, 1),
        (Fault::Status(404, None), Kind::Unavailable, 1),
        (Fault::Status(302, None), Kind::Unavailable, 1),
        (Fault::Status(500, None), Kind::Unavailable, 3),
    ] {
        let (fake, directory, _) = fresh().await;
        fake.add(&record(1));
        fake.always(Some(fault.clone()));
        let error = ask(&directory, sample::device(1)).await.unwrap_err();
        assert_eq!((error.kind(), fake.calls()), (kind, calls), "{fault:?}: {error}");
        fake.always(None);
        assert_eq!(
            ask(&directory, sample::device(1)).await.unwrap().records.len(),
            1,
            "a failure is not kept"
        );
    }
}

/// Whoever is throttled for long leaves Graph alone, for every device.
#[tokio::test]
async fn a_long_throttle_keeps_everybody_quiet() {
    let (fake, directory, _) = fresh().await;
    fake.add(&record(1));
    fake.add(&record(2));
    fake.faults([Fault::Status(429, Some(60))]);
    assert_eq!(ask(&directory, sample::device(1)).await.unwrap_err().kind(), Kind::Unavailable);
    let error = ask(&directory, sample::device(2)).await.unwrap_err();
    assert!(error.to_string().contains("another 60 s"), "{error}");
    assert_eq!(fake.calls(), 1);
}
