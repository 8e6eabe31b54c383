//! The contract of [`AuditSink`].

use std::collections::BTreeSet;

use keyturn_domain::time::UnixMillis;
use keyturn_ports::audit::{Action, AuditSink, NewRow, Row, Verified};

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
