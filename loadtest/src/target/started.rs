//! A deployment in a temporary folder, with TLS, whose processes end with this value.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rcgen::{CertificateParams, KeyPair};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use toml::{Table, Value};
use url::Url;

use super::{Operator, Target, Vault, VaultReport};
use crate::scenario::{Layout, Scenario};

/// How long processes may take to be ready, and to end.
const GRACE: Duration = Duration::from_secs(30);

/// Between looks.
const LOOK: Duration = Duration::from_millis(50);

/// The name of the deployment.
const NAME: &str = "loadtest";

/// What the certificate of a fake vault chains to, beside the configuration.
const VAULT_CA: &str = "vault.pem";

/// A deployment that runs.
pub struct Started {
    /// What is loaded.
    pub target: Target,
    folder: TempDir,
    children: Vec<(String, Child)>,
    vault: Option<Vault>,
    nice: u8,
    workers_nice: u8,
}

impl Started {
    /// Makes a deployment with these devices and starts it. Programs are looked for in `programs`.
    pub async fn start(programs: &Path, scenario: &Scenario, import: &Path) -> Result<Self> {
        let (layout, mut settings) = (scenario.layout, scenario.server.clone());
        let folder = tempfile::Builder::new().prefix("keyturn-loadtest-").tempdir()?;
        let data = folder.path().join("data");
        let program = programs.join("keyturn");
        ensure!(
            program.exists(),
            "{}: no such program; build it with `cargo build --release --workspace`, or say --programs",
            program.display()
        );
        let made = Command::new(&program).args(["init", "--name", NAME]).arg(&data).output()?;
        ensure!(made.status.success(), "keyturn init: {}", String::from_utf8_lossy(&made.stderr).trim());
        let ca = certificate(&data)?;
        let vault = match scenario.vault {
            Some(limit) => Some(Vault::start(programs, limit, &data.join(VAULT_CA))?),
            None => None,
        };
        let mut variables = BTreeMap::new();
        if let Some(vault) = &vault {
            variables.clone_from(vault.variables());
            lay_over(&mut settings, &vault.settings(VAULT_CA));
        }
        let listen = free_address()?;
        let config = Config { listen, health: health(layout, scenario.rotators)? };
        let path = data.join("keyturn.toml");
        fs::write(&path, toml::to_string(&config.merged(&settings))?)?;
        let operator = Operator { program, config: path, variables };
        operator.run(&["device", "import", &import.display().to_string()])?;
        let root = fs::read_to_string(data.join("root.pub.json"))?;
        let target = Target {
            url: Url::parse(&format!("https://{listen}"))?,
            ca: Some(ca),
            deployment: NAME.parse()?,
            root: serde_json::from_str(&root)?,
            processes: Vec::new(),
            metrics: config.health.iter().map(|(name, at)| (name.clone(), at.to_string())).collect(),
            operator: Some(operator),
        };
        let (nice, workers_nice) = (scenario.nice, scenario.workers_nice);
        let mut started = Self { target, folder, children: Vec::new(), vault, nice, workers_nice };
        for (name, address) in &config.health {
            started.spawn(programs, name, *address)?;
        }
        started.ready().await?;
        Ok(started)
    }

    /// How the vault was used, if it is a fake.
    pub fn vault_report(&self) -> Result<Option<VaultReport>> {
        self.vault.as_ref().map(Vault::report).transpose()
    }

    /// The folder it is in.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Keeps the folder when this value is dropped. Returns where it is.
    pub fn keep(&mut self) -> PathBuf {
        self.folder.disable_cleanup(true);
        self.folder.path().to_owned()
    }

    fn spawn(&mut self, programs: &Path, name: &str, health: SocketAddr) -> Result<()> {
        let operator = self.target.operator.as_ref().context("a started deployment has an operator")?;
        let command = if name == "all" {
            operator.command(&["up"])
        } else {
            // A second one is told apart by a number.
            let role = name.split_once('-').map_or(name, |(role, _)| role);
            let mut command = Command::new(programs.join(format!("keyturn-{role}")));
            command
                .envs(&operator.variables)
                .arg("--config")
                .arg(&operator.config)
                .arg("--health")
                .arg(health.to_string());
            command
        };
        let log = fs::File::create(self.folder.path().join(format!("{name}.log")))?;
        let worker = !matches!(name, "all" | "ingress");
        let nice = self.nice + if worker { self.workers_nice } else { 0 };
        let mut command = if nice == 0 { command } else { giving_way(&command, nice) };
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let child = child.with_context(|| format!("{name} cannot be started"))?;
        self.target.processes.push((name.to_owned(), child.id()));
        self.children.push((name.to_owned(), child));
        Ok(())
    }

    /// Waits until every process says that it is ready.
    async fn ready(&mut self) -> Result<()> {
        for (name, address) in self.target.metrics.clone() {
            let mut left = GRACE;
            while !crate::watch::is_ready(&address).await {
                self.check()?;
                if left.is_zero() {
                    bail!("{name} is not ready after {GRACE:?}; its log: {}", self.log(&name));
                }
                tokio::time::sleep(LOOK).await;
                left = left.saturating_sub(LOOK);
            }
        }
        Ok(())
    }

    /// Fails if a process has ended.
    pub fn check(&mut self) -> Result<()> {
        let folder = self.folder.path();
        for (name, child) in &mut self.children {
            if let Some(status) = child.try_wait()? {
                bail!("{name} ended with {status}; its log: {}", tail(&folder.join(format!("{name}.log"))));
            }
        }
        Ok(())
    }

    fn log(&self, name: &str) -> String {
        tail(&self.folder.path().join(format!("{name}.log")))
    }

    /// Ends the processes as systemd does. Fails if one does not end well.
    pub async fn stop(mut self) -> Result<()> {
        for (name, child) in &mut self.children {
            kill_process(Pid::from_child(child), Signal::TERM).with_context(|| format!("{name} is gone"))?;
        }
        let mut left = GRACE;
        while let Some((name, mut child)) = self.children.pop() {
            if let Some(status) = child.try_wait()? {
                ensure!(status.success(), "{name} ended with {status}: {}", self.log(&name));
                continue;
            }
            if left.is_zero() {
                child.kill()?;
                child.wait()?;
                bail!("{name} does not end within {GRACE:?} of SIGTERM");
            }
            self.children.push((name, child));
            tokio::time::sleep(LOOK).await;
            left = left.saturating_sub(LOOK);
        }
        Ok(())
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            // Already gone, if it was stopped.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

struct Config {
    listen: SocketAddr,
    health: Vec<(String, SocketAddr)>,
}

impl Config {
    /// The configuration: what a load from one machine needs, and over it the scenario's own settings. All devices
    /// come from one address and share keys, so admission by address and by key is opened wide; it is measured by a
    /// benchmark of its own.
    fn merged(&self, settings: &Table) -> Table {
        let wide = |names: &[&str]| {
            let pair = |name: &&str| {
                [
                    (format!("{name}_rate"), Value::Integer(1_000_000)),
                    (format!("{name}_burst"), Value::Integer(1_000_000)),
                ]
            };
            names.iter().flat_map(pair).collect::<Table>()
        };
        let text = |value: &str| Value::String(value.to_owned());
        let mut ingress = Table::new();
        ingress.insert("listen".to_owned(), text(&self.listen.to_string()));
        ingress.insert("connections_per_address".to_owned(), Value::Integer(25_000));
        ingress.insert("polls_per_address".to_owned(), Value::Integer(20_000));
        let admission = ["address", "poll", "key", "unknown", "unknown_address"];
        ingress.insert("admission".to_owned(), Value::Table(wide(&admission)));
        let tls = [("certificate", text("tls.pem")), ("key", text("tls.key"))];
        let tls = tls.map(|(name, value)| (name.to_owned(), value));
        ingress.insert("tls".to_owned(), Value::Table(tls.into_iter().collect()));
        // Those of a role's further processes are on their command lines alone.
        let first = self.health.iter().filter(|(name, _)| !name.contains('-'));
        let health = first.map(|(name, at)| (name.clone(), text(&at.to_string()))).collect();
        // Every arrival is to rotate, also the second one of a device.
        let rotation = [("update_frequency", text("1ms")), ("versions_per_day", Value::Integer(1_000_000))];
        let rotation = rotation.map(|(name, value)| (name.to_owned(), value)).into_iter().collect();
        let deployment = [("name".to_owned(), text(NAME))].into_iter().collect();
        let logs = [("level".to_owned(), text("warn"))].into_iter().collect();
        let sections = [
            ("deployment", deployment),
            ("ingress", ingress),
            ("health", health),
            ("rotation", rotation),
            ("logs", logs),
        ];
        let mut all: Table =
            sections.into_iter().map(|(name, table)| (name.to_owned(), Value::Table(table))).collect();
        lay_over(&mut all, settings);
        all
    }
}

/// The same by way of `nice`, which becomes the program.
fn giving_way(command: &Command, nice: u8) -> Command {
    let mut nicely = Command::new("nice");
    nicely.args(["-n", &nice.to_string()]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => nicely.env(name, value),
            None => nicely.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        nicely.current_dir(folder);
    }
    nicely
}

/// Puts the values of `over` over those of `under`, section by section.
fn lay_over(under: &mut Table, over: &Table) {
    for (name, value) in over {
        match (under.get_mut(name), value) {
            (Some(Value::Table(under)), Value::Table(over)) => lay_over(under, over),
            _ => {
                under.insert(name.clone(), value.clone());
            }
        }
    }
}

fn health(layout: Layout, rotators: u64) -> Result<Vec<(String, SocketAddr)>> {
    let names: &[&str] = match layout {
        Layout::One => &["all"],
        Layout::Four => &["ingress", "validator", "rotator", "notifier"],
    };
    let more = 2..=if layout == Layout::Four { rotators } else { 1 };
    let names = names.iter().map(|name| (*name).to_owned());
    let all = names.chain(more.map(|number| format!("rotator-{number}")));
    all.map(|name| Ok((name, free_address()?))).collect()
}

/// Makes a P-256 certificate for the loopback addresses. Returns the file to trust.
fn certificate(data: &Path) -> Result<PathBuf> {
    let key = KeyPair::generate()?;
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])?;
    let (certificate, secret) = (data.join("tls.pem"), data.join("tls.key"));
    fs::write(&certificate, params.self_signed(&key)?.pem())?;
    {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(secret)?;
        file.write_all(key.serialize_pem().as_bytes())?;
    }
    Ok(certificate)
}

/// A port that was free a moment ago.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
