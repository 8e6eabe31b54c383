//! The system's own programs: by absolute path, without a shell, with an empty environment, and not for ever.

use std::io::{self, PipeReader, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use keyturn_domain::clock::Clock;
use rustix::process::{Pid, Signal, kill_process_group};

use super::database;
use crate::accounts::Error;

/// Where the programs of a system are. Only these: the path of the environment is somebody else's.
const FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// How much of what a program says is kept, in bytes.
const MAX_SAID: usize = 4096;

/// Between two looks at whether a program has ended.
const LOOK: Duration = Duration::from_millis(5);

/// How long the last words of a program that has ended are waited for.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A program of the system.
pub(super) struct Tool<'a> {
    name: &'static str,
    path: PathBuf,
    limit: Duration,
    clock: &'a dyn Clock,
}

/// How a program ended, and what it said.
pub(super) struct Done {
    name: &'static str,
    status: ExitStatus,
    pub(super) said: String,
}

impl<'a> Tool<'a> {
    /// Finds a program.
    pub(super) fn locate(name: &'static str, limit: Duration, clock: &'a dyn Clock) -> Result<Self, Error> {
        let path = FOLDERS.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.is_file());
        let path = path.ok_or_else(|| Error::Database(format!("{name} is missing; {}", package(name))))?;
        Ok(Self { name, path, limit, clock })
    }

    /// Runs it with `input` on its standard input. One that takes too long is killed, with all it has started.
    pub(super) fn run(&self, arguments: &[&str], input: &[u8]) -> Result<Done, Error> {
        let (mut child, words) = self.start(arguments).map_err(|error| {
            Error::Database(format!("{} cannot be started: {error}", self.path.display()))
        })?;
        if let Some(mut stdin) = child.stdin.take() {
            // Less than a pipe holds, so this does not wait. One that does not read its input says why by its end.
            let _ = stdin.write_all(input);
        }
        let status = self.wait(&mut child)?;
        let said = words.recv_timeout(LAST_WORDS).unwrap_or_default();
        Ok(Done { name: self.name, status, said })
    }

    fn start(&self, arguments: &[&str]) -> io::Result<(Child, mpsc::Receiver<String>)> {
        let (reader, writer) = io::pipe()?;
        let child = Command::new(&self.path)
            .args(arguments)
            .env_clear()
            // So that what it says is in the words that are looked for.
            .env("LC_ALL", "C")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .spawn()?;
        let (tell, words) = mpsc::channel();
        thread::spawn(move || tell.send(listen(reader)));
        Ok((child, words))
    }

    fn wait(&self, child: &mut Child) -> Result<ExitStatus, Error> {
        let began = self.clock.monotonic();
        loop {
            let ended =
                child.try_wait().map_err(|error| Error::Database(format!("{}: {error}", self.name)))?;
            if let Some(status) = ended {
                return Ok(status);
            }
            if self.clock.monotonic().saturating_sub(began) >= self.limit {
                // It has not been waited for, so its number cannot be another's by now.
                let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
                let _ = child.wait();
                return Err(self.too_slow());
            }
            thread::park_timeout(LOOK);
        }
    }

    fn too_slow(&self) -> Error {
        let why = if database::is_locked() {
            "another program holds /etc/.pwd.lock; `fuser /etc/.pwd.lock` says which"
        } else {
            "raise account.time_limit if this machine is that slow"
        };
        Error::Database(format!("{} did not end within {} s: {why}", self.name, self.limit.as_secs()))
    }
}

impl Done {
    /// The exit code; none after a signal.
    pub(super) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// An error if it did not end well.
    pub(super) fn success(self) -> Result<(), Error> {
        if self.status.success() { Ok(()) } else { Err(self.failure()) }
    }

    /// The error that it did not end well.
    pub(super) fn failure(&self) -> Error {
        let said = if self.said.is_empty() { "it said nothing" } else { self.said.as_str() };
        Error::Database(format!("{} failed ({}): {said}", self.name, self.status))
    }
}

/// What a program says, in one line.
fn listen(mut reader: PipeReader) -> String {
    let (mut kept, mut part) = (Vec::new(), [0; 1024]);
    while let Ok(length @ 1..) = reader.read(&mut part) {
        let room = MAX_SAID.saturating_sub(kept.len()).min(length);
        kept.extend_from_slice(part.get(..room).unwrap_or_default());
    }
    let lines: Vec<String> = String::from_utf8_lossy(&kept).lines().map(plain).collect();
    lines.join("; ")
}

fn plain(line: &str) -> String {
    line.trim().chars().filter(|c| !c.is_control()).collect()
}

fn package(name: &str) -> &'static str {
    match name {
        "unix_chkpwd" => "it comes with PAM (Debian: libpam-modules-bin; Fedora: pam; SUSE: pam)",
        _ => "it comes with the shadow tools (Debian: passwd; Fedora: shadow-utils; SUSE: shadow)",
    }
}
