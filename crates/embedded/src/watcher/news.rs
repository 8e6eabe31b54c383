//! What a commit of another process changed for those who wait.

use keyturn_domain::ids::RequestId;
use keyturn_ports::queue::QueueName;
use rusqlite::Connection;

use crate::queue::{Standing, standing};
use crate::rows;
use crate::signals::{PerQueue, Signals};

/// Of more new results at once, everybody is woken instead.
const RESULTS: usize = 1000;

/// The file as it was when it was last looked at.
pub(super) struct News {
    queues: PerQueue<Standing>,
    /// The newest result: its number and its message.
    result: Option<(i64, RequestId)>,
}

impl News {
    /// The file as it is. Where it cannot be read, everything is news.
    pub(super) fn since_now(connection: &Connection) -> Self {
        let mut queues = PerQueue::default();
        for queue in QueueName::ALL {
            *queues.of_mut(queue) = standing(connection, queue).unwrap_or_default();
        }
        let newest = "SELECT id, request FROM results ORDER BY id DESC LIMIT 1";
        let newest = connection.query_row(newest, [], |row| Ok((row.get(0)?, rows::request(row, 1)?)));
        Self { queues, result: newest.ok() }
    }

    /// Wakes those whom a change since the last time concerns; everybody, if it cannot be told.
    pub(super) fn ring(&mut self, connection: &Connection, signals: &Signals) {
        if self.ring_for(connection, signals).is_err() {
            signals.ring_all();
        }
    }

    fn ring_for(&mut self, connection: &Connection, signals: &Signals) -> rusqlite::Result<()> {
        for queue in QueueName::ALL {
            let (now, before) = (standing(connection, queue)?, self.queues.of_mut(queue));
            if now.visible.is_some_and(|at| before.visible.is_none_or(|before| at < before)) {
                signals.of_queue(queue).notify_waiters();
            }
            signals.ring_queue(queue, now.sent);
            *before = now;
        }
        let new = self.new_results(connection)?;
        match new {
            Some(requests) => signals.ring_results(&requests),
            None => signals.ring_all_results(),
        }
        Ok(())
    }

    /// The messages that have a result since the last time; None if they cannot be told from the others.
    fn new_results(&mut self, connection: &Connection) -> rusqlite::Result<Option<Vec<RequestId>>> {
        // The one that was the newest is asked for again. If it is gone its number may have been given anew.
        let sql = "SELECT id, request FROM results WHERE id >= ?1 ORDER BY id LIMIT ?2";
        let from = self.result.map_or(i64::MIN, |(id, _)| id);
        let found: Vec<(i64, RequestId)> = connection
            .prepare_cached(sql)?
            .query_map((from, rows::count(RESULTS)), |row| Ok((row.get(0)?, rows::request(row, 1)?)))?
            .collect::<Result<_, _>>()?;
        let told = found.len() < RESULTS && (self.result.is_none() || found.first() == self.result.as_ref());
        self.result = if told {
            found.last().copied()
        } else {
            let newest = "SELECT id, request FROM results ORDER BY id DESC LIMIT 1";
            let mut newest = connection.prepare_cached(newest)?;
            let mut newest = newest.query_map([], |row| Ok((row.get(0)?, rows::request(row, 1)?)))?;
            newest.next().transpose()?
        };
        Ok(told.then(|| found.into_iter().map(|(_, request)| request).collect()))
    }
}
