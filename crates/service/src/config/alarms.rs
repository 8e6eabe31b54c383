//! The section `alarms`, typed.

use std::collections::BTreeSet;
use std::time::Duration;

use keyturn_domain::lane::Alarm;
use keyturn_domain::webhook::{AlarmPolicy, ProxyUrl, Webhook, WebhookName};
use keyturn_pipeline::settle::RetryPolicy;
use keyturn_pipeline::worker::WorkerSettings;

use super::{Sections, WebhookEntry, note};

impl Sections {
    /// Where alarms go; or what is wrong, each with its key.
    pub(super) fn alarm_policy(&self) -> Result<AlarmPolicy, Vec<String>> {
        let (section, mut problems) = (&self.alarms, Vec::new());
        let webhooks: Vec<Webhook> =
            section.webhook.iter().filter_map(|entry| webhook(entry, &mut problems)).collect();
        let mut names = BTreeSet::new();
        for webhook in &webhooks {
            if !names.insert(&webhook.name) {
                problems.push(format!("alarms.webhook.{}: there are two of this name", webhook.name));
            }
        }
        let proxy = section.proxy.as_ref().map(|text| text.parse::<ProxyUrl>()).transpose();
        let proxy = note(&mut problems, "alarms.proxy", proxy).flatten();
        let read = |path: &std::path::PathBuf| {
            std::fs::read(path).map_err(|error| format!("{}: cannot be read: {error}", path.display()))
        };
        let ca = note(&mut problems, "alarms.ca", section.ca.as_ref().map(read).transpose()).flatten();
        let (second, hour) = (Duration::from_secs(1), Duration::from_hours(1));
        let rules = [
            (
                !(second..=Duration::from_mins(2)).contains(&section.timeout.0),
                "alarms.timeout: must be 1s to 2m",
            ),
            (section.first_delay.0.is_zero(), "alarms.first_delay: must not be zero"),
            (
                section.max_delay.0 < section.first_delay.0 || section.max_delay.0 > hour,
                "alarms.max_delay: must be first_delay to 1h",
            ),
            (section.give_up.0 < section.max_delay.0, "alarms.give_up: must be at least max_delay"),
        ];
        problems.extend(rules.into_iter().filter(|(broken, _)| *broken).map(|(_, text)| text.to_owned()));
        if problems.is_empty() {
            Ok(AlarmPolicy { webhooks, timeout: section.timeout.0, proxy, ca })
        } else {
            Err(problems)
        }
    }

    /// How alarms are taken: only their age ends the attempts.
    pub(super) fn alarm_worker_settings(&self) -> WorkerSettings {
        let section = &self.alarms;
        let retry = RetryPolicy {
            max_deliveries: 1,
            patience: section.give_up.0,
            first_delay: section.first_delay.0,
            max_delay: section.max_delay.0,
        };
        WorkerSettings { batch: self.workers.batch, lease: self.workers.lease.0, retry }
    }
}

fn webhook(entry: &WebhookEntry, problems: &mut Vec<String>) -> Option<Webhook> {
    let key = |member: &str| format!("alarms.webhook.{}.{member}", entry.name);
    let name =
        note(problems, &format!("alarms.webhook: «{}»", entry.name), entry.name.parse::<WebhookName>());
    let url = note(problems, &key("url"), entry.url.parse());
    let kinds = note(problems, &key("kinds"), kinds(entry.kinds.as_deref()));
    Some(Webhook { name: name?, url: url?, kinds: kinds? })
}

fn kinds(words: Option<&[String]>) -> Result<BTreeSet<Alarm>, String> {
    let known = || Alarm::ALL.map(Alarm::as_str).join(", ");
    let parse = |word: &String| {
        Alarm::parse(word).ok_or_else(|| format!("«{word}» is no alarm; there are {}", known()))
    };
    match words {
        None => Ok(Alarm::ALL.into()),
        Some([]) => Err("is empty, so nothing would be sent; leave it out for all".to_owned()),
        Some(words) => words.iter().map(parse).collect(),
    }
}
