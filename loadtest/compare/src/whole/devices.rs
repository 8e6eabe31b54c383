//! Devices that ask the synchronous service, each once and at its time, whatever became of the others.

use std::collections::BTreeMap;
use std::io::{BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use reqwest::{Certificate, Client};
use tokio::task::JoinSet;

use super::vault::{Held, Vault, line};
use super::{Circumstances, Row, fleet, percentiles, service};
use crate::{Result, servers};

/// Lost devices that come back once, to see what they are told.
const BACK: usize = 100;

/// What a device has in the end: a password, or why not; and when.
struct Ended {
    place: usize,
    got: std::result::Result<String, String>,
    after: Duration,
}

/// Runs one row.
pub async fn run(met: Circumstances, programs: &Path, fleet: &Path, waits: bool) -> Result<Row> {
    let folder = servers::folder()?;
    let mut vault = Vault::start(programs, folder.path(), met)?;
    let mut service = Service::start(fleet, folder.path(), &vault, met, waits)?;
    let devices = fleet::read(fleet, met.devices)?;
    let bodies = fleet::bodies(fleet, &devices)?;
    let ca = Certificate::from_pem_bundle(&std::fs::read(folder.path().join(service::CA))?)?;
    // Each device is another machine: none finds a connection that is open.
    let client = Client::builder().tls_certs_only(ca).pool_max_idle_per_host(0).build()?;
    let began = Instant::now();
    let mut asking = JoinSet::new();
    let mut dice = Dice(1);
    let span = Duration::from_secs_f64(met.devices as f64 / met.rate);
    let mut schedule: Vec<Duration> = bodies.iter().map(|_| span.mul_f64(dice.unit())).collect();
    schedule.sort_unstable();
    for ((place, body), offset) in bodies.iter().cloned().enumerate().zip(schedule) {
        let intended = began + offset;
        tokio::time::sleep_until(intended.into()).await;
        let (client, url) = (client.clone(), service.url.clone());
        asking.spawn(async move {
            let got = ask(&client, &url, body).await;
            Ended { place, got, after: intended.elapsed() }
        });
    }
    let ended = asking.join_all().await;
    // Functions go on after their devices were told that they did not answer.
    while service.at_work()? > 0 {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let (mut row, lost) = count(&vault.held()?, &ended);
    row.refused = vault.refused()?;
    if !lost.is_empty() {
        let back = lost.iter().take(BACK).map(|place| ask(&client, &service.url, bodies[*place].clone()));
        for got in futures_util::future::join_all(back).await {
            let told = got.err().unwrap_or_else(|| "its password".to_owned());
            add(&mut row.ends, &format!("lost devices came back once and got: {told}"));
        }
    }
    Ok(row)
}

/// Compares what devices have with what the vault has.
fn count(held: &BTreeMap<String, Held>, ended: &[Ended]) -> (Row, Vec<usize>) {
    let (mut row, mut lost) = (Row::default(), Vec::new());
    for Ended { place, got, .. } in ended {
        let there = held.get(&fleet::serial(*place));
        row.doubled += u64::from(there.is_some_and(|held| held.0 > 1));
        match (got, there) {
            (Ok(password), Some(held)) if *password == held.1 => row.done += 1,
            (Err(why), None) => {
                row.failed += 1;
                add(&mut row.ends, &format!("failed: {why}"));
            }
            (got, _) => {
                let why = got.as_ref().err().map_or("has another than the vault", String::as_str);
                add(&mut row.ends, &format!("lost: {why}"));
                lost.push(*place);
            }
        }
    }
    row.lost = lost.len() as u64;
    let times: Vec<Duration> = ended.iter().filter(|one| one.got.is_ok()).map(|one| one.after).collect();
    row.acknowledged = times.len() as u64;
    // The password is the acknowledgement.
    row.password = percentiles(times);
    row.heard = row.password;
    (row, lost)
}

fn add(ends: &mut Vec<(String, u64)>, how: &str) {
    match ends.iter_mut().find(|(known, _)| known == how) {
        Some((_, count)) => *count += 1,
        None => ends.push((how.to_owned(), 1)),
    }
}

/// One request, which a device waits for as long as it takes.
async fn ask(client: &Client, url: &str, body: String) -> std::result::Result<String, String> {
    let sent = client.post(url).header("content-type", "application/json").body(body).send().await;
    let answer = sent.map_err(|error| format!("no answer: {}", without_url(error)))?;
    let status = answer.status();
    let text = answer.text().await.map_err(|error| format!("half an answer: {}", without_url(error)))?;
    if status.is_success() { Ok(text) } else { Err(format!("{status} {text}").trim().to_owned()) }
}

fn without_url(error: reqwest::Error) -> String {
    error.without_url().to_string()
}

/// The service's process, which ends with this value.
struct Service {
    url: String,
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Service {
    fn start(fleet: &Path, folder: &Path, vault: &Vault, met: Circumstances, waits: bool) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("service").arg(fleet).arg(met.devices.to_string()).arg(folder).arg(&vault.url);
        command.args([
            met.at_once.to_string(),
            met.gateway.as_millis().to_string(),
            u8::from(waits).to_string(),
        ]);
        command.envs(&vault.variables).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let stdin = child.stdin.take().ok_or("its input is a pipe")?;
        let mut stdout = BufReader::new(child.stdout.take().ok_or("its output is a pipe")?);
        let url = line(&mut stdout)?;
        Ok(Self { url, child, stdin, stdout })
    }

    /// Functions that have not ended.
    fn at_work(&mut self) -> Result<u64> {
        writeln!(self.stdin, "at work")?;
        Ok(line(&mut self.stdout)?.parse()?)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Already gone, if it failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Numbers that look random and come again with the same seed (SplitMix64, Steele et al. 2014). For times only.
struct Dice(u64);

impl Dice {
    /// In [0, 1).
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_what_the_vault_has_is_told_from_who_is_locked_out() {
        let ended = |place, got: std::result::Result<&str, &str>| {
            let got = got.map(str::to_owned).map_err(str::to_owned);
            Ended { place, got, after: Duration::from_secs(1) }
        };
        let held = [("SN0", 1, "a"), ("SN1", 1, "b"), ("SN3", 2, "d")];
        let held = held.map(|(name, versions, value)| (name.to_owned(), Held(versions, value.to_owned())));
        let all = [ended(0, Ok("a")), ended(1, Err("502")), ended(2, Err("400")), ended(3, Ok("c"))];
        let (row, lost) = count(&held.into(), &all);
        assert_eq!((row.done, row.failed, row.lost, row.doubled, row.acknowledged), (1, 1, 2, 1, 2));
        assert_eq!(lost, [1, 3]);
        assert!(row.ends.contains(&("lost: 502".to_owned(), 1)), "{:?}", row.ends);
    }
}
