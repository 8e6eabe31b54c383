//! `keyturn fleet`: how the fleet stands, in the words that `device show` uses for one device.

use keyturn_domain::standing::DeviceStanding;
use keyturn_service::fleet::{self, Report, Surveyed, Surveyor};
use serde_json::json;

use super::Deployment;
use super::hold::{self, Hold};
use crate::cli::Output;
use crate::failure::{Code, Failure, OrFail as _, Result};
use crate::output;

pub(super) async fn run(deployment: &Deployment, list: bool, last: bool) -> Result<()> {
    if last {
        return last_report(deployment).await;
    }
    let surveyor = Surveyor::new(&deployment.config, &deployment.engines);
    if list {
        let mut devices = Vec::new();
        surveyor.each(|one, _| devices.push(one)).await?;
        devices.sort_unstable();
        return table(deployment, &devices).await;
    }
    let report = surveyor.survey(&deployment.config.sections.fleet).await?;
    counts(deployment, &report)
}

fn counts(deployment: &Deployment, report: &Report) -> Result<()> {
    let all = DeviceStanding::ALL;
    let capped = |one: &DeviceStanding| report.capped.get(one).copied().unwrap_or_default();
    let row =
        |one: &DeviceStanding| json!({"state": one, "devices": report.count(*one), "capped": capped(one)});
    let value: Vec<_> = all.iter().map(row).collect();
    let cells =
        all.map(|one| [one.words().to_owned(), report.count(one).to_string(), one.meaning().to_owned()]);
    output::table(deployment.output, ["STATE", "DEVICES", "MEANING"], cells, &value)?;
    let total: u64 = report.capped.values().sum();
    if total > 0 {
        eprintln!(
            "{total} of them had as many new passwords as rotation.versions_per_day allows and get none for now: \
             `keyturn fleet --list` tells which, and until when."
        );
    }
    Ok(())
}

async fn table(deployment: &Deployment, devices: &[Surveyed]) -> Result<()> {
    let (mut cells, mut values) = (Vec::new(), Vec::new());
    for one in devices {
        // Few are, and who holds them, until when and why is what comes next.
        let held =
            if one.state == DeviceStanding::OnHold { Some(held(deployment, one).await?) } else { None };
        let (hold, told) = held.unwrap_or_default();
        let cap = one.capped_until.map_or_else(String::new, output::when);
        let device = one.device_id.to_string();
        cells.push([one.state.words().to_owned(), one.name.clone(), device, cap, told]);
        let mut value = serde_json::to_value(one).or_defect()?;
        if let (Some(fields), Some(hold)) = (value.as_object_mut(), hold) {
            fields.insert("hold".to_owned(), serde_json::to_value(hold).or_defect()?);
        }
        values.push(value);
    }
    output::table(deployment.output, ["STATE", "NAME", "DEVICE", "CAPPED UNTIL", "HELD"], cells, &values)
}

/// Who holds a device, and that in words.
async fn held(deployment: &Deployment, one: &Surveyed) -> Result<(Option<Hold>, String)> {
    let lanes = deployment.engines.ledger_reader().lanes(one.device_id).await?;
    let hold = hold::of(&deployment.engines, one.device_id, &lanes).await?;
    let refusals = lanes.iter().filter_map(|lane| lane.held_until).max();
    let told = match (&hold, refusals) {
        (Some(hold), _) => hold.told(),
        (None, Some(until)) => {
            format!("until {}: its operating system refused passwords", output::when(until))
        }
        (None, None) => String::new(),
    };
    Ok((hold, told))
}

async fn last_report(deployment: &Deployment) -> Result<()> {
    let Some(report) = fleet::last(&*deployment.engines.chores()).await? else {
        let text = "there is no report yet: the rotator, or `keyturn up`, makes one at its start and every \
                    fleet.report_every";
        return Err(Failure::new(Code::NothingToDo, text));
    };
    if deployment.output == Output::Json {
        return output::json(&report);
    }
    counts(deployment, &report)?;
    table(deployment, &report.named).await?;
    let (percent, limit) = (report.unwell_percent, deployment.config.sections.fleet.unwell_percent_warn);
    eprintln!(
        "Of {}. {} of the never escrowed have no lane. {percent} % of {} listed devices are overdue, unverified or \
         never escrowed; more than {limit} % is warned of.",
        output::when(report.at),
        report.without_lane,
        report.listed
    );
    Ok(())
}
