//! The agent: one device, one account, one server.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use keyturn_domain::ambient::{SystemClock, SystemEntropy};
use keyturn_domain::clock::Clock;
use keyturn_domain::entropy::Entropy;

use crate::accounts::Accounts;
use crate::client::Client;
use crate::cycle::{self, Context};
use crate::journal_file::JournalFile;
use crate::key_set::KeySets;
use crate::lock::{self, Lock};
use crate::observer::Observer;
use crate::outcome::Outcome;
use crate::settings::Settings;
use crate::status::{LastRun, Status};
use crate::transport::{self, Http, Transport};
use crate::{backoff, disk, events};

/// The first pause after a run that failed, while the agent runs as a service.
const FIRST_PAUSE: Duration = Duration::from_secs(30);

/// What an agent is given besides its settings.
#[derive(Clone)]
pub struct Deps {
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where randomness comes from.
    pub entropy: Arc<dyn Entropy>,
    /// The managed account.
    pub accounts: Arc<dyn Accounts>,
    /// Who watches.
    pub observer: Arc<dyn Observer>,
}

/// An agent. Cheap to make and to drop: everything that lasts is in its state folder.
#[derive(Clone)]
pub struct Agent {
    context: Arc<Context>,
}

/// The agent cannot work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another agent is at work.
    #[error(transparent)]
    Lock(#[from] lock::Error),
    /// The agent's own files cannot be read or written.
    #[error(transparent)]
    Disk(#[from] disk::Error),
    /// The connection to the server cannot be set up.
    #[error(transparent)]
    Transport(#[from] transport::Error),
    /// The run came to nothing.
    #[error(transparent)]
    Run(#[from] cycle::Error),
}

impl Error {
    /// The stable word for it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Lock(lock::Error::Held(_)) => "locked",
            Self::Lock(_) | Self::Disk(_) => "disk",
            Self::Transport(_) => "setup",
            Self::Run(error) => error.code(),
        }
    }

    /// The error and its causes in one line.
    pub fn chain(&self) -> String {
        chain(self)
    }
}

impl Deps {
    /// The machine's clock and randomness, and nobody who watches.
    pub fn system(accounts: Arc<dyn Accounts>) -> Self {
        Self {
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            accounts,
            observer: Arc::new(()),
        }
    }

    /// With somebody who watches.
    pub fn observed(self, observer: Arc<dyn Observer>) -> Self {
        Self { observer, ..self }
    }
}

impl Agent {
    /// An agent that speaks to the server of its settings. Creates the state folder if need be.
    pub fn new(settings: Settings, deps: Deps) -> Result<Self, Error> {
        let transport = Http::new(&settings)?;
        Self::over(settings, deps, Arc::new(transport))
    }

    /// An agent that speaks over `transport`.
    pub fn over(settings: Settings, deps: Deps, transport: Arc<dyn Transport>) -> Result<Self, Error> {
        disk::create_folder(&settings.state)?;
        let (root, deployment) = (settings.root.clone(), settings.deployment.clone());
        let keys = KeySets::load(settings.state.join("key-set.jws"), root, deployment)?;
        let Deps { clock, entropy, accounts, observer } = deps;
        let client = Client::new(transport, keys, clock.clone(), entropy.clone(), settings.timing.clone());
        let file = JournalFile::new(&settings.state);
        Ok(Self { context: Arc::new(Context { settings, clock, entropy, accounts, observer, client, file }) })
    }

    /// Lets the device's key sign, before anything is asked of the server.
    pub async fn prove_key(&self) -> Result<(), Error> {
        let proved = self.context.settings.identity.prove().await;
        proved.map_err(|error| Error::Run(cycle::Error::Sign(error)))
    }

    /// Runs once: asks for a password, and if one comes, sets, proves and reports it. May be given up at any
    /// point by dropping it; an account that is being changed is brought to rest all the same.
    pub async fn once(&self) -> Result<Outcome, Error> {
        let lock = self.lock()?;
        self.run_and_remember(&lock).await
    }

    /// Runs again and again, every check-in interval, until `stop` is done. The first run comes at once when there
    /// is something to do for all the agent knows; otherwise some time within the splay, so that machines that get
    /// their power back at one moment do not all arrive at the next.
    pub async fn run(&self, stop: impl Future<Output = ()>) -> Result<(), Error> {
        let lock = self.lock()?;
        let mut stop = pin!(stop);
        let mut failures = 0;
        let splay = backoff::share(self.splay()?, &*self.context.entropy);
        tokio::select! {
            () = tokio::time::sleep(splay) => {}
            () = &mut stop => return Ok(()),
        }
        loop {
            let outcome = tokio::select! {
                outcome = self.run_and_remember(&lock) => outcome,
                () = &mut stop => return Ok(()),
            };
            let pause = self.pause(&outcome, &mut failures);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = &mut stop => return Ok(()),
            }
        }
    }

    /// What the agent knows of itself.
    pub fn status(&self) -> Result<Status, Error> {
        Ok(Status::read(&self.context.settings, self.context.accounts.name().as_str())?)
    }

    /// Over how long the first run is spread.
    fn splay(&self) -> Result<Duration, Error> {
        let now = self.context.clock.now();
        let rested = self.status()?.is_at_rest(now);
        Ok(if rested { self.context.settings.splay } else { Duration::ZERO })
    }

    fn lock(&self) -> Result<Arc<Lock>, Error> {
        Ok(Arc::new(Lock::take(&self.context.settings.state)?))
    }

    async fn run_and_remember(&self, lock: &Arc<Lock>) -> Result<Outcome, Error> {
        let outcome = cycle::run(self.context.clone(), lock.clone()).await.map_err(Error::from);
        let now = self.context.clock.now();
        let (code, line, next) = match &outcome {
            Ok(outcome) => (outcome.code(), outcome.to_string(), outcome.retry_at(now)),
            Err(error) => (error.code(), failure_line(error), None),
        };
        events::finished(&line);
        LastRun { at: now, code: code.to_owned(), line, next }.save(&self.context.settings.state);
        outcome
    }

    /// How long to wait after a run. A server that asks for patience gets it. After a failure, soon and then
    /// less and less often; otherwise the check-in interval, because a rotation can be asked for at any time,
    /// long before one is due.
    fn pause(&self, outcome: &Result<Outcome, Error>, failures: &mut u32) -> Duration {
        let (check_in, entropy) = (self.context.settings.check_in, &*self.context.entropy);
        match outcome {
            Ok(Outcome::Throttled { after }) => *after + backoff::spread(FIRST_PAUSE, entropy),
            Ok(outcome) if outcome.is_success() || matches!(outcome, Outcome::Held { .. }) => {
                *failures = 0;
                backoff::spread(check_in, entropy)
            }
            _ => {
                *failures = failures.saturating_add(1);
                backoff::pause(*failures, FIRST_PAUSE.min(check_in), check_in, entropy)
            }
        }
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line
}

/// One line about a run that failed.
pub(crate) fn failure_line(error: &Error) -> String {
    format!("Failed: {}. code={}", error.chain(), error.code())
}
