//! The command line.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use keyturn_schemas::claims::Deployment;
use url::Url;

use crate::fleet::Fleet;
use crate::keygen;
use crate::report::Report;
use crate::scenario::{Layout, Scenario};
use crate::session;
use crate::target::{Operator, Started, Target};

/// Loads a Keyturn deployment with simulated devices, and reports what their rotations cost.
#[derive(Debug, Parser)]
#[command(name = "keyturn-loadtest", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a fleet on disk: keys, certificates, and DIR/import.json for `keyturn device import`. What is there is kept.
    Keygen(Keygen),
    /// Run a scenario. Exit code 1: a threshold does not hold; 2: the run came to nothing.
    Run(Box<Run>),
}

#[derive(Debug, Args)]
struct Keygen {
    /// How many devices, each with an id and a certificate of its own.
    #[arg(long)]
    devices: u64,
    /// How many RSA keys they share.
    #[arg(long, default_value_t = 64)]
    keys: u64,
    /// The fleet's folder.
    #[arg(long)]
    out: PathBuf,
}

#[derive(Debug, Args)]
struct Run {
    /// The scenario's file.
    scenario: PathBuf,
    /// A fleet's folder. Without it, one is made for this run.
    #[arg(long)]
    fleet: Option<PathBuf>,
    /// How many devices, instead of the scenario's.
    #[arg(long)]
    devices: Option<u64>,
    /// The highest rate that is borne, per second, instead of the scenario's, or of a search for it.
    #[arg(long)]
    borne: Option<f64>,
    /// The folder of the report.
    #[arg(long, default_value = "target/loadtest")]
    report: PathBuf,
    /// Start a deployment in a temporary folder, which is what happens without --url too.
    #[arg(long, conflicts_with = "url")]
    embedded: bool,
    /// The server's processes of such a deployment, instead of the scenario's: one or four.
    #[arg(long, value_parser = ["one", "four"])]
    layout: Option<String>,
    /// Where its programs are; this program's own folder if not given.
    #[arg(long)]
    programs: Option<PathBuf>,
    /// Keep its folder.
    #[arg(long)]
    keep: bool,
    /// Load the deployment whose device API is here. Its directory must have the fleet, and its admission must let so
    /// many devices through from one address.
    #[arg(long, requires_all = ["root_key", "deployment", "fleet"])]
    url: Option<Url>,
    /// The name of that deployment.
    #[arg(long)]
    deployment: Option<Deployment>,
    /// Its root.pub.json.
    #[arg(long)]
    root_key: Option<PathBuf>,
    /// PEM file of the certificates that its own must chain to.
    #[arg(long)]
    ca: Option<PathBuf>,
    /// Where its processes answer /metrics: NAME=HOST:PORT. May be repeated; depths of queues come from the first.
    #[arg(long, value_parser = pair)]
    metrics: Vec<(String, String)>,
    /// Its processes on this machine: NAME=PID. May be repeated.
    #[arg(long = "process", value_parser = process)]
    processes: Vec<(String, u32)>,
    /// Its configuration file on this machine: the run is then compared with what the deployment knows.
    #[arg(long, value_name = "CONFIG")]
    operate: Option<PathBuf>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn process(text: &str) -> Result<(String, u32), String> {
    let (name, pid) = pair(text)?;
    Ok((name, pid.parse().map_err(|_| "expected NAME=PID")?))
}

/// Runs the command that the command line names.
pub fn run() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Keygen(keygen) => keygen::make(&keygen.out, keygen.devices, keygen.keys).map(|()| {
            eprintln!("{} devices are in {}", keygen.devices, keygen.out.display());
            true
        }),
        Command::Run(run) => start(&run),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("keyturn-loadtest: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn start(run: &Run) -> Result<bool> {
    let mut scenario = Scenario::load(&run.scenario)?;
    if let Some(devices) = run.devices {
        scenario.devices = devices;
    }
    if run.borne.is_some() {
        scenario.borne = run.borne;
        // It is looked for in order to know this.
        if scenario.phase.iter().any(|phase| phase.arrivals.is_share()) {
            scenario.search = None;
        }
    }
    match run.layout.as_deref() {
        Some("four") => scenario.layout = Layout::Four,
        Some(_) => scenario.layout = Layout::One,
        None => {}
    }
    scenario.check()?;
    let made = tempfile::Builder::new().prefix("keyturn-fleet-").tempdir()?;
    let folder = run.fleet.as_deref().unwrap_or(made.path());
    if run.fleet.is_none() {
        keygen::make(folder, scenario.devices, scenario.keys)?;
    }
    let fleet = Fleet::load(folder, scenario.devices)?;
    crate::process::take_handles();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    // Told to end, it drops what it started, which ends the server's processes and removes their folder.
    let report = runtime.block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            report = load(run, &scenario, fleet) => report,
            _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
            _ = terminate.recv() => Err(anyhow::anyhow!("terminated")),
        }
    })?;
    report.write(&run.report)?;
    println!("{}", report.told());
    eprintln!("The report is {}.", run.report.join(format!("{}.html", report.scenario)).display());
    Ok(report.holds())
}

async fn load(run: &Run, scenario: &Scenario, fleet: Fleet) -> Result<Report> {
    let command =
        std::env::args().skip(1).fold("keyturn-loadtest".to_owned(), |line, word| line + " " + &word);
    let programs = match &run.programs {
        Some(programs) => programs.clone(),
        None => std::env::current_exe()?.parent().context("this program is in no folder")?.to_owned(),
    };
    if let Some(url) = &run.url {
        let root = run.root_key.as_ref().context("--root-key")?;
        let root = std::fs::read_to_string(root).with_context(|| root.display().to_string())?;
        let operator = run.operate.clone().map(|config| Operator {
            program: programs.join("keyturn"),
            config,
            variables: BTreeMap::new(),
        });
        let target = Target {
            url: url.clone(),
            ca: run.ca.clone(),
            deployment: run.deployment.clone().context("--deployment")?,
            root: serde_json::from_str(&root).context("--root-key: not a root.pub.json")?,
            processes: run.processes.clone(),
            metrics: run.metrics.clone(),
            operator,
        };
        anyhow::ensure!(
            scenario.vault.is_none(),
            "{}: its vault is a fake of this program's, which a deployment of --url does not use",
            scenario.name
        );
        return session::run(scenario, &target, fleet, command).await;
    }
    let mut started = Started::start(&programs, scenario, &fleet.import).await?;
    if run.keep {
        eprintln!("The deployment is in {}.", started.keep().display());
    }
    let report = session::run(scenario, &started.target, fleet, command).await;
    // Counted when all rotations have ended.
    let report =
        report.and_then(|report| Ok(report.with_vault(started.vault_report()?, &scenario.thresholds)));
    // A process that ended early explains more than what came of it.
    started.check()?;
    started.stop().await?;
    report
}
