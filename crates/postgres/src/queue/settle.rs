//! Settling: what becomes of a leased message.

use keyturn_ports::queue::{QueueName, Receipt, Settlement};

use super::lease::{self, Held};
use super::{Batch, LONGEST};
use crate::database::{Database, Mode, Param};
use crate::failure::Failure;
use crate::rows;
use crate::signals::Woken;

const COMPLETE: &str = "WITH gone AS ( \
     DELETE FROM messages AS m USING unnest($2::bigint[], $3::bytea[]) AS g (id, lease) \
     WHERE m.queue = $1 AND m.id = g.id AND m.lease = g.lease RETURNING m.id), \
 counted AS ( \
     UPDATE queue_counters SET total = total - (SELECT count(*) FROM gone) \
     WHERE queue = $1 AND slot = pg_backend_pid() % 64) \
 SELECT id FROM gone";

/// The last eight attempts are kept.
const RETRY: &str = "UPDATE messages AS m SET visible_at = now_ms($4) + g.after, lease = NULL, \
     attempts = CASE WHEN jsonb_array_length(m.attempts) >= 8 THEN m.attempts - 0 ELSE m.attempts END \
         || jsonb_build_array(jsonb_build_object('at', now_ms($4), 'error', g.error)) \
 FROM unnest($2::bigint[], $3::bytea[], $5::bigint[], $6::text[]) AS g (id, lease, after, error) \
 WHERE m.queue = $1 AND m.id = g.id AND m.lease = g.lease RETURNING m.id";

/// The message is put back where it was, ahead of what was sent after it.
const RELEASE: &str = "UPDATE messages AS m SET visible_at = least(m.enqueued_at, now_ms($4)), lease = NULL, \
     deliveries = greatest(m.deliveries - 1, 0) \
 FROM unnest($2::bigint[], $3::bytea[]) AS g (id, lease) \
 WHERE m.queue = $1 AND m.id = g.id AND m.lease = g.lease RETURNING m.id";

const BURY: &str = "WITH gone AS ( \
     DELETE FROM messages AS m \
     USING unnest($2::bigint[], $3::bytea[], $5::text[], $6::text[]) AS g (id, lease, reason, error) \
     WHERE m.queue = $1 AND m.id = g.id AND m.lease = g.lease RETURNING m.*, g.reason, g.error), \
 buried AS ( \
     INSERT INTO dead_letters \
         (queue, request, device, body, reason, attempts, deliveries, enqueued_at, died_at) \
     SELECT queue, request, device, body, reason, \
         CASE WHEN jsonb_array_length(attempts) >= 8 THEN attempts - 0 ELSE attempts END \
             || jsonb_build_array(jsonb_build_object('at', now_ms($4), 'error', error)), \
         deliveries, enqueued_at, now_ms($4) FROM gone ORDER BY id), \
 counted AS ( \
     UPDATE queue_counters SET total = total - (SELECT count(*) FROM gone), \
         dead = dead + (SELECT count(*) FROM gone) \
     WHERE queue = $1 AND slot = pg_backend_pid() % 64) \
 SELECT id FROM gone";

/// What is settled in one way.
#[derive(Default)]
struct Group {
    receipts: Vec<Receipt>,
    held: Held,
    afters: Vec<i64>,
    reasons: Vec<&'static str>,
    errors: Vec<String>,
}

impl Group {
    fn push(&mut self, receipt: &Receipt) -> bool {
        let ours = self.held.push(receipt);
        self.receipts.push(receipt.clone());
        ours
    }

    /// The receipts that settled nothing: a receipt settles once, also within a batch.
    fn void(&self, done: Option<&Vec<tokio_postgres::Row>>) -> Result<Vec<Receipt>, Failure> {
        let mut done = lease::ids(done)?;
        let void = |receipt: &&Receipt| !lease::read(receipt).is_some_and(|(id, _)| done.remove(&id));
        Ok(self.receipts.iter().filter(void).cloned().collect())
    }
}

/// Sends `forward` and settles messages, in one transaction. Returns the receipts that were void, and who is to be
/// woken.
pub(super) async fn settle(
    database: &Database,
    queue: QueueName,
    settled: &[(Receipt, Settlement)],
    forward: &Batch,
) -> Result<(Vec<Receipt>, Woken), Failure> {
    let [complete, retry, release, bury] = groups(settled);
    let (code, now) = (rows::queue_code(queue), database.now_given());
    let sent = forward.params(&now);
    let completed: [Param<'_>; 3] = [&code, &complete.held.ids, &complete.held.tokens];
    let retried: [Param<'_>; 6] =
        [&code, &retry.held.ids, &retry.held.tokens, &now, &retry.afters, &retry.errors];
    let released: [Param<'_>; 4] = [&code, &release.held.ids, &release.held.tokens, &now];
    let buried: [Param<'_>; 6] =
        [&code, &bury.held.ids, &bury.held.tokens, &now, &bury.reasons, &bury.errors];
    let all: [(bool, &'static str, &[Param<'_>]); 5] = [
        (!forward.is_empty(), Batch::SQL, &sent),
        (!complete.held.is_empty(), COMPLETE, &completed),
        (!retry.held.is_empty(), RETRY, &retried),
        (!release.held.is_empty(), RELEASE, &released),
        (!bury.held.is_empty(), BURY, &buried),
    ];
    let statements: Vec<_> =
        all.iter().filter(|(wanted, ..)| *wanted).map(|(_, sql, params)| (*sql, *params)).collect();
    let done = if statements.is_empty() {
        Vec::new()
    } else {
        database.at_once(Mode::Internal, &statements).await?
    };
    let of = |sql: &str| statements.iter().position(|(one, _)| *one == sql).and_then(|at| done.get(at));
    let mut void = complete.void(of(COMPLETE))?;
    // Those who wait have to learn when a message comes back.
    let back = !retry.held.is_empty() || !release.held.is_empty();
    let woken = if back { forward.woken().and(Woken::queue(queue)) } else { forward.woken() };
    void.extend(retry.void(of(RETRY))?);
    void.extend(release.void(of(RELEASE))?);
    void.extend(bury.void(of(BURY))?);
    Ok((void, woken))
}

/// Complete, retry, release, dead-letter.
fn groups(settled: &[(Receipt, Settlement)]) -> [Group; 4] {
    let mut groups: [Group; 4] = Default::default();
    let [complete, retry, release, bury] = &mut groups;
    for (receipt, settlement) in settled {
        match settlement {
            Settlement::Complete => {
                complete.push(receipt);
            }
            Settlement::Release => {
                release.push(receipt);
            }
            Settlement::Retry { after, error } => {
                if retry.push(receipt) {
                    retry.afters.push(rows::span((*after).min(LONGEST)));
                    retry.errors.push(rows::text(error));
                }
            }
            Settlement::DeadLetter { reason, error } => {
                if bury.push(receipt) {
                    bury.reasons.push(reason.as_str());
                    bury.errors.push(rows::text(error));
                }
            }
        }
    }
    groups
}
