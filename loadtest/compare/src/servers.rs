//! Servers of other systems: started in a temporary folder each, and ended with the value.

use std::collections::HashMap;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::Result;

/// A server that runs.
pub struct Server {
    child: Child,
    folder: TempDir,
}

impl Server {
    /// Starts a program that is to listen on `port`.
    pub fn start(mut command: Command, folder: TempDir, port: u16) -> Result<Self> {
        let log = fs::File::create(folder.path().join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let child =
            command.spawn().map_err(|error| format!("{}: {error}", command.get_program().display()))?;
        let mut server = Self { child, folder };
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = server.child.try_wait()?;
            if ended.is_some() || began.elapsed() > Duration::from_secs(60) {
                return Err(format!("it does not come up: {}", server.log()).into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    /// Its first process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn log(&self) -> String {
        let text = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        text.lines().rev().take(5).collect::<Vec<_>>().join(" | ")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The first process and all that it started, whatever groups they made for themselves.
        for pid in family(self.child.id()) {
            if let Some(pid) = rustix::process::Pid::from_raw(pid as i32) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        let _ = self.child.wait();
    }
}

/// The program of this name, if Debian's package put it where it belongs.
pub fn program(paths: &[&str], package: &str) -> Result<PathBuf> {
    let found = paths.iter().map(Path::new).find(|path| path.exists());
    found
        .map(Path::to_owned)
        .ok_or_else(|| format!("{} is not installed (apt install {package})", paths[0]).into())
}

/// A folder on the disk that the others are on.
pub fn folder() -> Result<TempDir> {
    Ok(tempfile::Builder::new().prefix("keyturn-compare-").tempdir()?)
}

/// A port that was free a moment ago.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A process and all its descendants.
fn family(first: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if let Some(parent) = field(pid, 1) {
            children.entry(parent as u32).or_default().push(pid);
        }
    }
    let mut all = vec![first];
    let mut at = 0;
    while at < all.len() {
        all.extend(children.get(&all[at]).into_iter().flatten());
        at += 1;
    }
    all
}

/// Processor time of a process and its descendants so far, to a hundredth of a second.
pub fn processor(first: u32) -> Duration {
    // This program's own children are servers, and counted by themselves.
    let family = if first == std::process::id() { vec![first] } else { family(first) };
    let ticks: u64 = family.iter().filter_map(|pid| Some(field(*pid, 11)? + field(*pid, 12)?)).sum();
    Duration::from_millis(ticks * 10)
}

/// A field of /proc/PID/stat, counted behind the name, which may hold anything.
fn field(pid: u32, at: usize) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(at)?.parse().ok()
}
