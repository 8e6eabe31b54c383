//! What is loaded: a deployment that runs somewhere, or one that this program starts in a temporary folder.

mod started;
mod vault;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use keyturn_schemas::claims::Deployment;
use keyturn_schemas::signing::PublicKey;
use url::Url;

pub use started::Started;
pub use vault::{Vault, VaultReport};

/// A deployment under load.
pub struct Target {
    /// Where its device API is.
    pub url: Url,
    /// PEM file of the certificates that its own must chain to.
    pub ca: Option<PathBuf>,
    /// Its name.
    pub deployment: Deployment,
    /// The key that signs its key sets.
    pub root: PublicKey,
    /// Its processes on this machine, by name.
    pub processes: Vec<(String, u32)>,
    /// Where its processes answer `/metrics`, in plain HTTP: the address of each role that listens, by name.
    pub metrics: Vec<(String, String)>,
    /// How its operator's command is called, if that can be done from here.
    pub operator: Option<Operator>,
}

/// The `keyturn` command on a deployment of this machine.
#[derive(Clone, Debug)]
pub struct Operator {
    /// The program.
    pub program: PathBuf,
    /// The deployment's configuration file.
    pub config: PathBuf,
    /// What it has in its environment, besides what this program has.
    pub variables: BTreeMap<String, String>,
}

impl Operator {
    /// A call of the command.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.envs(&self.variables).arg("--config").arg(&self.config).args(arguments);
        command
    }

    /// Runs the command, which must succeed, and returns what it printed.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments).output().with_context(|| self.program.display().to_string())?;
        let why = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "keyturn {} failed: {}", arguments.join(" "), why.trim());
        Ok(String::from_utf8(output.stdout)?)
    }
}
