//! The contracts of [`ResultReader`] and [`ResultWriter`].

use std::time::Duration;

use keyturn_domain::clock::Clock as _;
use keyturn_domain::ids::VersionId;
use keyturn_domain::time::UnixMillis;
use keyturn_ports::ledger::Ledger;
use keyturn_ports::results::{NewResult, Published, ResultBody, ResultReader, ResultWriter};

use super::{Subject, sample, woken_by};

const KEPT: Duration = Duration::from_hours(1);

fn result(n: u8, now: UnixMillis) -> NewResult {
    let body = ResultBody::Signed(format!("signed {n}"));
    NewResult { request: sample::request(n), carries: None, body, expires: now.plus(KEPT) }
}

fn carrying(n: u8, version: VersionId, now: UnixMillis) -> NewResult {
    NewResult { carries: Some((sample::lane_key(1, 1).id(), version)), ..result(n, now) }
}

async fn publish(writer: &impl ResultWriter, result: NewResult) -> Published {
    writer.publish(vec![result]).await.unwrap().remove(0)
}

/// What was published is read, in both forms.
pub async fn a_published_result_is_read(subject: &impl Subject<Engine: ResultReader + ResultWriter>) {
    let (engine, now) = (subject.engine(), subject.clock().now());
    assert_eq!(engine.result(sample::request(1)).await.unwrap(), None);
    assert_eq!(publish(engine, result(1, now)).await, Published::Stored);
    let refusal = NewResult { body: ResultBody::Refused, ..result(2, now) };
    assert_eq!(publish(engine, refusal).await, Published::Stored);
    let signed = ResultBody::Signed("signed 1".to_owned());
    assert_eq!(engine.result(sample::request(1)).await.unwrap(), Some(signed));
    assert_eq!(engine.result(sample::request(2)).await.unwrap(), Some(ResultBody::Refused));
}

/// A second result for a message does not replace the first, not even in the same call.
pub async fn the_first_result_stands(subject: &impl Subject<Engine: ResultReader + ResultWriter>) {
    let (engine, now) = (subject.engine(), subject.clock().now());
    let other = NewResult { body: ResultBody::Refused, ..result(1, now) };
    let answers = engine.publish(vec![result(1, now), other.clone()]).await.unwrap();
    assert_eq!(answers, [Published::Stored, Published::Existing]);
    assert_eq!(publish(engine, other).await, Published::Existing);
    assert_eq!(engine.result(sample::request(1)).await.unwrap(), Some(result(1, now).body));
}

/// A result that carries the lane's outstanding version is stored.
pub async fn a_version_outstanding_is_published(
    subject: &impl Subject<Engine: ResultReader + ResultWriter + Ledger>,
) {
    let (engine, now) = (subject.engine(), subject.clock().now());
    let lane = sample::lane_with(1, 1, sample::version(1));
    engine.commit(vec![sample::commit(1, lane, 0)]).await.unwrap();
    assert_eq!(publish(engine, carrying(1, sample::version(1), now)).await, Published::Stored);
    assert_eq!(publish(engine, carrying(1, sample::version(1), now)).await, Published::Existing);
}

/// A result that carries anything else is not, whether the lane has moved on or never was.
pub async fn a_version_no_longer_outstanding_is_not(
    subject: &impl Subject<Engine: ResultReader + ResultWriter + Ledger>,
) {
    let (engine, now) = (subject.engine(), subject.clock().now());
    assert_eq!(publish(engine, carrying(1, sample::version(1), now)).await, Published::Superseded);
    let lane = sample::lane_with(1, 1, sample::version(2));
    engine.commit(vec![sample::commit(1, lane, 0)]).await.unwrap();
    assert_eq!(publish(engine, carrying(1, sample::version(1), now)).await, Published::Superseded);
    engine.commit(vec![sample::commit(2, sample::lane(1, 1), 1)]).await.unwrap();
    assert_eq!(publish(engine, carrying(1, sample::version(2), now)).await, Published::Superseded);
    assert_eq!(engine.result(sample::request(1)).await.unwrap(), None);
}

/// A result is gone when it expires, and makes room for another.
pub async fn an_expired_result_is_absent(subject: &impl Subject<Engine: ResultReader + ResultWriter>) {
    let engine = subject.engine();
    publish(engine, result(1, subject.clock().now())).await;
    subject.clock().advance(KEPT.saturating_sub(Duration::from_millis(1)));
    assert!(engine.result(sample::request(1)).await.unwrap().is_some());
    subject.clock().advance(Duration::from_millis(1));
    assert_eq!(engine.result(sample::request(1)).await.unwrap(), None);
    assert_eq!(publish(engine, result(1, subject.clock().now())).await, Published::Stored);
    assert!(engine.result(sample::request(1)).await.unwrap().is_some());
}

/// One that cannot be stored does not hold up its neighbours.
pub async fn elements_are_judged_one_by_one(subject: &impl Subject<Engine: ResultReader + ResultWriter>) {
    let (engine, now) = (subject.engine(), subject.clock().now());
    let batch = vec![result(1, now), carrying(2, sample::version(9), now), result(3, now)];
    let answers = engine.publish(batch).await.unwrap();
    assert_eq!(answers, [Published::Stored, Published::Superseded, Published::Stored]);
}

/// Whoever waits is woken.
pub async fn publication_resolves_when_a_result_is_published(
    subject: &impl Subject<Engine: ResultReader + ResultWriter>,
) {
    let (engine, now) = (subject.engine(), subject.clock().now());
    let publishing = async {
        publish(engine, result(1, now)).await;
    };
    assert!(woken_by(engine.publication(sample::request(1)), publishing).await);
    assert!(engine.result(sample::request(1)).await.unwrap().is_some());
}
