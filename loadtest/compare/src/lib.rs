//! The embedded queue beside others, at the same durability, work and concurrency: `loadtest/compare/run`.
//!
//! Rounds go over all systems in turns, so that whatever else the machine does meets all alike. Medians and ratios of one
//! run count; times and rates mean nothing elsewhere.

mod apalis;
mod embedded;
mod flow;
mod nats;
mod postgres;
mod rabbit;
mod raw;
mod redis;
mod servers;
mod whole;

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write as _;
use std::time::Duration;

use flow::Figures;

/// What goes wrong ends the run.
type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The systems, in the order of a round.
const SYSTEMS: [&str; 8] =
    ["raw", "embedded", "two-processes", "redis", "rabbitmq", "nats", "postgres", "apalis"];

/// Of these each goal of the embedded queue says how many times faster it has to be.
/// Zero is no goal: what is not as durable is shown beside, and no more.
const GOALS: [(&str, &str, &str, f64); 7] = [
    ("G1", "embedded", "redis", 3.0),
    ("G1", "embedded", "postgres", 12.0),
    ("G1", "embedded", "rabbitmq", 8.0),
    ("G1", "embedded", "apalis", 100.0),
    ("G1", "embedded", "nats", 0.0),
    ("G2", "two-processes", "embedded", 0.8),
    ("G2", "two-processes", "redis", 1.5),
];

const USAGE: &str = "usage: keyturn-compare [--rounds N] [--seconds S] [--only NAME,NAME]\n\
    names: raw embedded two-processes redis rabbitmq nats postgres apalis";

struct Options {
    rounds: usize,
    length: Duration,
    only: Vec<String>,
}

/// Runs what the command line asks for.
pub fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if let ["half", which, path, millis] = words[..] {
        return runtime.block_on(embedded::half(
            which,
            path.as_ref(),
            Duration::from_millis(millis.parse()?),
        ));
    }
    match words[..] {
        ["whole", ref options @ ..] => return runtime.block_on(whole::run(options)),
        ["service", ref settings @ ..] => return runtime.block_on(whole::service::run(settings)),
        _ => {}
    }
    runtime.block_on(compare(&options(&words)?))
}

fn options(words: &[&str]) -> Result<Options> {
    let mut options = Options { rounds: 5, length: Duration::from_secs(2), only: Vec::new() };
    for pair in words.chunks(2) {
        match pair {
            ["--rounds", rounds] => options.rounds = rounds.parse::<usize>()?.max(1),
            ["--seconds", seconds] => options.length = Duration::from_secs_f64(seconds.parse()?),
            ["--only", only] => options.only = only.split(',').map(str::to_owned).collect(),
            _ => return Err(USAGE.into()),
        }
    }
    if let Some(unknown) = options.only.iter().find(|name| !SYSTEMS.contains(&name.as_str())) {
        return Err(format!("{unknown}: no such system\n{USAGE}").into());
    }
    Ok(options)
}

async fn compare(options: &Options) -> Result<()> {
    let wanted = |name: &&str| options.only.is_empty() || options.only.iter().any(|only| only == name);
    let mut rounds: BTreeMap<&str, Vec<Figures>> = BTreeMap::new();
    let mut systems: Vec<&str> = SYSTEMS.into_iter().filter(wanted).collect();
    for _ in 0..options.rounds {
        let mut left_out = Vec::new();
        for name in &systems {
            match one(name, options.length).await {
                Ok(figures) => rounds.entry(name).or_default().push(figures),
                Err(error) => {
                    eprintln!("SKIPPED {name}: {error}");
                    left_out.push(*name);
                }
            }
        }
        systems.retain(|name| !left_out.contains(name));
        // A system that failed once is not compared: half of its rounds would be other rounds than ours.
        left_out.iter().for_each(|name| drop(rounds.remove(name)));
    }
    report(&rounds, options.length)
}

/// A round of one system. One that hangs is left out like one that fails.
async fn one(name: &str, length: Duration) -> Result<Figures> {
    let hung = |_| "it hangs";
    tokio::time::timeout(length * 3 + Duration::from_secs(60), round(name, length)).await.map_err(hung)?
}

async fn round(name: &str, length: Duration) -> Result<Figures> {
    match name {
        "raw" => raw::round(length).await,
        "embedded" => embedded::round(length).await,
        "two-processes" => embedded::two_processes(length).await,
        "redis" => redis::round(length).await,
        "rabbitmq" => rabbit::round(length).await,
        "nats" => nats::round(length).await,
        "apalis" => apalis::round(length).await,
        _ => postgres::round(length).await,
    }
}

fn report(rounds: &BTreeMap<&str, Vec<Figures>>, length: Duration) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    writeln!(
        out,
        "{} producers, {} consumers that take {}, 1 KiB, rounds of {length:?} in turns, medians [least..most]; load {}",
        flow::PRODUCERS,
        flow::CONSUMERS,
        flow::BATCH,
        load.split(' ').take(3).collect::<Vec<_>>().join(" ")
    )?;
    writeln!(
        out,
        "{:14} {:>9} {:>19} {:>10} {:>9} {:>9}",
        "system", "through/s", "", "CPU us/msg", "p50 ms", "p99 ms"
    )?;
    let mut medians = BTreeMap::new();
    for name in SYSTEMS.iter().filter(|name| rounds.contains_key(**name)) {
        let of = |value: fn(&Figures) -> f64| sorted(&rounds[name], value);
        let rate = of(|figures| figures.rate);
        let middle = |values: &[f64]| values[values.len() / 2];
        medians.insert(*name, (middle(&rate), middle(&of(|figures| figures.cpu_us))));
        let spread = format!("[{:.0}..{:.0}]", rate[0], rate[rate.len() - 1]);
        writeln!(
            out,
            "{name:14} {:>9.0} {spread:>19} {:>10.1} {:>9.2} {:>9.2}",
            middle(&rate),
            middle(&of(|figures| figures.cpu_us)),
            middle(&of(|figures| figures.p50_ms)),
            middle(&of(|figures| figures.p99_ms)),
        )?;
    }
    for (goal, ours, other, least) in GOALS {
        if rounds.contains_key(ours) && rounds.contains_key(other) {
            // Of pairs of one round, so that a busy minute meets both.
            let pairs = rounds[ours].iter().zip(&rounds[other]).map(|(ours, other)| ours.rate / other.rate);
            let ratio = median(pairs);
            if least == 0.0 {
                writeln!(
                    out,
                    "-- {ours} / {other}: {ratio:.2}, no goal: it acknowledges before its disk has it"
                )?;
                continue;
            }
            let told = if ratio >= least { "met" } else { "NOT MET" };
            writeln!(out, "{goal} {ours} / {other}: {ratio:.2}, goal >= {least}: {told}")?;
        }
    }
    if let (Some(raw), Some(ours)) = (rounds.get("raw"), rounds.get("embedded")) {
        let ratio = median(raw.iter().zip(ours).map(|(raw, ours)| raw.rate / ours.rate));
        let told = if ratio <= 1.7 { "met" } else { "NOT MET" };
        writeln!(out, "G3 raw / embedded: {ratio:.2}, goal <= 1.7: {told}")?;
    }
    Ok(())
}

fn sorted(figures: &[Figures], value: fn(&Figures) -> f64) -> Vec<f64> {
    let mut values: Vec<f64> = figures.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    values
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
