//! Scenarios: what a run does, as a TOML file. Unknown keys are errors.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use keyturn_domain::span::Span;
use serde::{Deserialize, Serialize};

use crate::arrivals::Arrivals;

/// A scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// One word.
    pub name: String,
    /// What it is to show.
    pub about: String,
    /// How many devices take part.
    pub devices: u64,
    /// How many RSA keys they share, if the fleet is made for this run.
    #[serde(default = "eight")]
    pub keys: u64,
    /// Whether the server is one process or four, if this program starts it.
    #[serde(default)]
    pub layout: Layout,
    /// How many rotators there are, if each role is a process.
    #[serde(default = "one")]
    pub rotators: u64,
    /// How much the server's processes give way to the client, 0 to 19 as `nice` has it, if this program starts them. A client
    /// that is late because it shares the processor offers less than it says.
    #[serde(default)]
    pub nice: u8,
    /// How much more the workers give way, to the ingress as well, as they do where systemd starts them (`CPUWeight`), if each
    /// role is a process.
    #[serde(default)]
    pub workers_nice: u8,
    /// What connections are used for.
    #[serde(default)]
    pub connection: Connections,
    /// The seed of arrival times.
    #[serde(default = "one")]
    pub seed: u64,
    /// How devices behave.
    #[serde(default)]
    pub device: Behaviour,
    /// Settings of the server if this program starts it, as they stand in keyturn.toml.
    #[serde(default)]
    pub server: toml::Table,
    /// The vault is a fake of Key Vault with this limit.
    pub vault: Option<VaultLimit>,
    /// What is done, in this order.
    #[serde(default)]
    pub phase: Vec<Phase>,
    /// A search for the highest rate instead, or after the phases; if the rate of a phase is a share of what is found and
    /// `borne` is not there, before the first such phase.
    pub search: Option<Search>,
    /// The highest rate that is borne, per second: what shares are of.
    pub borne: Option<f64>,
    /// What the run is held to.
    #[serde(default)]
    pub thresholds: Thresholds,
}

/// What a fake of Key Vault takes.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultLimit {
    /// Writes in any window.
    pub calls: u32,
    /// That window, in whole seconds.
    pub window: Span,
    /// How long it takes to answer a call that it does not turn away.
    #[serde(default = "none")]
    pub delay: Span,
}

/// The server's processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// `keyturn up`.
    #[default]
    One,
    /// Ingress, validator, rotator and notifier, each a process.
    Four,
}

/// What one TLS connection is used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Connections {
    /// One rotation: nonce, request, polls, report. As agents do, which rotate every few days.
    #[default]
    Rotation,
    /// One exchange, the dearest there is.
    Exchange,
    /// Connections are kept, and any device uses any of them: the cheapest there is.
    Shared,
}

/// How devices behave.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Behaviour {
    /// How long a device asks the server to hold a poll; `0s` for none.
    pub long_poll: Span,
    /// The time from the 202 to the first poll.
    pub poll_after: Span,
    /// The time between polls that bring nothing.
    pub poll_every: Span,
    /// How long it takes to set a password.
    pub apply: Span,
    /// When a device gives up waiting for an answer.
    pub patience: Span,
    /// How often a device that is turned away with 429 or 503 comes back, after as long as it was told; and how often it makes
    /// a call again whose connection broke, a second later.
    pub returns: u32,
}

impl Default for Behaviour {
    fn default() -> Self {
        let span = |millis| Span(Duration::from_millis(millis));
        Self {
            long_poll: span(30_000),
            poll_after: span(0),
            poll_every: span(1_000),
            apply: span(0),
            patience: span(60_000),
            returns: 0,
        }
    }
}

/// A part of a run.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// One word.
    pub name: String,
    /// When devices arrive.
    pub arrivals: Arrivals,
    /// Whether requests are signed before the phase begins, as nonces allow for four minutes.
    #[serde(default)]
    pub presign: bool,
    /// Whether thresholds count here.
    #[serde(default = "yes")]
    pub measured: bool,
}

/// A search for the highest rate that the server bears.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Search {
    /// Where it starts, per second. The rate is doubled until the server does not bear it.
    pub from: f64,
    /// The highest rate tried.
    pub to: f64,
    /// How long each rate is tried.
    pub step: Span,
    /// How often the gap between the highest rate that was borne and the lowest that was not is halved.
    pub halvings: u32,
    /// What bearing means: the 99th percentile of the time from intended start to password at hand, and no failure.
    pub p99: Span,
}

/// What a run is held to. That nothing is lost or doubled goes without saying.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Thresholds {
    /// Rotations that may fail, turned-away devices included.
    pub failed: u64,
    /// The 99th percentile of the time from intended start to the 202.
    pub acknowledged: Option<Span>,
    /// The median time from intended start to password at hand.
    pub p50: Option<Span>,
    /// Its 99th percentile.
    pub p99: Option<Span>,
    /// Server CPU time of a rotation.
    pub cpu: Option<Span>,
    /// The most that the server's processes held together, in MiB of resident memory, at their worst.
    pub memory: Option<f64>,
    /// How much slower a phase may be than another.
    pub slower: Option<Slower>,
    /// A phase that is more than the server bears: there has to be an answer of 429 or 503 in it.
    pub overloaded: Option<String>,
    /// Writes that the vault turned away.
    pub vault_refused: Option<u64>,
    /// The share of the writes that the vault would have taken, from the first to the last, that was not used.
    pub vault_unused: Option<f64>,
}

/// A bound on the 99th percentile of the time to the password in one phase: so many times the median in another.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slower {
    /// The one.
    pub phase: String,
    /// The other.
    pub than: String,
    /// The bound.
    pub times: f64,
}

fn none() -> Span {
    Span(Duration::ZERO)
}

fn eight() -> u64 {
    8
}

fn one() -> u64 {
    1
}

fn yes() -> bool {
    true
}

/// Nonces are good for five minutes; messages signed with them have to be sent in less.
const PRESIGNED: Duration = Duration::from_mins(4);

impl Thresholds {
    /// The phases that it names.
    fn phases(&self) -> impl Iterator<Item = &String> {
        let slower = self.slower.iter().flat_map(|slower| [&slower.phase, &slower.than]);
        slower.chain(&self.overloaded)
    }
}

impl Scenario {
    /// Reads a scenario's file.
    pub fn load(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("{}: cannot be read", path.display()))?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    /// Reads a scenario.
    pub fn parse(text: &str) -> Result<Self> {
        let scenario: Self = toml::from_str(text)?;
        scenario.check()?;
        Ok(scenario)
    }

    /// Checks what types cannot.
    pub fn check(&self) -> Result<()> {
        ensure!(self.devices > 0, "devices: at least one");
        ensure!((1..=16).contains(&self.rotators), "rotators: 1 to 16 of them");
        ensure!(self.nice.saturating_add(self.workers_nice) <= 19, "nice, workers_nice: 0 to 19 together");
        ensure!((1..=1024).contains(&self.keys), "keys: 1 to 1024 keys are shared by the devices");
        ensure!(
            !self.phase.is_empty() || self.search.is_some(),
            "there is neither a [[phase]] nor a [search]"
        );
        if let Some(VaultLimit { calls, window, .. }) = self.vault {
            let whole = window.0.subsec_nanos() == 0 && window.0 >= Duration::from_secs(1);
            ensure!(calls >= 2 && whole, "vault: at least 2 calls in a window of whole seconds");
        } else {
            let bounds = &self.thresholds;
            ensure!(
                bounds.vault_refused.is_none() && bounds.vault_unused.is_none(),
                "thresholds: those of a vault go with [vault]"
            );
        }
        ensure!(self.borne.is_none_or(|rate| rate.is_finite() && rate > 0.0), "borne: a rate per second");
        for named in self.thresholds.phases() {
            let known = self.phase.iter().any(|phase| phase.name == *named);
            ensure!(known, "thresholds: there is no phase «{named}»");
        }
        for phase in &self.phase {
            ensure!(
                !phase.arrivals.is_share() || self.borne.is_some() || self.search.is_some(),
                "phase {}: a share of what is borne goes with `borne` or [search]",
                phase.name
            );
            // A rate that is found later is checked then.
            let arrivals = phase.arrivals.of(self.devices, self.borne.unwrap_or(1.0));
            if let Some(fault) = phase.arrivals.fault().or_else(|| arrivals.fault()) {
                bail!("phase {}: {fault}", phase.name);
            }
            let late = phase.presign && arrivals.span() > PRESIGNED;
            ensure!(
                !late,
                "phase {}: presign is for at most {PRESIGNED:?} of arrivals: nonces end",
                phase.name
            );
        }
        if let Some(search) = &self.search {
            let sound = search.from.is_finite() && search.from > 0.0 && search.to >= search.from;
            ensure!(sound && search.to.is_finite(), "search: from and to are rates, from at most to");
            ensure!(search.step.0 >= Duration::from_secs(1), "search: a step of less than 1s shows nothing");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "name = \"n\"\nabout = \"a\"\ndevices = 1\n";

    #[test]
    fn every_scenario_of_the_house_is_sound() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!files.is_empty());
        for file in files {
            let scenario = Scenario::load(&file).unwrap();
            assert_eq!(Some(scenario.name.as_str()), file.file_stem().unwrap().to_str(), "named as its file");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let phase = "[[phase]]\nname = \"p\"\narrivals = ";
        for (text, named) in [
            (String::new(), "neither"),
            (
                format!(
                    "{phase}{{ shape = \"burst\", count = 1, within = \"1s\" }}\n[vault]\ncalls = 1\nwindow = \"1s\""
                ),
                "vault: at least",
            ),
            (
                format!(
                    "{phase}{{ shape = \"burst\", count = 1, within = \"1s\" }}\n[thresholds]\nvault_refused = 0"
                ),
                "go with [vault]",
            ),
            ("devises = 3".to_owned(), "devises"),
            ("nice = 10\nworkers_nice = 10".to_owned(), "workers_nice: 0 to 19"),
            (
                format!("{phase}{{ shape = \"share\", of_borne = 2.0, duration = \"1s\" }}"),
                "goes with `borne` or [search]",
            ),
            (
                format!(
                    "{phase}{{ shape = \"burst\", count = 1, within = \"1s\" }}\n[thresholds]\noverloaded = \"q\""
                ),
                "no phase «q»",
            ),
            (format!("{phase}{{ shape = \"constant\", rate = -1.0, duration = \"1s\" }}"), "phase p"),
            (format!("{phase}{{ shape = \"square\", rate = 1.0, duration = \"1s\" }}"), "square"),
            (
                format!("{phase}{{ shape = \"constant\", rate = 1.0, duration = \"9m\" }}\npresign = true"),
                "presign",
            ),
            (
                "[search]\nfrom = 9.0\nto = 1.0\nstep = \"5s\"\nhalvings = 1\np99 = \"1s\"".to_owned(),
                "search",
            ),
        ] {
            let error = format!("{:#}", Scenario::parse(&format!("{SMALL}{text}")).unwrap_err());
            assert!(error.contains(named), "{error}");
        }
    }
}
