//! How much a running process logs: as configured, as an operator said since, or more for a while.
//!
//! The operator's word is a small file beside the data (`logs.level_file`) that every process of the deployment on this
//! machine looks at. There is a filter in it and nothing else. Whoever can write it makes logs longer or shorter, and no
//! level shows a secret. What cannot be read changes nothing.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::{enabled, info, warn};
use tracing_subscriber::EnvFilter;

use crate::config::{Config, Logs};
use crate::telemetry;

/// The most bytes of a filter.
const LONGEST: usize = 1024;

/// A level that is not taken, or a file of one that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LevelError {
    /// Not a filter.
    #[error(
        "«{level}» is no level: {why}; say error, warn, info, debug or trace, or a filter like \
         \"info,keyturn_rotator=debug\""
    )]
    Filter {
        /// What was said, without what a terminal would act on.
        level: String,
        /// Why not.
        why: String,
    },
    /// The file cannot be read or written.
    #[error("{}: {source}; let this user write in its folder, or name another file in logs.level_file", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// The crates that log. A filter may name a part of one (`keyturn_rotator::handler`), or the beginning of some.
const OURS: [&str; 15] = [
    "keyturn",
    "keyturn_agent",
    "keyturn_azure",
    "keyturn_domain",
    "keyturn_embedded",
    "keyturn_ingress",
    "keyturn_notifier",
    "keyturn_ops",
    "keyturn_pipeline",
    "keyturn_ports",
    "keyturn_postgres",
    "keyturn_rotator",
    "keyturn_schemas",
    "keyturn_service",
    "keyturn_validator",
];

/// Whether a part of a filter names something of ours that there is not. Of other crates nobody can tell.
fn is_nobody(part: &str) -> bool {
    let target = part.split(['=', '[']).next().unwrap_or_default().trim();
    let (name, within) = target.split_once("::").map_or((target, false), |(name, _)| (name, true));
    let known = |one: &str| if within { one == name } else { one.starts_with(name) };
    name.starts_with("keyturn") && !OURS.into_iter().any(known)
}

/// Whether this is a filter that says what it seems to say: a single word that is no level would be taken for the name
/// of a part of the program, and a part that there is not would be waited for in vain.
///
/// # Errors
/// [`LevelError::Filter`].
pub fn check(level: &str) -> Result<(), LevelError> {
    let wrong = |why: &str| {
        let shown: String = level.chars().filter(|one| !one.is_control()).take(64).collect();
        Err(LevelError::Filter { level: shown, why: why.to_owned() })
    };
    if level.trim().is_empty() || level.len() > LONGEST || level.chars().any(char::is_control) {
        return wrong("it is empty, longer than 1024 bytes, or of more than one line");
    }
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    let bare = level.split(',').map(str::trim).find(|part| {
        !part.contains(['=', '[', ']', '}']) && !levels.iter().any(|level| part.eq_ignore_ascii_case(level))
    });
    if let Some(bare) = bare {
        return wrong(&format!("«{bare}» is none of {}", levels.join(", ")));
    }
    if let Some(nobody) = level.split(',').map(str::trim).find(|part| is_nobody(part)) {
        let target = nobody.split(['=', '[']).next().unwrap_or_default();
        return wrong(&format!("there is no part «{target}» of Keyturn; its parts are {}", OURS.join(", ")));
    }
    EnvFilter::try_new(level).map_or_else(|error| wrong(&error.to_string()), |_| Ok(()))
}

/// Where the operator's word is, by this configuration.
pub fn file_of(config: &Config) -> PathBuf {
    config.sections.logs.level_file.clone().unwrap_or_else(|| {
        let mut name = config.sections.data.file.as_os_str().to_owned();
        name.push(".log-level");
        name.into()
    })
}

/// What the operator said last; None if nothing, or that it be as configured.
///
/// # Errors
/// [`LevelError`].
pub fn said(file: &Path) -> Result<Option<String>, LevelError> {
    let failed = |source| LevelError::File { file: file.to_owned(), source };
    match file.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
        // Neither followed nor waited for.
        Ok(found) if !found.is_file() => return Err(failed(io::Error::other("it is no plain file"))),
        Ok(_) => {}
    }
    let mut text = String::new();
    let most = u64::try_from(LONGEST).unwrap_or(u64::MAX).saturating_add(2);
    let read = fs::File::open(file).and_then(|found| found.take(most).read_to_string(&mut text));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
        Ok(_) => {}
    }
    let level = text.trim_end_matches('\n').to_owned();
    check(&level)?;
    Ok(Some(level))
}

/// Has every process that looks at the file log so. It is there whole or not at all.
///
/// # Errors
/// [`LevelError`].
pub fn say(file: &Path, level: &str) -> Result<(), LevelError> {
    check(level)?;
    let mut beside = file.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(beside);
    let written = || {
        // Roles that are users of their own read it; there is no secret in it.
        let mut written = OpenOptions::new().write(true).create_new(true).mode(0o664).open(&beside)?;
        writeln!(written, "{level}")?;
        fs::rename(&beside, file)
    };
    written().map_err(|source| {
        drop(fs::remove_file(&beside));
        LevelError::File { file: file.to_owned(), source }
    })
}

/// Has every process log as configured. Returns whether anything else was said before.
///
/// # Errors
/// [`LevelError::File`].
pub fn reset(file: &Path) -> Result<bool, LevelError> {
    match fs::remove_file(file) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(LevelError::File { file: file.to_owned(), source }),
    }
}

/// How much this process logs.
pub(crate) struct Levels {
    /// The configuration file, unless the level came from the command line.
    config: Option<PathBuf>,
    file: PathBuf,
    state: Mutex<State>,
}

struct State {
    configured: Logs,
    said: Option<String>,
    /// The last that could not be read, which is told once.
    unusable: Option<String>,
    more: bool,
}

impl Levels {
    /// That of a process with this configuration, which logs as it says so far.
    pub(crate) fn of(config: &Config) -> Self {
        let configured = config.sections.logs.clone();
        let state = State { configured, said: None, unusable: None, more: false };
        Self { config: config.file.clone(), file: file_of(config), state: Mutex::new(state) }
    }

    /// Takes what the operator says now.
    pub(crate) fn look(&self) {
        let found = said(&self.file);
        let mut state = self.state();
        match found {
            Ok(said) if said == state.said => state.unusable = None,
            Ok(said) => {
                state.unusable = None;
                let before = std::mem::replace(&mut state.said, said);
                let what = "an operator changed the log level";
                if !state.apply(what) {
                    warn!(level = state.level(), "this log level cannot be used, the one in use stays");
                    state.said = before;
                }
            }
            Err(error) => {
                let error = error.to_string();
                if state.unusable.as_ref() != Some(&error) {
                    warn!(error, "what was said about the log level cannot be read, the one in use stays");
                    state.unusable = Some(error);
                }
            }
        }
    }

    /// Takes the level from the configuration file as it is now; nothing else of it. A file that cannot be used, or a
    /// level that cannot be read, leaves everything as it is. What an operator said goes before it.
    pub(crate) fn reread(&self) {
        self.look();
        let Some(file) = &self.config else { return };
        let logs = match Config::load(file) {
            Ok(config) => config.sections.logs,
            Err(error) => {
                warn!(error = %error, "the configuration cannot be used, the log level stays as it is");
                return;
            }
        };
        let mut state = self.state();
        if logs.level == state.configured.level {
            return;
        }
        state.configured = logs;
        state.apply("the log level was read again");
    }

    /// Logs from `debug` up, and the next time as before.
    pub(crate) fn toggle(&self) {
        let mut state = self.state();
        state.more = !state.more;
        if telemetry::log_more(&state.in_force(), state.more) {
            info!(debug = state.more, "told to log more, or as configured");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn level(&self) -> &str {
        self.said.as_deref().unwrap_or(&self.configured.level)
    }

    fn in_force(&self) -> Logs {
        Logs { level: self.level().to_owned(), ..self.configured.clone() }
    }

    /// Puts what is in force to use, and says so under the old level or the new, whichever shows it.
    fn apply(&self, what: &'static str) -> bool {
        let shown = enabled!(tracing::Level::INFO);
        if shown {
            info!(level = self.level(), "{what}");
        }
        let done = telemetry::log_more(&self.in_force(), self.more);
        if done && !shown {
            info!(level = self.level(), "{what}");
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_level_is_refused_with_the_mend() {
        for good in ["debug", "INFO", "off", "info,keyturn_rotator=debug", "warn,[{request.id}]=trace"] {
            check(good).unwrap();
        }
        for bad in ["", " ", "debgu", "info,keyturn_rotator", "keyturn=loud", "info\ntrace", "info\u{1b}[2J"]
        {
            let error = check(bad).unwrap_err().to_string();
            assert!(error.contains("is no level") && error.contains("keyturn_rotator=debug"), "{error}");
            assert!(!error.contains(['\n', '\u{1b}']), "{error:?}");
        }
        for good in
            ["hyper=debug", "keyturn=debug", "keyturn_rotator::handler=trace", "warn,keyturn_ro[a]=info"]
        {
            check(good).unwrap();
        }
        for bad in ["info,keyturn_rotatr=debug", "keyturn_rot::handler=trace", "keyturns[{a=1}]=info"] {
            let error = check(bad).unwrap_err().to_string();
            assert!(
                error.contains("there is no part «keyturn") && error.contains("keyturn_rotator,"),
                "{error}"
            );
        }
        check(&format!("info,{}=debug", "x".repeat(LONGEST))).unwrap_err();
    }

    /// A crate that is added can be named in a filter.
    #[test]
    fn every_crate_of_ours_can_be_named() {
        let manifest = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml")).unwrap();
        let crates: Vec<_> = manifest
            .lines()
            .filter(|line| line.starts_with("keyturn-") && line.contains("path = "))
            .filter_map(|line| line.split_once(' ').map(|(name, _)| name.replace('-', "_")))
            .filter(|name| name != "keyturn_testkit")
            .collect();
        assert!(crates.len() > 10, "{crates:?}");
        for name in crates {
            assert!(OURS.contains(&name.as_str()), "{name}");
        }
    }

    #[test]
    fn a_level_is_said_read_and_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("level");
        assert_eq!(said(&file).unwrap(), None);
        assert!(!reset(&file).unwrap());
        say(&file, "debug").unwrap();
        say(&file, "info,keyturn_rotator=debug").unwrap();
        assert_eq!(said(&file).unwrap().as_deref(), Some("info,keyturn_rotator=debug"));
        say(&file, "debgu").unwrap_err();
        assert_eq!(said(&file).unwrap().as_deref(), Some("info,keyturn_rotator=debug"));
        assert!(reset(&file).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn what_somebody_else_put_there_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("level");
        fs::write(&file, "x".repeat(1 << 20)).unwrap();
        assert!(said(&file).unwrap_err().to_string().contains("1024 bytes"));
        fs::write(&file, [0xff, 0xfe]).unwrap();
        said(&file).unwrap_err();
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &file).unwrap();
        assert!(said(&file).unwrap_err().to_string().contains("no plain file"));
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        said(&file).unwrap_err();
        let missing = folder.path().join("missing/level");
        assert!(say(&missing, "debug").unwrap_err().to_string().contains("logs.level_file"));
    }
}
