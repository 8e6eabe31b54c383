//! The contract of jobs on dead letters ([`Jobs`]).

use std::num::NonZeroU32;

use keyturn_domain::time::UnixMillis;
use keyturn_ports::audit::{Action, AuditSink, NewRow, Verified};
use keyturn_ports::dead_letters::jobs::{Act, JobId, Jobs, Move, NewJob, Step};
use keyturn_ports::dead_letters::{DeadLetter, DeadLetterId, DeadLetters};
use keyturn_ports::queue::{Queue, QueueName};

use super::Subject;
use super::dead_letters::bury;

const FROM: QueueName = QueueName::Findings;
const ONTO: QueueName = QueueName::Requests;

fn job(act: Act, letters: &[DeadLetter], per_minute: Option<u32>) -> NewJob {
    let action = match act {
        Act::Replay => Action::DeadLettersReplayed,
        Act::Discard => Action::DeadLettersDiscarded,
    };
    NewJob {
        row: NewRow {
            at: UnixMillis(50),
            actor: "ada (uid 1000)".to_owned(),
            action,
            device: None,
            reason: "vault mended".to_owned(),
            detail: "all".to_owned(),
        },
        act,
        selection: "all".to_owned(),
        per_minute: per_minute.and_then(NonZeroU32::new),
        letters: letters.iter().map(|letter| letter.id).collect(),
    }
}

fn moves(letters: &[DeadLetter]) -> Vec<(DeadLetterId, Move)> {
    letters.iter().map(|letter| (letter.id, Move::To(ONTO, letter.message.body.clone()))).collect()
}

async fn letters(engine: &(impl Queue + Jobs), count: u8) -> Vec<DeadLetter> {
    bury(engine, 1..=count).await;
    let mut letters = engine.before(None, 100).await.unwrap();
    letters.reverse();
    letters
}

/// Pages are newest first and join without a gap.
pub async fn pages_join(subject: &impl Subject<Engine: Queue + Jobs>) {
    let engine = subject.engine();
    let letters = letters(engine, 5).await;
    let (mut seen, mut before) = (Vec::new(), None);
    loop {
        let page = engine.before(before, 2).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.id);
        seen.extend(page);
    }
    seen.reverse();
    assert_eq!(seen, letters);
}

/// A job is read as it was begun, with its audit row, and a letter named twice is in it once.
pub async fn a_job_is_read_as_begun(subject: &impl Subject<Engine: Queue + Jobs + AuditSink>) {
    let engine = subject.engine();
    let letters = letters(engine, 2).await;
    assert_eq!(engine.job(JobId(1)).await.unwrap(), None);
    let twice = [letters.clone(), letters.clone()].concat();
    let id = engine.begin(job(Act::Replay, &twice, Some(7))).await.unwrap();
    let other = engine.begin(job(Act::Discard, &[], None)).await.unwrap();
    assert!(other > id);
    let read = engine.job(id).await.unwrap().unwrap();
    assert_eq!(
        (read.id, read.at, read.act, read.letters, read.done, read.moved),
        (id, UnixMillis(50), Act::Replay, 2, 0, 0)
    );
    assert_eq!(
        (read.actor.as_str(), read.reason.as_str(), read.selection.as_str()),
        ("ada (uid 1000)", "vault mended", "all")
    );
    assert_eq!((read.per_minute, read.last, read.is_finished()), (NonZeroU32::new(7), None, false));
    let listed: Vec<_> = engine.jobs(9).await.unwrap().into_iter().map(|job| (job.id, job.act)).collect();
    assert_eq!(listed, [(other, Act::Discard), (id, Act::Replay)]);
    assert_eq!(
        engine.pending(id, 9).await.unwrap(),
        letters.iter().map(|letter| letter.id).collect::<Vec<_>>()
    );
    assert_eq!(engine.pending(id, 1).await.unwrap().len(), 1);
    let details: Vec<_> = engine.recent(9).await.unwrap().into_iter().map(|row| row.row.detail).collect();
    assert_eq!(details, [other, id].map(|id| format!("job {}: all", id.0)));
}

/// Letters move once each, with a row each, however often they are named; what is gone is done with and not moved.
pub async fn letters_move_once(subject: &impl Subject<Engine: Queue + Jobs + DeadLetters + AuditSink>) {
    let engine = subject.engine();
    let letters = letters(engine, 4).await;
    let [one, gone, stays, stranger] = letters.first_chunk().unwrap();
    let chosen = [one.clone(), gone.clone(), stays.clone()];
    let id = engine.begin(job(Act::Replay, &chosen, None)).await.unwrap();
    engine.replay(vec![(gone.id, ONTO, gone.message.body.clone())]).await.unwrap();
    let mut asked = [moves(&letters), moves(&letters)].concat();
    asked.iter_mut().filter(|(letter, _)| *letter == stays.id).for_each(|(_, to)| *to = Move::Stay);
    assert_eq!(engine.step(id, UnixMillis(60), "bob", asked.clone()).await.unwrap(), Step::Done(3));
    assert_eq!(engine.step(id, UnixMillis(61), "bob", asked).await.unwrap(), Step::Finished);
    let read = engine.job(id).await.unwrap().unwrap();
    assert_eq!((read.letters, read.done, read.moved, read.last), (3, 3, 1, Some(UnixMillis(60))));
    let left: Vec<_> = engine.before(None, 9).await.unwrap().into_iter().map(|letter| letter.id).collect();
    assert_eq!(left, [stranger.id, stays.id]);
    let onto = engine.lease(ONTO, 9, std::time::Duration::from_secs(9)).await.unwrap();
    let mut bodies: Vec<_> = onto.into_iter().map(|leased| leased.message).collect();
    bodies.sort_by_key(|message| message.request);
    assert_eq!(bodies, [one.message.clone(), gone.message.clone()]);
    assert_eq!(engine.depth(FROM).await.unwrap().dead, 2);
    let row = engine.recent(1).await.unwrap().remove(0).row;
    assert_eq!((row.actor.as_str(), row.device, row.at), ("bob", Some(one.message.device), UnixMillis(60)));
    assert!(
        row.detail.starts_with(&format!("job {}: dead letter {} of findings", id.0, one.id.0)),
        "{}",
        row.detail
    );
    assert_eq!(engine.verify().await.unwrap(), Verified::Intact { rows: 2 });
}

/// Discarded letters are gone, and nothing is sent; each act has its own moves.
pub async fn a_discard_sends_nothing(subject: &impl Subject<Engine: Queue + Jobs + AuditSink>) {
    let engine = subject.engine();
    let letters = letters(engine, 2).await;
    let id = engine.begin(job(Act::Discard, &letters, None)).await.unwrap();
    let [one, two] = letters.first_chunk().unwrap();
    let asked = vec![(one.id, Move::Away), (two.id, Move::To(ONTO, String::new()))];
    assert_eq!(engine.step(id, UnixMillis(60), "bob", asked).await.unwrap(), Step::Done(2));
    let left: Vec<_> = engine.before(None, 9).await.unwrap().into_iter().map(|letter| letter.id).collect();
    assert_eq!(left, [two.id], "a discard does not replay");
    assert_eq!((engine.depth(FROM).await.unwrap().dead, engine.depth(ONTO).await.unwrap().total), (1, 0));
    assert_eq!(engine.recent(1).await.unwrap().remove(0).row.action, Action::DeadLettersDiscarded);
    let replay = engine.begin(job(Act::Replay, &letters, None)).await.unwrap();
    engine.step(replay, UnixMillis(61), "bob", vec![(two.id, Move::Away)]).await.unwrap();
    assert_eq!(engine.before(None, 9).await.unwrap().len(), 1, "and a replay does not discard");
    assert_eq!(engine.step(JobId(99), UnixMillis(1), "x", Vec::new()).await.unwrap(), Step::Finished);
}

/// The pace is kept by the store, whoever steps, one letter at a time.
pub async fn a_pace_is_kept(subject: &impl Subject<Engine: Queue + Jobs + AuditSink>) {
    let engine = subject.engine();
    let letters = letters(engine, 3).await;
    let id = engine.begin(job(Act::Replay, &letters, Some(20))).await.unwrap();
    let step = async |at| engine.step(id, UnixMillis(at), "x", moves(&letters)).await.unwrap();
    assert_eq!(step(1000).await, Step::Done(1));
    for early in [0, 1000, 3999] {
        assert_eq!(step(early).await, Step::NotBefore(UnixMillis(4000)));
    }
    assert_eq!(step(4000).await, Step::Done(1));
    assert_eq!(engine.pending(id, 9).await.unwrap().len(), 1);
    assert_eq!(engine.recent(9).await.unwrap().len(), 3, "what did not happen is not recorded");
}
