//! Our row: `keyturn-loadtest` with the same scenario, whose report is read.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use super::{Circumstances, Row};
use crate::{Result, servers};

/// Runs it.
pub async fn run(met: Circumstances, programs: &Path, fleet: &Path, scenario: &str) -> Result<Row> {
    let folder = servers::folder()?;
    let file = folder.path().join("slow-vault.toml");
    std::fs::write(&file, scenario)?;
    let mut command = Command::new(programs.join("keyturn-loadtest"));
    command.arg("run").arg(&file).args(["--devices", &met.devices.to_string()]).arg("--fleet").arg(fleet);
    command.arg("--report").arg(folder.path()).stdout(Stdio::null()).kill_on_drop(true);
    // It exits with 1 if a bound does not hold, which the report says as well.
    let status = command.status().await?;
    let report = std::fs::read(folder.path().join("slow-vault.json"))
        .map_err(|error| format!("keyturn-loadtest ended with {status} and left no report: {error}"))?;
    row(&serde_json::from_slice(&report)?)
}

fn row(report: &Value) -> Result<Row> {
    let summary = &report["phases"][0]["summary"];
    let number = |value: &Value| value.as_u64().ok_or("the report lacks a number");
    let times = |stage: &str| -> Result<[Duration; 2]> {
        let spread = &summary["stages"][stage];
        Ok([number(&spread["p50"])?, number(&spread["p99"])?].map(Duration::from_micros))
    };
    let verified = &report["verification"];
    let (devices, done) = (number(&report["devices"])?, number(&summary["confirmed"])?);
    let (made, given) = (number(&verified["made"])?, number(&verified["given"])?);
    let mut ends = Vec::new();
    for (how, count) in
        summary["ended"].as_object().into_iter().flatten().filter(|(how, _)| *how != "confirmed")
    {
        ends.push((how.clone(), number(count)?));
    }
    if number(&verified["faults"])? > 0 {
        ends.push((format!("faults: {}", verified["told"]), number(&verified["faults"])?));
    }
    Ok(Row {
        done,
        // Made for a device that does not have it.
        lost: made.saturating_sub(given),
        failed: devices.saturating_sub(done).saturating_sub(made.saturating_sub(given)),
        doubled: made.saturating_sub(devices),
        acknowledged: number(&summary["stages"]["acknowledged"]["count"])?,
        heard: times("acknowledged")?,
        password: times("at_hand")?,
        refused: number(&report["vault"]["refused"])?,
        ends,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_report_is_read() {
        let spread = |p50: u64, p99: u64, count: u64| json!({ "p50": p50, "p99": p99, "count": count });
        let report = json!({
            "devices": 10, "vault": { "refused": 3 },
            "verification": { "made": 9, "given": 8, "faults": 1, "told": ["x"] },
            "phases": [{ "summary": {
                "confirmed": 7, "ended": { "confirmed": 7, "refused": 3 },
                "stages": { "acknowledged": spread(1000, 2000, 9), "at_hand": spread(5000, 6000, 8) },
            } }],
        });
        let row = row(&report).unwrap();
        assert_eq!((row.done, row.lost, row.failed, row.doubled, row.acknowledged), (7, 1, 2, 0, 9));
        assert_eq!(
            (row.heard[1], row.password[0], row.refused),
            (Duration::from_millis(2), Duration::from_millis(5), 3)
        );
        assert_eq!(row.ends, [("refused".to_owned(), 3), ("faults: [\"x\"]".to_owned(), 1)]);
        assert!(super::row(&json!({ "devices": 10 })).is_err());
    }
}
