//! `keyturn audit export` and `keyturn events export`: JSON lines for a log store, with the columns of CloudLAPS's
//! tables (`CloudLAPSAudit_CL`, `CloudLAPSClient_CL`) beside our own, which [`columns`] has.

use keyturn_domain::time::UnixMillis;
use keyturn_schemas::envelope::parse_rfc3339;
use keyturn_service::shipping::columns;
use keyturn_service::shipping::names::Names;

use super::Deployment;
use crate::failure::{Result, usage};
use crate::output::{json_line, quoted};

/// Rows read at once.
const PAGE: usize = 500;

/// Prints the audit.
pub(super) async fn audit(deployment: &Deployment, since: Option<&str>) -> Result<()> {
    let (since, audit) = (instant(since)?, deployment.engines.audit());
    let (mut names, mut after) =
        (Names::new(deployment.engines.directory(), deployment.engines.ledger_reader()), 0);
    loop {
        let page = audit.after(after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.seq;
        for row in page.into_iter().filter(|row| row.row.at >= since) {
            let named = names.of(row.row.device).await?;
            json_line(&columns::audit(&row, &named).exported())?;
        }
    }
}

/// Prints what happened on devices.
pub(super) async fn events(deployment: &Deployment, since: Option<&str>) -> Result<()> {
    let (since, ledger) = (instant(since)?, deployment.engines.ledger_reader());
    let (mut names, mut after) =
        (Names::new(deployment.engines.directory(), deployment.engines.ledger_reader()), 0);
    loop {
        let page = ledger.events(after, PAGE).await?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = *last;
        for (place, event) in page.into_iter().filter(|(_, event)| event.at >= since) {
            let named = names.of(Some(event.device)).await?;
            json_line(&columns::event(place, &event, &named).exported())?;
        }
    }
}

pub(super) fn instant(text: Option<&str>) -> Result<UnixMillis> {
    let wrong = || {
        usage(
            "--since",
            format_args!(
                "{}: expected an instant like 2026-11-22T00:00:00Z",
                quoted(text.unwrap_or_default())
            ),
        )
    };
    text.map_or(Ok(UnixMillis(0)), |text| parse_rfc3339(text).ok_or_else(wrong))
}
