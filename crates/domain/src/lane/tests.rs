use std::time::Duration;

use super::*;
use crate::ids::{InstallId, KeyHash};

const DAY: u64 = 24 * 3600 * 1000;
const NOW: UnixMillis = UnixMillis(100 * DAY);

fn key(install: u8, key: u8) -> LaneKey {
    LaneKey {
        device: DeviceId::from_bytes([1; 16]),
        account: "uid-1000".parse().unwrap(),
        install: InstallId([install; 32]),
        key: KeyHash([key; 32]),
    }
}

fn version(number: u8) -> VersionId {
    VersionId([number; 16])
}

#[expect(clippy::unnecessary_wraps, reason = "the fields it fills are options")]
fn dated(number: u8, at: u64) -> Option<Dated> {
    Some(Dated { version: version(number), at: UnixMillis(at) })
}

/// A request that knows nothing, said now.
fn request() -> Heard {
    Heard {
        key: key(1, 1),
        kind: HeardKind::Request { wait: Duration::from_mins(10) },
        order: Order { received: NOW, nonce: UnixMillis(NOW.0 - 10) },
        state: Reported::default(),
        hints: Hints::default(),
        about: About::default(),
        groups: None,
        directory_answered: NOW,
    }
}

/// The same from a device that uses this version, which was made for its lane.
fn using(number: u8) -> Heard {
    let mut heard = request();
    heard.state.cur = Some(version(number));
    heard.state.issued.insert(version(number));
    heard
}

fn lane() -> Lane {
    Lane::open(key(1, 1), UnixMillis(NOW.0 - 50 * DAY))
}

fn ask(lane: Lane, heard: &Heard) -> Decision {
    decide(&[lane], None, heard, &RotationPolicy::default(), NOW)
}

fn alarms(decision: &Decision) -> Vec<Alarm> {
    let alarm = |event: &LaneEvent| match event {
        LaneEvent::AlarmRaised { alarm } => Some(*alarm),
        _ => None,
    };
    decision.events.iter().filter_map(alarm).collect()
}

#[test]
fn a_device_never_heard_of_gets_its_first_version() {
    let decision = decide(&[], None, &request(), &RotationPolicy::default(), NOW);
    assert_eq!(decision.reply, Reply::Mint(MintReason::First));
    assert_eq!(decision.events, [LaneEvent::LaneOpened]);
}

#[test]
fn a_confirmed_version_is_replaced_when_it_is_old_enough_and_not_before() {
    for (age, reply) in [
        (3 * DAY, Reply::Mint(MintReason::Due)),
        (3 * DAY - 1, Reply::NotDue(UnixMillis(NOW.0 + 1))),
        (0, Reply::NotDue(UnixMillis(NOW.0 + 3 * DAY))),
    ] {
        let lane = Lane { confirmed: dated(1, NOW.0 - age), ..lane() };
        assert_eq!(ask(lane, &using(1)).reply, reply, "{age}");
    }
}

#[test]
fn an_outstanding_version_is_sent_again_whatever_else_is_due() {
    let lane =
        Lane { confirmed: dated(1, 0), outstanding: dated(2, NOW.0 - DAY), forced: Some(NOW), ..lane() };
    assert_eq!(ask(lane, &using(1)).reply, Reply::Reseal(version(2)));
}

#[test]
fn a_message_that_is_not_newer_on_both_counts_changes_nothing() {
    let said = request().order;
    for (received, nonce) in
        [(said.received.0, 0), (said.received.0 + 1, 0), (0, said.nonce.0), (0, said.nonce.0 + 1)]
    {
        let last = Some(Order { received: UnixMillis(received), nonce: UnixMillis(nonce) });
        let decision = ask(Lane { last, ..lane() }, &request());
        assert_eq!((decision.reply, decision.lane), (Reply::Stale, None), "{received} {nonce}");
    }
}

#[test]
fn a_report_confirms_and_settles() {
    let lane = Lane { confirmed: dated(1, 0), outstanding: dated(2, NOW.0 - 5), ..lane() };
    let heard = Heard { kind: HeardKind::Report, ..using(2) };
    let decision = ask(lane, &heard);
    let after = decision.lane.unwrap();
    assert_eq!(decision.reply, Reply::Recorded);
    assert_eq!((after.confirmed, after.outstanding), (dated(2, NOW.0), None));
    assert_eq!(decision.events, [LaneEvent::PasswordConfirmed { version: version(2) }]);
}

#[test]
fn a_report_cannot_open_a_lane() {
    let heard = Heard { kind: HeardKind::Report, ..request() };
    let decision = decide(&[], None, &heard, &RotationPolicy::default(), NOW);
    assert_eq!((decision.reply, decision.lane), (Reply::Refused, None));
}

#[test]
fn an_unknown_current_version_only_widens() {
    let known =
        Lane { confirmed: dated(1, 0), outstanding: dated(2, 5), in_doubt: [version(9)].into(), ..lane() };
    let mut foreign = request();
    foreign.state.cur = Some(version(7));
    for heard in [request(), foreign] {
        let decision = ask(known.clone(), &heard);
        let after = decision.lane.clone().unwrap();
        assert_eq!(alarms(&decision), [Alarm::UnknownCurrent]);
        assert_eq!((after.confirmed, after.outstanding), (known.confirmed, known.outstanding));
        assert_eq!(after.in_doubt, [version(2), version(9)].into());
        assert_eq!(after.forced, Some(NOW));
    }
}

#[test]
fn a_device_that_never_confirmed_anything_may_know_nothing() {
    let lane = Lane { outstanding: dated(1, 5), ..lane() };
    let decision = ask(lane, &request());
    assert_eq!(alarms(&decision), []);
    assert_eq!(decision.reply, Reply::Reseal(version(1)));
}

#[test]
fn versions_of_other_lanes_are_not_believed() {
    let mut heard = using(1);
    heard.state.in_doubt = [version(5)].into();
    let after = ask(Lane { confirmed: dated(1, 0), ..lane() }, &heard).lane.unwrap();
    assert!(after.in_doubt.is_empty());
}

#[test]
fn a_device_back_at_an_old_version_is_rotated() {
    let decision = ask(Lane { confirmed: dated(2, NOW.0 - 5), ..lane() }, &using(1));
    assert_eq!(alarms(&decision), [Alarm::RolledBack]);
    assert_eq!(decision.reply, Reply::Mint(MintReason::Forced));
}

#[test]
fn refusals_keep_the_version_in_doubt_and_in_the_end_hold() {
    let mut lane = Lane { confirmed: dated(1, 0), ..lane() };
    let policy = RotationPolicy::default();
    for round in 2..=4_u8 {
        lane.outstanding = dated(round, NOW.0);
        lane.last = None;
        let mut heard = using(1);
        heard.state.refused = [version(round)].into();
        heard.state.in_doubt = (2..=round).map(version).collect();
        heard.state.issued.extend((2..=round).map(version));
        let decision = decide(&[lane], None, &heard, &policy, NOW);
        lane = decision.lane.clone().unwrap();
        assert!(lane.outstanding.is_none() && lane.in_doubt.contains(&version(round)));
        assert_eq!(alarms(&decision).contains(&Alarm::Held), round == 4);
    }
    assert_eq!(lane.held_until, Some(NOW.plus(policy.hold_window)));
    lane.last = None;
    let held = |heard: &Heard| ask(lane.clone(), heard).reply;
    assert_eq!(held(&using(1)), Reply::Held(NOW.plus(policy.hold_window)));
    let changed = Heard { hints: Hints { min_len: Some(20), ..Hints::default() }, ..using(1) };
    assert_eq!(held(&changed), Reply::Mint(MintReason::Due));
}

#[test]
fn a_request_that_waited_too_long_is_answered_but_gets_no_version() {
    let mut heard = request();
    heard.order.received = UnixMillis(NOW.0 - 10 * 60 * 1000 - 1);
    let decision = ask(lane(), &heard);
    assert_eq!(decision.reply, Reply::Expired);
    assert!(decision.lane.is_some_and(|lane| lane.last == Some(heard.order)));
    heard.kind = HeardKind::Request { wait: Duration::from_hours(9) };
    heard.order.received = UnixMillis(NOW.0 - 3600 * 1000 - 1);
    assert_eq!(ask(lane(), &heard).reply, Reply::Expired, "no device waits longer than the limit");
}

#[test]
fn a_forced_rotation_is_met_by_a_version_made_after_it_was_asked() {
    let asked = UnixMillis(NOW.0 - 100);
    for (made, met) in [(asked.0 - 1, false), (asked.0, true)] {
        let lane = Lane {
            outstanding: dated(2, made),
            forced: Some(asked),
            confirmed: dated(1, NOW.0 - 200),
            ..lane()
        };
        let decision = ask(lane, &using(2));
        let expected =
            if met { Reply::NotDue(UnixMillis(NOW.0 + 3 * DAY)) } else { Reply::Mint(MintReason::Forced) };
        assert_eq!((decision.reply, decision.lane.unwrap().forced.is_none()), (expected, met));
    }
}

#[test]
fn a_device_gets_four_versions_a_day_over_all_its_lanes() {
    let policy = RotationPolicy::default();
    let minted = (1..=4).map(|hour| UnixMillis(NOW.0 - hour * 3600 * 1000)).collect();
    let other = Lane { minted, ..Lane::open(key(2, 2), NOW) };
    let decision = decide(&[lane(), other], None, &request(), &policy, NOW);
    assert_eq!(decision.reply, Reply::Held(UnixMillis(NOW.0 + 20 * 3600 * 1000)));
}

/// Six were made before the limit became four: three of them have to be old, not one.
#[test]
fn a_limit_that_was_lowered_holds_until_there_is_room_below_it() {
    let policy = RotationPolicy::default();
    let hours_ago = |hour: u64| UnixMillis(NOW.0 - hour * 3600 * 1000);
    let lane = Lane { minted: (1..=6).map(hours_ago).collect(), ..lane() };
    let until = UnixMillis(NOW.0 + 20 * 3600 * 1000);
    assert_eq!(ask(lane.clone(), &request()).reply, Reply::Held(until));
    assert_eq!(capped(std::slice::from_ref(&lane), &policy, UnixMillis(until.0 - 1)), Some(until));
    assert_eq!(capped(&[lane], &policy, until), None);
}

#[test]
fn a_second_lane_is_an_alarm_and_a_fifth_is_refused() {
    let policy = RotationPolicy::default();
    let lanes: Vec<Lane> = (2..=5).map(|number| Lane::open(key(number, number), NOW)).collect();
    assert_eq!(alarms(&decide(&lanes[..1], None, &request(), &policy, NOW)), [Alarm::SecondLane]);
    let clone = Lane::open(key(9, 1), NOW);
    assert_eq!(alarms(&decide(&[clone], None, &request(), &policy, NOW)), [Alarm::Clone]);
    assert_eq!(decide(&lanes, None, &request(), &policy, NOW).reply, Reply::Refused);
}

#[test]
fn a_lane_opens_only_on_what_the_directory_said_after_the_request() {
    let heard = Heard { directory_answered: UnixMillis(NOW.0 - 1), ..request() };
    assert_eq!(decide(&[], None, &heard, &RotationPolicy::default(), NOW).reply, Reply::Revalidate);
}

#[test]
fn a_message_from_the_future_is_forgotten_and_the_lane_widens() {
    let future = UnixMillis(NOW.0 + DAY);
    let last = Some(Order { received: future, nonce: future });
    let lane = Lane { last, confirmed: dated(1, 0), outstanding: dated(2, 5), ..lane() };
    let decision = ask(lane, &request());
    assert!(alarms(&decision).contains(&Alarm::ClockReset));
    assert!(decision.lane.unwrap().in_doubt.contains(&version(1)));
}

#[test]
fn candidates_are_in_order_and_once_each() {
    let lane = Lane {
        confirmed: dated(1, 5),
        outstanding: dated(2, 6),
        in_doubt: [version(1), version(3)].into(),
        ..lane()
    };
    let shown: Vec<_> = lane.candidates().into_iter().map(|candidate| candidate.version).collect();
    assert_eq!(shown, [version(1), version(2), version(3)]);
}

#[test]
fn a_lane_that_another_outlived_by_a_month_is_closed_and_frees_its_place() {
    let policy = RotationPolicy::default();
    let heard = |day: u64| Some(Order { received: UnixMillis(day * DAY), nonce: UnixMillis(0) });
    let former = Lane { last: heard(50), confirmed: dated(1, 49 * DAY), ..lane() };
    for (confirmed, open) in [(69, false), (70, false), (71, true), (50, true), (40, true)] {
        let other = Lane { confirmed: dated(2, confirmed * DAY), ..Lane::open(key(2, 2), NOW) };
        let lanes = [former.clone(), other];
        assert_eq!(former.is_open(&lanes, &policy, NOW), open, "{confirmed}");
    }
    let outlived = Lane { confirmed: dated(2, 60 * DAY), last: heard(99), ..Lane::open(key(9, 9), NOW) };
    let mut lanes: Vec<Lane> =
        (2..=4).map(|number| Lane { last: heard(50), ..Lane::open(key(number, number), NOW) }).collect();
    lanes.push(outlived);
    assert_eq!(decide(&lanes, None, &request(), &policy, NOW).reply, Reply::Mint(MintReason::First));
}

#[test]
fn a_closed_lane_opens_again_when_its_device_speaks() {
    let mut closed = Lane { confirmed: dated(1, 0), ..lane() };
    closed.close(UnixMillis(5));
    assert!(!closed.is_open(std::slice::from_ref(&closed), &RotationPolicy::default(), NOW));
    assert_eq!(ask(closed, &using(1)).lane.unwrap().closed, None);
}

/// A lane whose ledger was restored an hour ago, from a copy in which 1 was confirmed and 2 outstanding.
fn restored() -> Lane {
    let mut lane = lane();
    (lane.confirmed, lane.outstanding) = (dated(1, NOW.0 - 9 * DAY), dated(2, NOW.0 - 5 * DAY));
    lane.restore(UnixMillis(NOW.0 - DAY / 24));
    lane
}

#[test]
fn what_a_restored_ledger_lost_is_a_candidate_until_the_device_speaks() {
    let mut heard = request();
    heard.state.found = [version(3), version(4)].into();
    let unsure = ask(restored(), &heard).lane.unwrap();
    assert_eq!(unsure.candidates().len(), 4, "a device that does not know its version settles nothing");
    assert!(unsure.restored.is_some());
    heard.state.cur = Some(version(4));
    let decision = ask(restored(), &heard);
    assert_eq!(alarms(&decision), [], "it is not the device that went back");
    assert!(decision.events.contains(&LaneEvent::LaneRestored));
    let lane = decision.lane.unwrap();
    assert_eq!(lane.confirmed, dated(4, NOW.0));
    assert_eq!((lane.candidates().len(), lane.restored), (1, None));
    assert_eq!(lane.outstanding, None, "a version that the device is past is not set again");
    assert!(matches!(decision.reply, Reply::NotDue(_)));
}

#[test]
fn what_was_said_before_a_restore_is_stale() {
    let mut heard = using(1);
    for (before, stale) in [(DAY / 24 + 5, true), (DAY / 24, true), (DAY / 24 - 11, false)] {
        heard.order = Order { received: UnixMillis(NOW.0 - before), nonce: UnixMillis(NOW.0 - before - 1) };
        let decision = ask(restored(), &heard);
        assert_eq!((decision.reply == Reply::Stale, decision.lane.is_none()), (stale, stale), "{before}");
    }
    // A lane that the ledger lost altogether is as old.
    heard.order = Order { received: UnixMillis(NOW.0 - 2), nonce: UnixMillis(NOW.0 - 3) };
    let lost = |at| decide(&[], Some(UnixMillis(at)), &heard, &RotationPolicy::default(), NOW);
    assert_eq!(lost(NOW.0 - 1).reply, Reply::Stale);
    let opened = lost(NOW.0 - 9).lane.unwrap();
    assert_eq!((opened.restored, opened.confirmed), (None, dated(1, NOW.0 - 2)));
}

#[test]
fn the_groups_of_a_lane_are_those_that_the_directory_last_told() {
    let group = |number| GroupId::from_bytes([number; 16]);
    let mut last = None;
    for (at, told, want) in [
        (10, Some(vec![1]), vec![1]),
        // A report of a device that the directory did not vouch for says nothing of its groups.
        (20, None, vec![1]),
        (30, Some(vec![2, 3]), vec![2, 3]),
        (40, Some(vec![]), vec![]),
    ] {
        let order = Order { received: UnixMillis(NOW.0 + at), nonce: UnixMillis(NOW.0 + at) };
        let groups = told.map(|numbers| numbers.into_iter().map(group).collect());
        let heard = Heard { order, groups, directory_answered: order.received, ..request() };
        let decision =
            decide(last.take().as_slice(), None, &heard, &RotationPolicy::default(), order.received);
        let lane = decision.lane.unwrap();
        assert_eq!(lane.groups, want.into_iter().map(group).collect());
        last = Some(lane);
    }
}
