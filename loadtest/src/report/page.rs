//! The report as one page that needs nothing else: style and charts are in it, and no script.

use std::fmt::Write as _;

use super::chart::{Chart, escaped, short};
use super::{PhaseReport, Report};
use crate::numbers::float;
use crate::process::Usage;
use crate::record::{Percentiles, Stage};
use crate::watch::Sample;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}\
    table{border-collapse:collapse;margin:1rem 0}td,th{padding:.15rem .7rem;border-bottom:1px solid #ddd;\
    text-align:right}td:first-child,th:first-child{text-align:left}figure{margin:1.5rem 0}\
    svg text{font-size:11px;fill:#555}.bad{color:#cf222e;font-weight:bold}code{overflow-wrap:anywhere}";

/// The page of a report.
pub(super) fn of(report: &Report) -> String {
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{0}</title><style>{STYLE}</style>\n\
         <h1>{0}</h1><p>{1}</p><p>{2} · <code>{3}</code></p>\n",
        escaped(&report.scenario),
        escaped(&report.about),
        report.date,
        escaped(&report.command)
    );
    circumstances(report, &mut page);
    judgements(report, &mut page);
    for phase in &report.phases {
        section(phase, &mut page);
    }
    page.push_str("<h2>The whole run</h2>\n");
    for chart in whole(report) {
        page.push_str(&chart.draw());
    }
    page.push_str("</html>\n");
    page
}

fn circumstances(report: &Report, page: &mut String) {
    let machine = &report.machine;
    let _ = writeln!(
        page,
        "<p>{} devices with {} RSA keys between them; connections: one for each {:?}; server processes: {:?}. {} cores \
         of {}, shared by client and server; load average before: {}; CPU time of others meanwhile: {} %.</p>",
        report.devices,
        report.keys,
        report.connection,
        report.layout,
        machine.cores,
        escaped(&machine.processor),
        machine.load_before.map_or_else(|| "unknown".to_owned(), |load| format!("{load:.2}")),
        machine.others.map_or_else(|| "unknown".to_owned(), |share| format!("{:.0}", share * 100.0)),
    );
}

fn judgements(report: &Report, page: &mut String) {
    page.push_str("<table><tr><th>held to</th><th>at most</th><th>measured</th><th></th></tr>");
    for one in &report.judgements {
        let word = if one.holds { "ok" } else { "<span class=bad>failed</span>" };
        let (what, bound, got) = (escaped(&one.what), short(one.bound), short(one.got));
        let _ = write!(page, "<tr><td>{what}</td><td>{bound}</td><td>{got}</td><td>{word}</td></tr>");
    }
    page.push_str("</table>\n");
    match &report.verification {
        Some(found) => {
            let _ = writeln!(
                page,
                "<p>Compared with the deployment's own timeline: {} devices, {} versions made, {} given, {} faults.</p>",
                found.devices, found.made, found.given, found.faults
            );
        }
        None => page.push_str("<p class=bad>Not compared with the deployment's own timeline.</p>\n"),
    }
}

fn section(phase: &PhaseReport, page: &mut String) {
    let _ = writeln!(page, "<h2>{}</h2><p>{}</p>", escaped(&phase.name), escaped(&phase.line()));
    page.push_str(
        "<table><tr><th>time, ms</th><th>count</th><th>mean</th><th>p50</th><th>p90</th><th>p99</th>\
        <th>p99.9</th><th>max</th></tr>",
    );
    for (stage, spread) in &phase.summary.stages {
        let _ = write!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{:.2}</td>",
            name(*stage),
            spread.count,
            spread.mean / 1e3
        );
        for value in [spread.p50, spread.p90, spread.p99, spread.p999, spread.max] {
            let _ = write!(page, "<td>{:.2}</td>", float(value) / 1e3);
        }
        page.push_str("</tr>");
    }
    for (what, meter) in &phase.server {
        let _ = write!(
            page,
            "<tr><td>server: {}</td><td>{:.0}</td><td>{:.2}</td><td></td><td></td><td>{:.2}</td><td></td><td></td></tr>",
            escaped(what),
            meter.count,
            meter.mean * 1e3,
            meter.p99 * 1e3
        );
    }
    page.push_str(
        "</table><table><tr><th>process</th><th>CPU us per rotation</th><th>cores</th>\
        <th>bytes to disk per rotation</th><th>memory, MiB</th></tr>",
    );
    for (process, cost) in &phase.costs {
        let _ = write!(
            page,
            "<tr><td>{}</td><td>{:.0}</td><td>{:.2}</td><td>{:.0}</td><td>{:.1}</td></tr>",
            escaped(process),
            cost.cpu_us,
            cost.cores,
            cost.written,
            float(cost.memory) / 1_048_576.0
        );
    }
    page.push_str("</table>\n");
    for (how, count) in phase.summary.ended.iter().filter(|(how, _)| *how != "confirmed") {
        let _ = writeln!(page, "<p class=bad>{count} {}</p>", escaped(how));
    }
    page.push_str(&over_time(phase).draw());
    page.push_str(&percentiles(phase).draw());
}

fn over_time(phase: &PhaseReport) -> Chart {
    let line = |name: &str, value: fn(&crate::record::Second) -> u64| {
        let points = phase.summary.seconds.iter().map(|one| (float(one.second), float(value(one)) / 1e3));
        (name.to_owned(), points.collect())
    };
    Chart {
        title: "Time until the password is at hand, by the second of the intended start".to_owned(),
        unit: "ms",
        logarithmic: true,
        lines: vec![line("p50", |one| one.p50), line("p99", |one| one.p99), line("max", |one| one.max)],
        labels: Vec::new(),
    }
}

/// The curve of HdrHistogram: to the right, each step is a tenth of what is left.
fn percentiles(phase: &PhaseReport) -> Chart {
    let right = |share: u64| if share >= 1_000_000 { 4.5 } else { -(1.0 - float(share) / 1e6).log10() };
    let curve = |spread: &Percentiles| {
        spread.curve.iter().map(|(share, value)| (right(*share), float(*value) / 1e3)).collect::<Vec<_>>()
    };
    let lines = phase.summary.stages.iter().map(|(stage, spread)| (name(*stage).to_owned(), curve(spread)));
    let shown = [Stage::Connect, Stage::Submit, Stage::Answer, Stage::Confirm, Stage::AtHand, Stage::Whole];
    let shown: Vec<_> = shown.iter().map(|stage| name(*stage)).collect();
    let labels =
        [(0, "0 %"), (900_000, "90 %"), (990_000, "99 %"), (999_000, "99.9 %"), (999_900, "99.99 %")];
    Chart {
        title: "Percentiles".to_owned(),
        unit: "ms",
        logarithmic: true,
        lines: lines.filter(|(name, _)| shown.contains(&name.as_str())).collect(),
        labels: labels.map(|(share, label)| (right(share), label.to_owned())).to_vec(),
    }
}

fn whole(report: &Report) -> [Chart; 3] {
    let queues = names(&report.samples, |sample| sample.queues.keys());
    let depth = queues.into_iter().map(|queue| {
        let points =
            report.samples.iter().filter_map(|one| Some((one.at, *one.queues.get(&queue)?))).collect();
        (queue, points)
    });
    let depth = Chart {
        title: "Messages on each queue".to_owned(),
        unit: "messages, by second of the run",
        logarithmic: false,
        lines: depth.collect(),
        labels: Vec::new(),
    };
    [depth, processes(report, "CPU", "cores", cores), processes(report, "Memory", "MiB", memory)]
}

fn processes(
    report: &Report,
    title: &str,
    unit: &'static str,
    value: fn(&(f64, Usage), &(f64, Usage)) -> f64,
) -> Chart {
    let lines = names(&report.samples, |sample| sample.processes.keys()).into_iter().map(|process| {
        let seen: Vec<(f64, Usage)> =
            report.samples.iter().filter_map(|one| Some((one.at, *one.processes.get(&process)?))).collect();
        let pairs = seen.iter().zip(seen.iter().skip(1));
        (process, pairs.map(|(before, after)| (after.0, value(before, after))).collect())
    });
    Chart {
        title: format!("{title} of each process"),
        unit,
        logarithmic: false,
        lines: lines.collect(),
        labels: Vec::new(),
    }
}

fn cores(before: &(f64, Usage), after: &(f64, Usage)) -> f64 {
    after.1.cpu.saturating_sub(before.1.cpu).as_secs_f64() / (after.0 - before.0).max(1e-9)
}

fn memory(_: &(f64, Usage), after: &(f64, Usage)) -> f64 {
    float(after.1.memory) / 1_048_576.0
}

fn names<'a, I>(samples: &'a [Sample], of: impl Fn(&'a Sample) -> I) -> Vec<String>
where
    I: Iterator<Item = &'a String>,
{
    samples.iter().flat_map(of).cloned().collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}

fn name(stage: Stage) -> &'static str {
    match stage {
        Stage::Lag => "late start (client)",
        Stage::Connect => "connect",
        Stage::Nonce => "nonce",
        Stage::Sign => "sign (client)",
        Stage::Submit => "submit",
        Stage::Answer => "answer",
        Stage::Open => "open and set (client)",
        Stage::SignReport => "sign report (client)",
        Stage::Report => "report",
        Stage::Confirm => "confirm",
        Stage::Rotator => "of the answer: until signed",
        Stage::Acknowledged => "all: acknowledged",
        Stage::AtHand => "all: password at hand",
        Stage::Whole => "all: confirmed",
    }
}
