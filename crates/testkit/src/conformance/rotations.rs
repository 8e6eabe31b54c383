//! The contract of [`Rotations`].

use std::num::NonZeroU32;

use keyturn_domain::lane::Lane;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::audit::{Action, AuditSink, NewRow, Verified};
use keyturn_ports::ledger::{Ledger, LedgerReader};
use keyturn_ports::rotations::{JobId, NewJob, Rotations, Step};

use super::{Subject, sample};

fn job(devices: impl IntoIterator<Item = u8>, per_minute: Option<u32>) -> NewJob {
    NewJob {
        row: NewRow {
            at: UnixMillis(50),
            actor: "ada (uid 1000)".to_owned(),
            action: Action::RotationForced,
            device: None,
            reason: "key lost".to_owned(),
            detail: "all".to_owned(),
        },
        selection: "all".to_owned(),
        per_minute: per_minute.and_then(NonZeroU32::new),
        devices: devices.into_iter().map(sample::device).collect(),
    }
}

async fn lanes(engine: &impl Ledger) {
    let closed = Lane { closed: Some(UnixMillis(5)), ..sample::lane(2, 2) };
    let lanes = [sample::lane(1, 1), sample::lane(2, 1), closed, sample::lane(3, 1)];
    let commits = (1..).zip(lanes).map(|(n, lane)| sample::commit(n, lane, 0)).collect();
    engine.commit(commits).await.unwrap();
}

/// A job is read as it was begun, and there is none of another number.
pub async fn a_job_is_read_as_begun(subject: &impl Subject<Engine: Rotations + AuditSink>) {
    let engine = subject.engine();
    assert_eq!(engine.job(JobId(1)).await.unwrap(), None);
    let id = engine.begin(job([3, 1], Some(7))).await.unwrap();
    let other = engine.begin(job([2], None)).await.unwrap();
    assert!(other > id);
    let read = engine.job(id).await.unwrap().unwrap();
    assert_eq!(
        (read.id, read.at, read.actor.as_str(), read.reason.as_str()),
        (id, UnixMillis(50), "ada (uid 1000)", "key lost")
    );
    assert_eq!((read.selection.as_str(), read.per_minute), ("all", NonZeroU32::new(7)));
    assert_eq!((read.devices, read.asked, read.last, read.is_finished()), (2, 0, None, false));
    assert_eq!(engine.devices_of(id).await.unwrap(), [3, 1].map(|n| (sample::device(n), None)));
    let listed: Vec<JobId> = engine.jobs(10).await.unwrap().into_iter().map(|job| job.id).collect();
    assert_eq!(listed, [other, id]);
    let rows = engine.recent(10).await.unwrap();
    let details: Vec<_> = rows.into_iter().map(|row| row.row.detail).collect();
    assert_eq!(details, [other, id].map(|id| format!("job {}: all", id.0)));
}

/// Each step asks one device, in order, once: its open lanes, with a row of its own.
pub async fn steps_ask_each_device_once(
    subject: &impl Subject<Engine: Rotations + Ledger + LedgerReader + AuditSink>,
) {
    let engine = subject.engine();
    lanes(engine).await;
    let id = engine.begin(job([2, 9, 1], None)).await.unwrap();
    let mut steps = Vec::new();
    for n in 0..5 {
        steps.push(engine.step(id, UnixMillis(100 + n), "bob (uid 7)").await.unwrap());
    }
    let asked = |n, lanes| Step::Asked { device: sample::device(n), lanes };
    assert_eq!(steps, [asked(2, 1), asked(9, 0), asked(1, 1), Step::Finished, Step::Finished]);
    let forced = async |n| {
        let lanes = engine.lanes(sample::device(n)).await.unwrap();
        lanes.iter().map(|lane| lane.forced).collect::<Vec<_>>()
    };
    assert_eq!(forced(1).await, [Some(UnixMillis(102))]);
    assert_eq!(forced(2).await, [Some(UnixMillis(100)), None], "closed lanes are left alone");
    assert_eq!(forced(3).await, [None], "other devices are left alone");
    let rows = engine.after(1, 10).await.unwrap();
    let told: Vec<_> = rows.iter().map(|row| (row.row.device, row.row.at, row.row.reason.as_str())).collect();
    let row = |n, at| (Some(sample::device(n)), UnixMillis(at), "key lost");
    assert_eq!(told, [row(2, 100), row(9, 101), row(1, 102)]);
    assert!(
        rows.iter().all(|row| row.row.actor == "bob (uid 7)" && row.row.action == Action::RotationForced)
    );
    assert!(rows.iter().all(|row| row.row.detail == format!("job {}", id.0)));
    assert_eq!(engine.verify().await.unwrap(), Verified::Intact { rows: 4 });
    let job = engine.job(id).await.unwrap().unwrap();
    assert_eq!((job.asked, job.last, job.is_finished()), (3, Some(UnixMillis(102)), true));
    let times: Vec<_> = engine.devices_of(id).await.unwrap().into_iter().map(|(_, at)| at).collect();
    assert_eq!(times, [100, 101, 102].map(|at| Some(UnixMillis(at))));
    assert_eq!(engine.step(JobId(99), UnixMillis(1), "x").await.unwrap(), Step::Finished);
}

/// The pace is kept by the store, whoever steps.
pub async fn a_pace_is_kept(subject: &impl Subject<Engine: Rotations + Ledger + AuditSink>) {
    let engine = subject.engine();
    lanes(engine).await;
    let id = engine.begin(job([1, 2, 3], Some(20))).await.unwrap();
    let step = async |at| engine.step(id, UnixMillis(at), "x").await.unwrap();
    assert_eq!(step(1000).await, Step::Asked { device: sample::device(1), lanes: 1 });
    for early in [0, 1000, 3999] {
        assert_eq!(step(early).await, Step::NotBefore(UnixMillis(4000)));
    }
    assert_eq!(step(4000).await, Step::Asked { device: sample::device(2), lanes: 1 });
    assert_eq!(engine.recent(10).await.unwrap().len(), 3, "what did not happen is not recorded");
}

/// Devices are found by when their versions were minted, each once.
pub async fn devices_are_found_by_their_versions(subject: &impl Subject<Engine: Rotations + Ledger>) {
    let engine = subject.engine();
    let start = keyturn_domain::clock::Clock::now(subject.clock());
    let minted = |n, lane| super::ledger::full(n, lane, 0);
    engine.commit(vec![minted(1, sample::lane(2, 1))]).await.unwrap();
    subject.clock().advance(std::time::Duration::from_secs(1));
    let later = keyturn_domain::clock::Clock::now(subject.clock());
    engine
        .commit(vec![
            minted(2, sample::lane(3, 1)),
            minted(3, sample::lane(3, 2)),
            minted(4, sample::lane(1, 1)),
        ])
        .await
        .unwrap();
    let found = async |since| engine.minted_since(since).await.unwrap();
    assert_eq!(found(start).await, [1, 2, 3].map(sample::device));
    assert_eq!(found(later).await, [1, 3].map(sample::device));
    assert!(found(UnixMillis(later.0 + 1)).await.is_empty());
}
