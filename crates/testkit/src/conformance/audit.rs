//! The contract of [`AuditSink`].

use std::collections::BTreeSet;

use keyturn_domain::time::UnixMillis;
use keyturn_ports::audit::{Action, AuditSink, NewRow, Row, Verified, Wanted};

use super::{Subject, sample};

const ACTIONS: [Action; 4] =
    [Action::SecretGet, Action::RotationForced, Action::DirectoryChanged, Action::DeadLettersReplayed];

fn row(n: u8, action: Action) -> NewRow {
    NewRow {
        at: UnixMillis(u64::from(n)),
        actor: "uid 1000 (ada)".to_owned(),
        action,
        device: n.is_multiple_of(2).then(|| sample::device(n)),
        reason: format!("ticket {n}"),
        detail: String::new(),
    }
}

async fn append_all(audit: &impl AuditSink) -> Vec<u64> {
    let mut places = Vec::new();
    for (n, action) in (1..).zip(ACTIONS) {
        places.push(audit.append(row(n, action)).await.unwrap());
    }
    places
}

/// Places count up from 1 without a gap.
pub async fn rows_are_numbered_from_one(subject: &impl Subject<Engine: AuditSink>) {
    assert_eq!(append_all(subject.engine()).await, [1, 2, 3, 4]);
}

/// The newest rows come first, as they were appended, each with a hash of its own.
pub async fn recent_rows_come_newest_first(subject: &impl Subject<Engine: AuditSink>) {
    let audit = subject.engine();
    append_all(audit).await;
    let recent = audit.recent(3).await.unwrap();
    assert_eq!(recent.iter().map(|row| row.seq).collect::<Vec<_>>(), [4, 3, 2]);
    let mut expected: Vec<_> = (1..).zip(ACTIONS).map(|(n, action)| row(n, action)).skip(1).collect();
    expected.reverse();
    assert_eq!(recent.iter().map(|row| row.row.clone()).collect::<Vec<_>>(), expected);
    let digest = |hash: &str| hash.len() == 64 && hash.bytes().all(|digit| digit.is_ascii_hexdigit());
    let hashes: BTreeSet<&str> =
        recent.iter().map(|row| row.hash.as_str()).filter(|hash| digest(hash)).collect();
    assert_eq!(hashes.len(), recent.len());
}

/// Whether a row could be appended is tried without appending it: neither a row nor its number is used up.
pub async fn a_probe_leaves_no_row(subject: &impl Subject<Engine: AuditSink>) {
    let audit = subject.engine();
    audit.probe(row(9, Action::SecretGet)).await.unwrap();
    assert!(audit.recent(1).await.unwrap().is_empty());
    assert_eq!(append_all(audit).await, [1, 2, 3, 4]);
    audit.probe(row(9, Action::SecretGet)).await.unwrap();
    assert_eq!(audit.append(row(5, Action::SecretGet)).await.unwrap(), 5);
    assert_eq!(audit.verify().await.unwrap(), Verified::Intact { rows: 5 });
}

/// Every part of what is wanted has to hold, newest rows come first, and no more than asked for.
pub async fn wanted_rows_are_those_of_which_all_holds(subject: &impl Subject<Engine: AuditSink>) {
    let audit = subject.engine();
    append_all(audit).await;
    let other = NewRow {
        actor: "uid 0 (Bob_%)".to_owned(),
        detail: "job 7: a\\b".to_owned(),
        ..row(5, Action::SecretGet)
    };
    audit.append(other).await.unwrap();
    let places = async |wanted: Wanted, limit: usize| {
        let found = audit.select(wanted, limit).await.unwrap();
        found.into_iter().map(|row| row.seq).collect::<Vec<u64>>()
    };
    let none: [u64; 0] = [];
    let all = Wanted::default;
    let (named, told) = (
        |name: &str| Wanted { actor: Some(name.to_owned()), ..all() },
        |detail: &str| Wanted { detail: Some(detail.to_owned()), ..all() },
    );
    assert_eq!(places(all(), 9).await, [5, 4, 3, 2, 1]);
    assert_eq!(places(Wanted { device: Some(sample::device(2)), ..all() }, 9).await, [2]);
    assert_eq!(places(Wanted { device: Some(sample::device(1)), ..all() }, 9).await, none);
    let reveals = || Wanted { actions: vec![Action::SecretGet], ..all() };
    assert_eq!(places(reveals(), 9).await, [5, 1]);
    assert_eq!(places(reveals(), 1).await, [5]);
    let two = vec![Action::RotationForced, Action::DirectoryChanged];
    assert_eq!(places(Wanted { actions: two, ..all() }, 9).await, [3, 2]);
    let later = vec![Action::Later("OfALaterRelease".to_owned())];
    assert_eq!(places(Wanted { actions: later, ..all() }, 9).await, none);
    assert_eq!(places(named("ADA"), 9).await, [4, 3, 2, 1]);
    assert_eq!(places(named("bob_%"), 9).await, [5], "no wildcards");
    assert_eq!(places(named("a%a"), 9).await, none);
    assert_eq!(places(told("7: a\\"), 9).await, [5]);
    assert_eq!(places(told("JOB"), 9).await, none, "letter by letter");
    assert_eq!(places(Wanted { since: Some(UnixMillis(4)), ..all() }, 9).await, [5, 4]);
    assert_eq!(places(Wanted { since: Some(UnixMillis(u64::MAX)), ..all() }, 9).await, none);
    assert_eq!(places(Wanted { since: Some(UnixMillis(2)), ..reveals() }, 9).await, [5]);
}

/// What a later release recorded is its to append.
pub async fn an_unknown_action_is_not_appended(subject: &impl Subject<Engine: AuditSink>) {
    let audit = subject.engine();
    audit.append(row(1, Action::Later("OfALaterRelease".to_owned()))).await.unwrap_err();
    assert_eq!(append_all(audit).await, [1, 2, 3, 4]);
}

/// Pages of rows come oldest first and do not overlap.
pub async fn pages_come_oldest_first(subject: &impl Subject<Engine: AuditSink>) {
    let audit = subject.engine();
    append_all(audit).await;
    let places = |rows: Vec<Row>| rows.into_iter().map(|row| row.seq).collect::<Vec<_>>();
    assert_eq!(places(audit.after(0, 3).await.unwrap()), [1, 2, 3]);
    assert_eq!(places(audit.after(3, 3).await.unwrap()), [4]);
    assert!(audit.after(4, 3).await.unwrap().is_empty());
}

/// A chain nobody touched holds, from the empty one on.
pub async fn an_untouched_chain_is_intact(subject: &impl Subject<Engine: AuditSink>) {
    let audit = subject.engine();
    assert_eq!(audit.verify().await.unwrap(), Verified::Intact { rows: 0 });
    append_all(audit).await;
    assert_eq!(audit.verify().await.unwrap(), Verified::Intact { rows: 4 });
}
