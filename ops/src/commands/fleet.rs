//! `keyturn fleet`: how the fleet stands, in the words that `device show` uses for one device.

use anyhow::Result;
use keyturn_domain::standing::DeviceStanding;
use keyturn_service::fleet::{self, Report, Surveyed, Surveyor};
use serde_json::json;

use super::Deployment;
use crate::cli::Output;
use crate::failure::Failure;
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
        return table(deployment, &devices);
    }
    let report = surveyor.survey(&deployment.config.sections.fleet).await?;
    counts(deployment, &report)
}

fn counts(deployment: &Deployment, report: &Report) -> Result<()> {
    let all = DeviceStanding::ALL;
    let value: Vec<_> = all.iter().map(|one| json!({"state": one, "devices": report.count(*one)})).collect();
    let cells =
        all.map(|one| [one.words().to_owned(), report.count(one).to_string(), one.meaning().to_owned()]);
    output::table(deployment.output, ["STATE", "DEVICES", "MEANING"], cells, &value)
}

fn table(deployment: &Deployment, devices: &[Surveyed]) -> Result<()> {
    let cells =
        devices.iter().map(|one| [one.state.words().to_owned(), one.name.clone(), one.device_id.to_string()]);
    output::table(deployment.output, ["STATE", "NAME", "DEVICE"], cells, &devices)
}

async fn last_report(deployment: &Deployment) -> Result<()> {
    let Some(report) = fleet::last(&*deployment.engines.chores()).await? else {
        let text = "there is no report yet: the rotator, or `keyturn up`, makes one at its start and every \
                    fleet.report_every";
        return Err(Failure::NotFound(text.to_owned()).into());
    };
    if deployment.output == Output::Json {
        return output::json(&report);
    }
    counts(deployment, &report)?;
    table(deployment, &report.named)?;
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
