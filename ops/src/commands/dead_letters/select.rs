//! Which dead letters, and which of them are worth a replay.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use keyturn_domain::ids::DeviceId;
use keyturn_domain::lane::Lane;
use keyturn_pipeline::replay;
use keyturn_pipeline::replay::eligible::{self, Facts, Skip};
use keyturn_ports::dead_letters::filter::{Facts as Called, Filter};
use keyturn_ports::dead_letters::jobs::Act;
use keyturn_ports::dead_letters::{DeadLetter, DeadLetterId};
use keyturn_ports::queue::QueueName;
use keyturn_service::engines::Engines;
use sha2::{Digest as _, Sha256};

use super::Deployment;
use crate::failure::{Context as _, Result, usage};
use crate::output::printable;
use crate::resolve;

/// Letters read at once.
const PAGE: usize = 500;

/// Where a letter would go, or why it is left out.
pub(super) type Judged = Result<(DeadLetterId, QueueName, String), Skip>;

/// What is asked for.
pub(super) struct Selection {
    filter: Filter,
    ids: BTreeSet<u64>,
}

impl Selection {
    /// Reads what was typed. A device may be named as elsewhere, if one alone has the name.
    pub(super) async fn parse(engines: &Engines, filter: Option<&str>, ids: &[u64]) -> Result<Self> {
        let text = filter.unwrap_or_default();
        let wrong = |error: keyturn_ports::dead_letters::filter::NotAFilter| {
            let line: String = text.chars().take(200).map(|c| if c == '\n' { ' ' } else { c }).collect();
            let mark = " ".repeat(error.at.saturating_sub(1).min(200));
            usage("--where", format_args!("{error}\n  {}\n  {mark}^", printable(line)))
        };
        let mut names = BTreeMap::new();
        let filter = loop {
            match Filter::naming(text, &names) {
                Ok(filter) => break filter,
                Err(error) => match &error.device {
                    // A name that is known and no better for it would be asked for again.
                    Some(name) if !names.contains_key(name) => {
                        let named = resolve::device(engines, name).await.context("--where: device:")?;
                        names.insert(name.clone(), named.id);
                    }
                    _ => return Err(wrong(error)),
                },
            }
        };
        Ok(Self { filter, ids: ids.iter().copied().collect() })
    }

    /// In one line, the same for the same words.
    pub(super) fn words(&self) -> String {
        if self.ids.is_empty() {
            return self.filter.to_string();
        }
        let ids: Vec<String> = self.ids.iter().map(u64::to_string).collect();
        format!("letters {}", ids.join(" "))
    }

    /// The letters that match, newest first, a page at a time: however many there are, a page of them is in memory.
    pub(super) fn letters(&self) -> Letters<'_> {
        Letters { selection: self, before: None }
    }
}

/// Where reading the letters of a selection has come to.
pub(super) struct Letters<'a> {
    selection: &'a Selection,
    before: Option<DeadLetterId>,
}

impl Letters<'_> {
    /// The next of them, at least one; none when all were read.
    pub(super) async fn next(&mut self, names: &mut Names<'_>) -> Result<Option<Vec<DeadLetter>>> {
        let jobs = names.deployment.engines.letter_jobs();
        loop {
            let page = jobs.before(self.before, PAGE).await?;
            let Some(last) = page.last() else { return Ok(None) };
            self.before = Some(last.id);
            let mut letters = Vec::new();
            for letter in page {
                let Selection { filter, ids } = self.selection;
                let named = ids.is_empty() || ids.contains(&letter.id.0);
                if named && names.matches(filter, &letter).await? {
                    letters.push(letter);
                }
            }
            if !letters.is_empty() {
                return Ok(Some(letters));
            }
        }
    }
}

/// Devices remembered at once: what is known of one is a few kilobytes.
const DEVICES: usize = 4096;

/// What is known of the devices that letters are from, each asked for once as long as they are few.
pub(super) struct Names<'a> {
    pub(super) deployment: &'a Deployment,
    known: HashMap<DeviceId, Known>,
}

#[derive(Clone)]
struct Known {
    listed: bool,
    name: Option<String>,
    lanes: Vec<Lane>,
}

impl<'a> Names<'a> {
    pub(super) fn new(deployment: &'a Deployment) -> Self {
        Self { deployment, known: HashMap::new() }
    }

    async fn known(&mut self, device: DeviceId) -> Result<&Known> {
        if !self.known.contains_key(&device) {
            if self.known.len() >= DEVICES {
                self.known.clear();
            }
            let engines = &self.deployment.engines;
            let record = resolve::record(engines, device).await?;
            let lanes = engines.ledger_reader().lanes(device).await?;
            let name = record.as_ref().and_then(|record| record.display_name.clone());
            self.known.insert(device, Known { listed: record.is_some(), name, lanes });
        }
        Ok(self.known.entry(device).or_insert(Known { listed: false, name: None, lanes: Vec::new() }))
    }

    async fn matches(&mut self, filter: &Filter, letter: &DeadLetter) -> Result<bool> {
        let mut called = Called { now: self.deployment.engines.clock().now(), ..Called::default() };
        if filter.needs_names() {
            let policies = &self.deployment.config.policies;
            let device = letter.message.device;
            let known = self.known(device).await?;
            called.labels.extend(known.name.clone());
            for lane in &known.lanes {
                called.labels.extend([lane.about.host.to_string(), lane.about.serial.to_string()]);
                let group = policies.group_of(lane);
                called.groups.push(group.map_or_else(|| "default".to_owned(), |group| group.name.clone()));
            }
        }
        Ok(filter.matches(letter, &called))
    }

    pub(super) async fn judge(&mut self, letter: &DeadLetter) -> Result<Judged> {
        let now = self.deployment.engines.clock().now();
        let request_max_age = self.deployment.config.sections.rotation.request_max_age.0;
        let known = self.known(letter.message.device).await?;
        let facts = Facts { now, request_max_age, listed: known.listed, lanes: &known.lanes };
        Ok(eligible::judge(letter, &facts))
    }
}

/// What a command would do.
pub(super) struct Plan {
    /// Made of the act and of every letter with what would become of it: another set has another name.
    pub(super) name: String,
    pub(super) matched: usize,
    pub(super) eligible: Vec<DeadLetterId>,
    /// Why letters are left out, and how many.
    pub(super) skipped: Vec<(Skip, u64)>,
    /// The queues that the letters are of.
    pub(super) queues: BTreeSet<QueueName>,
}

/// Plans an act on the letters of a selection.
pub(super) async fn plan(names: &mut Names<'_>, act: Act, selection: &Selection) -> Result<Plan> {
    let mut hash = Sha256::new_with_prefix(act.as_str());
    let (mut eligible, mut skipped) = (Vec::new(), Vec::<(Skip, u64)>::new());
    let (mut letters, mut queues, mut matched) = (selection.letters(), BTreeSet::new(), 0);
    while let Some(page) = letters.next(names).await? {
        for letter in &page {
            let skip = if act == Act::Replay { names.judge(letter).await?.err() } else { None };
            // Who names a letter by its number means it, whether or not it is of use.
            let meant = !selection.ids.is_empty() && replay::plan(letter).is_ok();
            let skip = skip.filter(|_| !meant);
            hash.update(letter.id.0.to_be_bytes());
            hash.update(skip.map_or("", Skip::as_str));
            hash.update([0]);
            match skip {
                None => eligible.push(letter.id),
                Some(skip) => match skipped.iter_mut().find(|(other, _)| *other == skip) {
                    Some((_, count)) => *count += 1,
                    None => skipped.push((skip, 1)),
                },
            }
            queues.insert(letter.queue);
            matched += 1;
        }
    }
    eligible.reverse();
    skipped.sort_unstable();
    let digest: [u8; 32] = hash.finalize().into();
    let name = digest.first_chunk().copied().map(u64::from_be_bytes).unwrap_or_default();
    Ok(Plan { name: format!("{name:016x}"), matched, eligible, skipped, queues })
}
