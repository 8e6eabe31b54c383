//! Whether Azure Monitor takes audit and events, and how far they are, where they are shipped there.

use keyturn_ports::shipping::Stream;
use keyturn_service::config::LogShipping;

use super::{Check, Deployment};
use crate::output;

const NAME: &str = "log shipping";

/// Nothing where nothing is shipped. This process asks as whoever runs it, which may be another than the notifier.
pub(super) async fn examine(deployment: &Deployment) -> Vec<Check> {
    let Some(settings) = &deployment.config.logs else { return Vec::new() };
    let mut checks = reach(deployment, settings).await;
    for stream in Stream::ALL {
        checks.push(progress(deployment, stream).await);
    }
    checks
}

/// Asks each stream with a call that has no rows, and compares the clocks.
async fn reach(deployment: &Deployment, settings: &LogShipping) -> Vec<Check> {
    let logs = match deployment.engines.logs(&deployment.config) {
        Ok(Some(logs)) => logs,
        Ok(None) => return Vec::new(),
        Err(error) => return vec![Check::failed(NAME, error.to_string(), "mend the setting it names")],
    };
    let mut checks = Vec::new();
    for stream in [&settings.audit_stream, &settings.events_stream] {
        let asked = deployment.engines.clock().now();
        match logs.probe(stream).await {
            Err(error) => {
                let mend = "rows wait in the store meanwhile: docs/runbooks/log-shipping.md";
                checks.push(Check::failed(NAME, format!("{stream}: {error}"), mend));
            }
            Ok(reached) => {
                let allowed = deployment.config.sections.trust.future_skew.0;
                // The service's time is between the two of ours, cut to the second.
                let answered = deployment.engines.clock().now();
                let skew = reached.time.map_or_else(Default::default, |time| {
                    asked
                        .since(time)
                        .saturating_sub(std::time::Duration::from_secs(1))
                        .max(time.since(answered))
                });
                if skew > allowed {
                    let found = format!(
                        "{stream}: this machine's clock and the service's are {} s apart",
                        skew.as_secs()
                    );
                    checks.push(Check::warning(
                        NAME,
                        found,
                        "set the clock by a time server: tokens and rows go by it",
                    ));
                } else {
                    checks.push(Check::ok(
                        NAME,
                        format!("{stream}: {} would take rows", settings.client.endpoint),
                    ));
                }
            }
        }
    }
    checks
}

async fn progress(deployment: &Deployment, stream: Stream) -> Check {
    let position = match deployment.engines.shipping().position(stream).await {
        Ok(position) => position,
        Err(error) => return Check::failed(NAME, error.to_string(), "mend the database first"),
    };
    let (name, now) = (stream.as_str(), deployment.engines.clock().now());
    if position.place > position.newest {
        let found =
            format!("{name}: {} rows were shipped, and there are {}", position.place, position.newest);
        return Check::failed(
            NAME,
            found,
            "the store was put back without its cursor: docs/runbooks/log-shipping.md",
        );
    }
    let waiting = position.newest.saturating_sub(position.place);
    let Some(since) = position.waiting_since else {
        return Check::ok(NAME, format!("{name}: everything is shipped"));
    };
    let found = format!("{name}: {waiting} rows wait, the first for {}", output::ago(since, now));
    if now.since(since) > deployment.config.sections.doctor.waiting_warn.0 {
        let mend = "see whether the notifier runs, and its log: docs/runbooks/log-shipping.md";
        return Check::warning(NAME, found, mend);
    }
    Check::ok(NAME, found)
}
