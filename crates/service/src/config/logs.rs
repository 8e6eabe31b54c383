//! Settings of what is shipped to Azure Monitor, typed.

use std::time::Duration;

use keyturn_azure::HttpsUrl;
use keyturn_azure::logs::{MOST_BYTES, RuleId, Settings, StreamName};

use super::note;
use super::sections::Sections;

/// How audit and events are shipped.
#[derive(Clone, Debug)]
pub struct LogShipping {
    /// Where to.
    pub client: Settings,
    /// The stream of the audit.
    pub audit_stream: StreamName,
    /// The stream of events.
    pub events_stream: StreamName,
    /// How often it is looked for new rows.
    pub every: Duration,
    /// The longest pause after a failure.
    pub max_delay: Duration,
    /// The most rows read at once.
    pub page: usize,
    /// How long a process holds a cursor.
    pub lease: Duration,
    /// For how long after their time events that were not shipped are kept.
    pub keep_unshipped: Duration,
}

impl Sections {
    /// How audit and events are shipped, if they are; or what is wrong, each with its key.
    pub(super) fn log_shipping(&self) -> Result<Option<LogShipping>, Vec<String>> {
        let (section, mut problems) = (&self.azure.logs, Vec::new());
        let key = |name: &str| format!("azure.logs.{name}");
        let Some(endpoint) = &section.endpoint else {
            let alone = "azure.logs.rule: it goes with azure.logs.endpoint; without both nothing is shipped";
            return if section.rule.is_some() { Err(vec![alone.to_owned()]) } else { Ok(None) };
        };
        let endpoint = note(&mut problems, &key("endpoint"), endpoint.parse::<HttpsUrl>());
        let audience = note(&mut problems, &key("audience"), section.audience.parse::<HttpsUrl>());
        let rule = section.rule.as_deref().unwrap_or_default();
        let rule = note(&mut problems, &key("rule"), rule.parse::<RuleId>());
        let audit = note(&mut problems, &key("audit_stream"), section.audit_stream.parse::<StreamName>());
        let events = note(&mut problems, &key("events_stream"), section.events_stream.parse::<StreamName>());
        let (second, hour) = (Duration::from_secs(1), Duration::from_hours(1));
        let (azure, lease) = (&self.azure, section.lease.0);
        let call = (azure.timeout.0 + azure.max_delay.0).saturating_mul(azure.attempts);
        let rules = [
            (
                !(Duration::from_millis(10)..=hour).contains(&section.every.0),
                "azure.logs.every: must be 10ms to 1h",
            ),
            (
                section.max_delay.0 < section.every.0 || section.max_delay.0 > hour,
                "azure.logs.max_delay: must be at least azure.logs.every and at most 1h",
            ),
            (!(1..=10_000).contains(&section.page), "azure.logs.page: must be 1 to 10000"),
            (
                // A row with all its texts at their longest has to fit.
                !(500_000..=MOST_BYTES).contains(&section.batch_bytes),
                "azure.logs.batch_bytes: must be 500000 to 1000000",
            ),
            (
                lease < second || lease > hour || lease <= call,
                "azure.logs.lease: must be 1s to 1h, and longer than azure.attempts times azure.timeout and \
                 azure.max_delay together, or two processes ship the same",
            ),
        ];
        problems.extend(rules.into_iter().filter(|(broken, _)| *broken).map(|(_, text)| text.to_owned()));
        match (endpoint, audience, rule, audit, events) {
            (Some(endpoint), Some(audience), Some(rule), Some(audit_stream), Some(events_stream))
                if problems.is_empty() =>
            {
                let (batch_bytes, compress) = (section.batch_bytes, section.compress);
                let attempts = self.azure.attempts();
                Ok(Some(LogShipping {
                    client: Settings { endpoint, audience, rule, attempts, batch_bytes, compress },
                    audit_stream,
                    events_stream,
                    every: section.every.0,
                    max_delay: section.max_delay.0,
                    page: section.page,
                    lease,
                    keep_unshipped: section.keep_unshipped.0,
                }))
            }
            _ => Err(problems),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::load;

    const GOOD: &str = "[deployment]\nname = \"a\"\n[azure.logs]\nendpoint = \"https://x.ingest.monitor.azure.com\"\n\
                        rule = \"dcr-0123456789abcdef0123456789abcdef\"\n";

    #[test]
    fn shipping_is_off_until_it_has_an_address() {
        assert!(load("[deployment]\nname = \"a\"\n").unwrap().logs.is_none());
        let config = load(GOOD).unwrap();
        let logs = config.logs.unwrap();
        assert!(config.azure.is_some(), "it needs a credential");
        assert_eq!(logs.client.endpoint.to_string(), "https://x.ingest.monitor.azure.com");
        assert_eq!((logs.page, logs.client.batch_bytes), (500, 1_000_000));
    }

    #[test]
    fn what_does_not_fit_is_told_with_its_key() {
        let with = |line: &str| format!("{GOOD}{line}\n");
        for (text, part) in [
            (GOOD.replace("https://x", "http://x"), "azure.logs.endpoint: \"http"),
            (GOOD.replace("dcr-0", "dcr-/"), "azure.logs.rule: \"dcr-/"),
            (GOOD.replace("rule = ", "audience = "), "azure.logs.rule: \"\""),
            (GOOD.replace("endpoint = ", "audience = "), "azure.logs.rule: it goes with"),
            (with("audit_stream = \"CloudLAPSAudit_CL\""), "azure.logs.audit_stream"),
            (with("events_stream = \"Custom-a/../b\""), "azure.logs.events_stream"),
            (with("every = \"0s\""), "azure.logs.every"),
            (with("max_delay = \"1s\""), "azure.logs.max_delay"),
            (with("page = 0"), "azure.logs.page"),
            (with("batch_bytes = 1000001"), "azure.logs.batch_bytes"),
            (with("lease = \"45s\""), "azure.logs.lease"),
            (with("shared_key = \"x\""), "unknown field `shared_key`"),
        ] {
            let error = load(&text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
