//! A report of which every part is known.

use super::*;
use crate::record::{Ended, Record, Timeline};

fn report(verification: Option<Verification>) -> Report {
    let record = Record::default();
    for ended in [Ended::Confirmed, Ended::Confirmed, Ended::Failed("<b>".to_owned())] {
        let mut timeline = Timeline::start(Duration::ZERO);
        timeline.at_hand();
        record.add(&timeline, &ended, Duration::ZERO);
    }
    let phase = PhaseReport {
        name: "steady".to_owned(),
        measured: true,
        presigned: false,
        at: 0.0,
        planned: 3,
        arrivals_s: 1.0,
        took_s: 1.0,
        rate: 3.0,
        server_us: 900.0,
        costs: BTreeMap::new(),
        server: BTreeMap::new(),
        summary: record.summary(),
    };
    Report {
        scenario: "test".to_owned(),
        about: "a & b".to_owned(),
        date: "2026-01-01T00:00:00Z".to_owned(),
        command: "run".to_owned(),
        layout: Layout::One,
        connection: Connections::Rotation,
        devices: 3,
        keys: 1,
        machine: Machine::told(None, None),
        phases: vec![phase],
        search: None,
        verification,
        vault: None,
        judgements: Vec::new(),
        samples: Vec::new(),
    }
}

fn failed(report: &Report, bounds: &Thresholds) -> Vec<String> {
    judge(report, bounds).into_iter().filter(|one| !one.holds).map(|one| one.what).collect()
}

#[test]
fn a_phase_can_be_held_to_another_and_an_overload_to_be_told_of() {
    let mut report = report(Some(Verification::default()));
    let mut other = report.phases[0].clone();
    other.name = "double".to_owned();
    report.phases.push(other);
    let slower = |times| {
        let named = |name: &str| name.to_owned();
        Some(crate::scenario::Slower { phase: named("double"), than: named("steady"), times })
    };
    let wide = Thresholds { failed: 1, memory: Some(0.0), slower: slower(1e9), ..Thresholds::default() };
    assert!(failed(&report, &wide).is_empty(), "{:?}", failed(&report, &wide));
    let overloaded = Some("double".to_owned());
    let cost = Cost { cpu_us: 0.0, cores: 0.0, written: 0.0, memory: 0, peak: 3 << 20 };
    report.phases[1].costs = [("all".to_owned(), cost), (crate::watch::CLIENT.to_owned(), cost)].into();
    let narrow = Thresholds {
        failed: 1,
        acknowledged: Some(keyturn_domain::span::Span(Duration::ZERO)),
        memory: Some(2.9),
        slower: slower(0.0),
        overloaded,
        ..Thresholds::default()
    };
    let what = failed(&report, &narrow).join("; ");
    for part in ["until acknowledged", "memory at its worst", "p99 / p50 of steady", "double: overload"] {
        assert!(what.contains(part), "{part}: {what}");
    }
    // Told by 503, and one of them did not say when to come back.
    report.phases[1].summary.turned_away = [(503, 2)].into();
    report.phases[1].summary.untold = 1;
    let told = failed(&report, &Thresholds { memory: Some(3.0), slower: None, acknowledged: None, ..narrow });
    assert_eq!(told, ["double: turned away without a time to come back"]);
    assert!(report.told().contains("double: turned away 2 with 503; 1 without saying"), "{}", report.told());
}

#[test]
fn each_threshold_can_fail_and_can_hold() {
    let sound = report(Some(Verification::default()));
    let span = |micros| Some(keyturn_domain::span::Span(Duration::from_micros(micros)));
    let wide = Thresholds {
        failed: 1,
        p50: span(3_600_000_000),
        p99: span(3_600_000_000),
        cpu: span(900),
        ..Thresholds::default()
    };
    assert!(failed(&sound, &wide).is_empty());
    let narrow =
        Thresholds { failed: 0, p50: span(0), p99: span(0), cpu: span(899), ..Thresholds::default() };
    assert_eq!(failed(&sound, &narrow).len(), 4);
    let lost = report(Some(Verification { faults: 1, ..Verification::default() }));
    assert_eq!(failed(&lost, &wide), ["versions or messages lost or doubled"]);
}

#[test]
fn the_page_is_whole_and_holds_nobodys_markup() {
    let mut report = report(None);
    report.judgements = judge(&report, &Thresholds::default());
    let page = page::of(&report);
    assert!(page.contains("failed: &lt;b&gt;") && !page.contains("<b>") && page.contains("a &amp; b"));
    assert!(page.ends_with("</html>\n") && !page.contains("<script") && !page.contains("http"));
    assert!(report.told().contains("not verified"));
}

#[test]
fn a_vault_is_judged_by_what_it_counted() {
    let bounds =
        Thresholds { failed: 1, vault_refused: Some(0), vault_unused: Some(0.05), ..Thresholds::default() };
    let vault = |refused, most, used| VaultReport {
        calls: 300,
        window_s: 10.0,
        taken: 900,
        refused,
        most,
        lasted_s: 31.0,
        rate: 29.0,
        used,
    };
    let judged = |vault| {
        let report = report(Some(Verification::default())).with_vault(Some(vault), &bounds);
        assert!(report.told().contains("vault: 900 writes in 31.0 s"), "{}", report.told());
        failed(&report, &bounds)
    };
    assert!(judged(vault(0, 300, 0.951)).is_empty());
    assert_eq!(judged(vault(1, 300, 0.96)), ["vault: writes turned away"]);
    assert_eq!(judged(vault(0, 301, 0.96)), ["vault: writes in a window"]);
    assert_eq!(judged(vault(0, 300, 0.94)), ["vault: share of its rate left unused"]);
}
