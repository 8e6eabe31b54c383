//! Statements that exist once per queue.

/// The statement for a queue: `per_queue!(queue, "SELECT 1 FROM held_", " WHERE id = ?1")` puts the name of the queue
/// between its parts. The texts are put together by the compiler, so that a statement is found in the cache by its
/// text.
macro_rules! per_queue {
    ($queue:expr, $($part:expr),+) => {
        match $queue {
            ::keyturn_ports::queue::QueueName::Requests => per_queue!(@join "requests", $($part),+),
            ::keyturn_ports::queue::QueueName::Findings => per_queue!(@join "findings", $($part),+),
            ::keyturn_ports::queue::QueueName::Outcomes => per_queue!(@join "outcomes", $($part),+),
            ::keyturn_ports::queue::QueueName::Alarms => per_queue!(@join "alarms", $($part),+),
        }
    };
    (@join $name:literal, $first:expr) => {
        $first
    };
    (@join $name:literal, $first:expr, $second:expr) => {
        concat!($first, $name, $second)
    };
    (@join $name:literal, $first:expr, $second:expr, $third:expr) => {
        concat!($first, $name, $second, $name, $third)
    };
    (@join $name:literal, $first:expr, $second:expr, $third:expr, $fourth:expr) => {
        concat!($first, $name, $second, $name, $third, $name, $fourth)
    };
}

pub(super) use per_queue;
