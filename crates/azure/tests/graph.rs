//! The directory against a strict fake of Microsoft Graph.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keyturn_azure::graph::feed::Link;
use keyturn_azure::graph::{Feed, GraphDirectory, Keep, Settings};
use keyturn_azure::{Attempts, Reach};
use keyturn_domain::ambient::SystemEntropy;
use keyturn_domain::clock::Clock;
use keyturn_domain::entropy::Entropy;
use keyturn_domain::ids::{DeviceId, GroupId};
use keyturn_ports::Kind;
use keyturn_ports::directory::{
    AlternativeSecurityId, Answer, DeviceRecord, Directory as _, Listed, Membership,
};
use keyturn_ports::roster::{Change, Changed, Next, Roster, Standing, Turn};
use keyturn_ports::shipping::Holder;
use keyturn_testkit::azure::graph::{FakeGraph, Fault};
use keyturn_testkit::clock::ManualClock;
use keyturn_testkit::conformance::sample;

use self::tokens::Tokens;

mod tokens;

/// Whoever asks for a page goes to a store; here are look-ups and the feed alone.
struct NoRoster;

#[async_trait]
impl Roster for NoRoster {
    async fn take(&self, _: Holder, _: Duration) -> Result<Option<Turn>, keyturn_ports::Error> {
        unreachable!("nobody reads")
    }

    async fn file(
        &self,
        _: Holder,
        _: u64,
        _: Vec<Change>,
        _: Next,
        _: Duration,
    ) -> Result<bool, keyturn_ports::Error> {
        unreachable!("nobody files")
    }

    async fn give_back(&self, _: Holder, _: Duration) -> Result<(), keyturn_ports::Error> {
        unreachable!("nobody has a turn")
    }

    async fn changed(&self, _: u64, _: usize) -> Result<Changed, keyturn_ports::Error> {
        Ok(Changed::default())
    }

    async fn standing(&self) -> Result<Standing, keyturn_ports::Error> {
        Ok(Standing::default())
    }

    async fn devices(&self, _: Option<DeviceId>, _: usize) -> Result<Vec<Listed>, keyturn_ports::Error> {
        unreachable!("nothing was read")
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
        keep: Keep {
            known: Duration::from_secs(15),
            unknown: Duration::from_secs(5),
            unfed: Duration::from_secs(15),
            uses: 8,
            entries: 100,
        },
        feed: None,
    };
    directory_with(settings, groups, fake, clock)
}

const FEED: Feed = Feed {
    every: Duration::from_mins(3),
    hold: Duration::from_mins(2),
    look: Duration::from_secs(5),
    late: Duration::from_mins(10),
};

/// One that keeps answers for an hour while it is told what changes.
async fn followed() -> (FakeGraph, GraphDirectory, ManualClock) {
    let (fake, clock) = (FakeGraph::start().await, ManualClock::default());
    let hour = Duration::from_hours(1);
    let settings = Settings {
        url: fake.server.url().parse().unwrap(),
        attempts: Attempts { most: 1, first_delay: Duration::from_millis(10), max_delay: Duration::ZERO },
        parallel: 8,
        keep: Keep { known: hour, unknown: hour, unfed: Duration::from_secs(15), uses: 8, entries: 100 },
        feed: Some(FEED),
    };
    directory_with(settings, [].into(), fake, clock)
}

fn directory_with(
    settings: Settings,
    groups: BTreeSet<GroupId>,
    fake: FakeGraph,
    clock: ManualClock,
) -> (FakeGraph, GraphDirectory, ManualClock) {
    let ca = fake.server.ca.clone().into_bytes();
    let reach = Reach { timeout: Duration::from_millis(500), ca: Some(ca), proxy: None };
    let ambient: (Arc<dyn Clock>, Arc<dyn Entropy>) = (Arc::new(clock.clone()), Arc::new(SystemEntropy));
    let (tokens, roster) = (Arc::new(Tokens), Arc::new(NoRoster));
    let directory = GraphDirectory::open(settings, groups, &reach, tokens, roster, ambient).unwrap();
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

/// The whole feed from a place on: what it says, and where it goes on.
async fn read(directory: &GraphDirectory, mut place: Option<String>) -> (Vec<Change>, String) {
    let mut told = Vec::new();
    loop {
        let page = directory.changes(place.as_deref()).await.unwrap();
        told.extend(page.changes);
        match page.next {
            Link::More(next) => place = Some(next),
            Link::Done(next) => return (told, next),
            Link::Lost => unreachable!("the place is known"),
        }
    }
}

#[tokio::test]
async fn the_feed_tells_what_changed_and_what_was_deleted() {
    let (fake, directory, _) = followed().await;
    (1..=5).for_each(|n| fake.add(&record(n)));
    fake.feed_pages_of(2);
    fake.feed_replays();
    let (told, place) = read(&directory, None).await;
    assert!(told.len() > 5, "some came again");
    assert_eq!(keyturn_ports::roster::objects(&told).len(), 5);
    assert!(read(&directory, Some(place.clone())).await.0.is_empty());

    fake.change(|device| {
        if device["displayName"] == "Lab's 2" {
            device["accountEnabled"] = false.into();
        }
    });
    fake.delete(|device| device["displayName"] == "Lab's 4");
    let (told, _) = read(&directory, Some(place)).await;
    let [Change::Seen(_, properties), Change::Gone(_)] = &told[..] else { panic!("{told:?}") };
    assert_eq!(
        (properties.len(), &properties["accountEnabled"]),
        (2, &false.into()),
        "its id and what changed"
    );
}

/// What is lost is told as lost; what is away, throttled, forbidden or no answer is an error, and nothing of it is told.
#[tokio::test]
async fn a_place_that_is_lost_is_told_from_a_service_that_is_away() {
    let (fake, directory, _) = followed().await;
    fake.add(&record(1));
    let (_, place) = read(&directory, None).await;
    for (fault, kind) in [
        (Fault::Status(429, Some(7)), Kind::Unavailable),
        (Fault::Status(403, None), Kind::Denied),
        (Fault::Status(500, None), Kind::Unavailable),
        (Fault::Html, Kind::Corrupt),
        (Fault::Cut, Kind::Corrupt),
    ] {
        let (other, directory, _) = followed().await;
        other.feed_faults([fault.clone()]);
        assert_eq!(directory.changes(None).await.unwrap_err().kind(), kind, "{fault:?}");
    }
    fake.feed_faults([Fault::Status(400, None)]);
    assert_eq!(directory.changes(None).await.unwrap_err().kind(), Kind::Unavailable, "not of a place");
    fake.expire_feed();
    assert_eq!(directory.changes(Some(&place)).await.unwrap().next, Link::Lost);
    let calls = fake.feed_calls();
    for strange in
        ["/v1.0/users?$deltatoken=x", "/v1.0/devices/delta", "https://evil.example/v1.0/devices/delta?x"]
    {
        assert_eq!(directory.changes(Some(strange)).await.unwrap().next, Link::Lost, "{strange}");
    }
    assert_eq!(fake.feed_calls(), calls, "nobody was asked");
}

/// A link to another host gets no token, and nothing of its page is believed.
#[tokio::test]
async fn the_feed_leads_to_no_other_host() {
    let (fake, directory, _) = followed().await;
    let elsewhere = FakeGraph::start().await;
    fake.add(&record(1));
    fake.feed_leads_to(Some(elsewhere.server.url()));
    assert_eq!(directory.changes(None).await.unwrap_err().kind(), Kind::Corrupt);
    assert_eq!(elsewhere.feed_calls(), 0);
}

/// After a throttled page nobody asks for a device either.
#[tokio::test]
async fn a_throttled_feed_keeps_look_ups_quiet() {
    let (fake, directory, _) = followed().await;
    fake.add(&record(1));
    fake.feed_faults([Fault::Status(429, Some(60))]);
    drop(directory.changes(None).await.unwrap_err());
    assert!(ask(&directory, sample::device(1)).await.unwrap_err().to_string().contains("another 60 s"));
    assert_eq!(fake.calls(), 0);
}

/// While the feed is up to date answers are kept for long, and what it names is asked for anew, and not kept for long.
#[tokio::test]
async fn what_the_feed_names_is_asked_for_anew() {
    let (fake, directory, clock) = followed().await;
    (1..=2).for_each(|n| fake.add(&record(n)));
    let enabled = async |n| ask(&directory, sample::device(n)).await.unwrap().records[0].account_enabled;
    assert_eq!(enabled(1).await, Some(true));
    clock.advance(Duration::from_secs(15));
    assert_eq!((enabled(1).await, fake.calls()), (Some(true), 2), "nobody said that the feed is read");

    directory.is_fed(true);
    assert_eq!(enabled(2).await, Some(true));
    clock.advance(Duration::from_mins(30));
    assert_eq!((enabled(1).await, enabled(2).await, fake.calls()), (Some(true), Some(true), 3));

    fake.change(|device| device["accountEnabled"] = false.into());
    directory.forget(Some(&[sample::device(1)]));
    assert_eq!((enabled(1).await, enabled(2).await, fake.calls()), (Some(false), Some(true), 4));
    fake.change(|device| device["accountEnabled"] = true.into());
    clock.advance(Duration::from_secs(15));
    assert_eq!((enabled(1).await, fake.calls()), (Some(true), 5), "it may not have been everywhere yet");
    clock.advance(FEED.late);
    assert_eq!((enabled(1).await, fake.calls()), (Some(true), 5), "it is now");
    directory.forget(None);
    assert_eq!((enabled(2).await, fake.calls()), (Some(true), 6));
    directory.is_fed(false);
    clock.advance(Duration::from_secs(15));
    assert_eq!((enabled(2).await, fake.calls()), (Some(true), 7), "late again");
}
