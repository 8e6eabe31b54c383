//! Where cryptography is done: beside the async threads, unless there is so little of it that the way to another thread
//! and back would cost more.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// So many messages with keys of 2048 bits are read and verified in less than the 100 microseconds that an async thread may
/// be kept busy, and in about the time that two switches of threads take. The largest key that a certificate may have
/// (4096 bits) takes a few times as long, and no more: sizes and exponents are bounded before anything is verified.
const FEW: usize = 2;

/// The work panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it panicked; this is a defect")]
pub struct Panicked;

/// Does work on so many messages, of some 20 to 50 microseconds each.
///
/// # Errors
/// If it panics.
pub async fn aside<T: Send + 'static>(
    messages: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Panicked> {
    if messages <= FEW {
        // What the work captured is dropped with it; nothing of it is seen half done.
        return catch_unwind(AssertUnwindSafe(work)).map_err(|_| Panicked);
    }
    tokio::task::spawn_blocking(work).await.map_err(|_| Panicked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn few_are_worked_on_here_and_many_elsewhere() {
        let here = std::thread::current().id();
        for (messages, stays) in [(0, true), (FEW, true), (FEW + 1, false)] {
            let there = aside(messages, || std::thread::current().id()).await.unwrap();
            assert_eq!(there == here, stays, "{messages}");
        }
    }

    #[tokio::test]
    async fn a_panic_is_an_error() {
        for messages in [1, FEW + 1] {
            assert_eq!(aside(messages, || -> u8 { panic!("on purpose") }).await, Err(Panicked));
        }
    }
}
