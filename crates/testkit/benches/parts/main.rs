//! What each part of a rotation costs, and what the machine itself needs for the same: `./bench` runs this and says what
//! it means.
//!
//! - `--bench`: all parts in turns, medians, as one JSON object.
//! - `--bench count PART TIMES`: one part, so many times, and nothing else: valgrind counts its instructions.
//! - `--bench names`: the parts whose instructions are counted, and how.
//! - `--bench echo`: a bare HTTPS server, whose processor time somebody else reads. Prints its address and certificate.
//!
//! Measured in turns, so that whatever else the machine does meets all alike. The figure to compare is time on the
//! processor; time on the clock includes waiting for the disk, and for neighbours.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark stops at the first failure, prints what it measured, and has the machine's own clock"
)]

mod echo;
mod engine;
mod limits;
mod pure;

use std::time::{Duration, Instant};

use serde_json::json;

/// How long one turn of a part takes at least, so that the clock's grain does not show.
const TURN: Duration = Duration::from_millis(3);

/// Turns of each part.
const TURNS: usize = 41;

/// One part.
struct Part {
    /// Its name.
    name: &'static str,
    /// How many items one call does.
    items: u32,
    /// What has to be there before a call and is not measured.
    prepare: Box<dyn FnMut()>,
    /// The call.
    call: Box<dyn FnMut()>,
    /// How its instructions are counted.
    counted: Counted,
}

/// How instructions are counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counted {
    /// Within [`measured`]: all happens on one thread.
    Within,
    /// As the difference of two processes: another thread works as well.
    Difference,
    /// Not at all: those of a bare library, or of a wait for the disk, are not ours.
    No,
}

impl Part {
    fn pure(name: &'static str, call: impl FnMut() + 'static) -> Self {
        Self { name, items: 1, prepare: Box::new(|| ()), call: Box::new(call), counted: Counted::Within }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` and the like only want to know that this builds.
    let Some(at) = arguments.iter().position(|argument| argument == "--bench") else { return };
    let rest: Vec<&str> =
        [&arguments[..at], &arguments[at + 1..]].concat().leak().iter().map(String::as_str).collect();
    match rest[..] {
        [] => measure(),
        ["names"] => names(),
        ["count", name, times] => count(name, times.parse().unwrap()),
        ["echo"] => echo::serve(),
        _ => println!("usage: parts --bench [names | count PART TIMES | echo]"),
    }
}

/// The parts whose instructions are counted: how, how many items a call does, and the name.
fn names() {
    let folder = tempfile::tempdir().unwrap();
    for part in parts(folder.path()) {
        match part.counted {
            Counted::Within => println!("within\t{}\t{}", part.items, part.name),
            Counted::Difference => println!("difference\t{}\t{}", part.items, part.name),
            Counted::No => {}
        }
    }
}

fn count(name: &str, times: u32) {
    let folder = tempfile::tempdir().unwrap();
    let find = |parts: Vec<Part>| parts.into_iter().find(|part| part.name == name);
    // Nothing else is made: what a process does before is in the difference only if it varies.
    let mut part = find(engine::parts(folder.path())).or_else(|| find(pure::parts())).unwrap();
    // The first call fills caches, seeds generators, and prepares statements.
    (part.prepare)();
    (part.call)();
    for _ in 0..times {
        (part.prepare)();
        measured(&mut *part.call);
    }
}

/// What valgrind looks for by its name.
#[inline(never)]
fn measured(call: &mut dyn FnMut()) {
    call();
}

fn parts(folder: &std::path::Path) -> Vec<Part> {
    let mut all = pure::parts();
    all.extend(engine::parts(folder));
    all.extend(limits::parts(folder));
    all
}

/// Times of one part, for each item.
struct Measured {
    part: Part,
    /// Calls in a turn.
    calls: u32,
    processor: Vec<Duration>,
    clock: Vec<Duration>,
}

fn measure() {
    let folder = tempfile::tempdir().unwrap();
    let mut all: Vec<_> = parts(folder.path()).into_iter().map(Measured::new).collect();
    for _ in 0..TURNS {
        all.iter_mut().for_each(Measured::turn);
    }
    let rows = all.iter_mut().map(|measured| {
        let (processor, clock) = (median(&mut measured.processor), median(&mut measured.clock));
        json!({ "part": measured.part.name, "items": measured.part.items, "processor_us": processor, "clock_us": clock })
    });
    println!("{}", json!({ "parts": rows.collect::<Vec<_>>() }));
}

impl Measured {
    fn new(part: Part) -> Self {
        let mut measured = Self { part, calls: 1, processor: Vec::new(), clock: Vec::new() };
        // Warms up, and finds how many calls make a turn.
        loop {
            measured.turn();
            let (took, items) = (measured.clock.remove(0), measured.part.items * measured.calls);
            measured.processor.clear();
            if took * items >= TURN || measured.calls >= 4096 {
                return measured;
            }
            measured.calls *= 2;
        }
    }

    fn turn(&mut self) {
        let (mut clock, mut processor) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..self.calls {
            (self.part.prepare)();
            let (began, worked) = (Instant::now(), used());
            (self.part.call)();
            processor += used().saturating_sub(worked);
            clock += began.elapsed();
        }
        let items = self.calls * self.part.items;
        self.processor.push(processor / items);
        self.clock.push(clock / items);
    }
}

/// What this process has had of the processor so far, in all its threads.
fn used() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}

/// The median in microseconds.
fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}
