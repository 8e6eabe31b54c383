//! The fake of Key Vault, of the product's own tests, in a process of its own.

use std::collections::BTreeMap;
use std::io::{BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::Deserialize;

use super::Circumstances;
use crate::Result;

/// The file of what its certificate chains to, in its folder.
pub const CA: &str = "vault.pem";

/// It ends with this value.
pub struct Vault {
    /// Its address.
    pub url: String,
    /// How a managed identity gets tokens for it.
    pub variables: BTreeMap<String, String>,
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

/// How many versions a secret has, and the value of the current one.
#[derive(Debug, Deserialize)]
pub struct Held(pub u64, pub String);

#[derive(Deserialize)]
struct Counted {
    refused: u64,
}

impl Vault {
    /// Starts an empty one.
    pub fn start(programs: &Path, folder: &Path, met: Circumstances) -> Result<Self> {
        let program = programs.join("examples/fake_key_vault");
        let ca = folder.join(CA);
        let numbers = [u128::from(met.calls), u128::from(met.window.as_secs()), met.delay.as_millis()];
        let [calls, seconds, delay] = numbers.map(|number| number.to_string());
        let mut child = Command::new(&program)
            .arg(&ca)
            .args(["--limit", &calls, &seconds, "--delay", &delay])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| {
                format!(
                    "{}: {error}; `cargo build --package keyturn-testkit --example fake_key_vault` builds it",
                    program.display()
                )
            })?;
        let stdin = child.stdin.take().ok_or("its input is a pipe")?;
        let mut stdout = BufReader::new(child.stdout.take().ok_or("its output is a pipe")?);
        let url = line(&mut stdout)?;
        let variables = serde_json::from_str(&line(&mut stdout)?)?;
        Ok(Self { url, variables, child, stdin, stdout })
    }

    /// All secrets, by their names.
    pub fn held(&mut self) -> Result<BTreeMap<String, Held>> {
        Ok(serde_json::from_str(&self.ask("versions")?)?)
    }

    /// Writes that it turned away.
    pub fn refused(&mut self) -> Result<u64> {
        Ok(serde_json::from_str::<Counted>(&self.ask("count")?)?.refused)
    }

    fn ask(&mut self, what: &str) -> Result<String> {
        writeln!(self.stdin, "{what}")?;
        line(&mut self.stdout)
    }
}

/// A line of a child's output.
pub fn line(lines: &mut impl std::io::BufRead) -> Result<String> {
    let mut line = String::new();
    match lines.read_line(&mut line)? {
        0 => Err("a process that was started has ended".into()),
        _ => Ok(line.trim().to_owned()),
    }
}

impl Drop for Vault {
    fn drop(&mut self) {
        // Already gone, if it failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
