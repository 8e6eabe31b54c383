//! Statements that exist once per queue.

/// The statement for a queue: `per_queue!(queue, "SELECT 1 FROM ", "")` names the table of that queue between its
/// parts. The texts are put together by the compiler, so that a statement is found in the cache by its text.
macro_rules! per_queue {
    ($queue:expr, $($part:literal),+) => {
        match $queue {
            ::keyturn_ports::queue::QueueName::Requests => per_queue!(@join "queue_requests", $($part),+),
            ::keyturn_ports::queue::QueueName::Findings => per_queue!(@join "queue_findings", $($part),+),
            ::keyturn_ports::queue::QueueName::Outcomes => per_queue!(@join "queue_outcomes", $($part),+),
            ::keyturn_ports::queue::QueueName::Alarms => per_queue!(@join "queue_alarms", $($part),+),
        }
    };
    (@join $table:literal, $before:literal, $after:literal) => {
        concat!($before, $table, $after)
    };
    (@join $table:literal, $before:literal, $between:literal, $after:literal) => {
        concat!($before, $table, $between, $table, $after)
    };
}

pub(super) use per_queue;
