//! Numbers for people: counts and times as floating point. The one place where precision may be lost.

use std::time::Duration;

/// A count as a number to divide by. Exact to 2^53.
#[expect(clippy::cast_precision_loss, reason = "counts here are far below 2^53")]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

/// The whole part of a number, zero if it is negative.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates, and what is below zero is to be zero"
)]
pub(crate) fn whole(number: f64) -> u64 {
    number as u64
}

/// Whole microseconds.
pub(crate) fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// `part` of each of `of`; zero of none.
pub(crate) fn each(part: f64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { part / float(of) }
}
