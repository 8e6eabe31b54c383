//! Putting messages on queues.

use keyturn_ports::queue::{NewMessage, QueueName};

use crate::database::Param;
use crate::rows;
use crate::signals::Woken;

/// Messages to be put on queues, as the columns of one statement.
#[derive(Default)]
pub(crate) struct Batch {
    queues: Vec<i16>,
    requests: Vec<Vec<u8>>,
    devices: Vec<Vec<u8>>,
    bodies: Vec<Vec<u8>>,
    woken: Woken,
}

impl Batch {
    /// The statement. Its parameters are those of [`Batch::params`].
    pub(crate) const SQL: &str = "WITH given AS ( \
         SELECT * FROM unnest($2::smallint[], $3::bytea[], $4::bytea[], $5::bytea[]) \
         WITH ORDINALITY AS g (queue, request, device, body, place)), \
     sent AS ( \
         INSERT INTO messages (queue, visible_at, enqueued_at, deliveries, request, device, body, attempts) \
         SELECT queue, now_ms($1), now_ms($1), 0, request, device, body, '[]' FROM given ORDER BY place) \
     UPDATE queue_counters AS c SET total = c.total + g.n, sent = c.sent + g.n \
     FROM (SELECT queue, count(*) AS n FROM given GROUP BY queue) AS g \
     WHERE c.queue = g.queue AND c.slot = pg_backend_pid() % 64";

    /// These messages, in this order.
    pub(crate) fn of<'a>(messages: impl Iterator<Item = (QueueName, &'a NewMessage)>) -> Self {
        let mut batch = Self::default();
        for (queue, message) in messages {
            batch.queues.push(rows::queue_code(queue));
            batch.requests.push(message.request.as_bytes().to_vec());
            batch.devices.push(message.device.as_bytes().to_vec());
            batch.bodies.push(message.body.clone().into_bytes());
            batch.woken = batch.woken.and(Woken::queue(queue));
        }
        batch
    }

    /// Whether there is nothing to send.
    pub(crate) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// Who is to be woken once they are sent.
    pub(crate) fn woken(&self) -> Woken {
        self.woken
    }

    /// The parameters of the statement.
    pub(crate) fn params<'a>(&'a self, now: Param<'a>) -> [Param<'a>; 5] {
        [now, &self.queues, &self.requests, &self.devices, &self.bodies]
    }
}
