//! What a process asks its engines, and which of them it cannot do without.

use std::pin::Pin;
use std::sync::Arc;

use keyturn_domain::ids::DeviceId;
use keyturn_ports::queue::{Queue, QueueName};
use keyturn_ports::vault::VaultReader;
use keyturn_ports::{Error, Kind};

use crate::config::Config;
use crate::engines::Engines;
use crate::keys::{KeyError, KeyStore};
use crate::shell::StartError;

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All roles in one process.
    All,
    /// The ingress.
    Ingress,
    /// The validator.
    Validator,
    /// The rotator.
    Rotator,
    /// The notifier.
    Notifier,
}

/// What a process is to an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// It does none of its work without it.
    Needs,
    /// Some of its work waits while it is away.
    Waits,
    /// It has nothing to do with it.
    Not,
}

impl Part {
    /// The role of this name.
    pub(crate) fn of(role: &str) -> Self {
        match role {
            "ingress" => Self::Ingress,
            "validator" => Self::Validator,
            "rotator" => Self::Rotator,
            _ => Self::Notifier,
        }
    }

    /// Messages on a hop with an engine of its own. Only who leases from it or sends to it itself needs it: what a
    /// commit sends is in the state, and carried over by who works on the hop.
    fn of_hop(self, hop: QueueName) -> Use {
        match (self, hop) {
            (Self::Validator, QueueName::Requests | QueueName::Findings)
            | (Self::Rotator, QueueName::Findings)
            | (Self::Notifier, QueueName::Outcomes) => Use::Needs,
            (Self::All, _) | (Self::Ingress, QueueName::Requests) | (Self::Notifier, QueueName::Alarms) => {
                Use::Waits
            }
            _ => Use::Not,
        }
    }

    /// The vault's, and what signs: no answer goes out without either.
    fn of_vault(self) -> Use {
        match self {
            Self::Rotator => Use::Needs,
            Self::All => Use::Waits,
            _ => Use::Not,
        }
    }

    fn of_directory(self) -> Use {
        match self {
            Self::Validator => Use::Needs,
            Self::All => Use::Waits,
            _ => Use::Not,
        }
    }

    fn of_logs(self) -> Use {
        match self {
            Self::All | Self::Notifier => Use::Waits,
            _ => Use::Not,
        }
    }
}

type Answering = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// An engine and a question that it answers whenever it is there.
pub(crate) struct Asked {
    /// Its name in `/readyz` and metrics.
    pub(crate) name: &'static str,
    /// Whether the process is unready without it.
    pub(crate) needed: bool,
    /// The question: it changes nothing and is allowed to whoever uses the engine.
    pub(crate) ask: Box<dyn Fn() -> Answering + Send + Sync>,
}

impl Asked {
    fn new<F>(name: &'static str, usage: Use, ask: impl Fn() -> F + Send + Sync + 'static) -> Option<Self>
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let needed = match usage {
            Use::Needs => true,
            Use::Waits => false,
            Use::Not => return None,
        };
        Some(Self { name, needed, ask: Box::new(move || Box::pin(ask())) })
    }
}

/// The name of a hop's own engine.
pub(crate) const fn of_hop(hop: QueueName) -> &'static str {
    match hop {
        QueueName::Requests => "queue_requests",
        QueueName::Findings => "queue_findings",
        QueueName::Outcomes => "queue_outcomes",
        QueueName::Alarms => "queue_alarms",
    }
}

/// The engines that a part of the deployment uses. What is in the state is not asked for by itself.
pub(crate) fn asked(
    part: Part,
    engines: &Engines,
    keys: &KeyStore,
    config: &Config,
) -> Result<Vec<Asked>, StartError> {
    let state = engines.state_queue();
    let mut all = vec![Asked::new("state", Use::Needs, move || depth(Arc::clone(&state)))];
    for (hop, engine) in engines.hops_outside() {
        let (hop, engine) = (*hop, Arc::clone(engine));
        let ask = move || {
            let engine = Arc::clone(&engine);
            async move { engine.probe(hop).await }
        };
        all.push(Asked::new(of_hop(hop), part.of_hop(hop), ask));
    }
    let entropy = engines.entropy();
    let nobody = move || DeviceId::from_bytes(entropy.bytes());
    if let Some(vault) = engines.key_vault() {
        let nobody = nobody.clone();
        all.push(Asked::new("vault", part.of_vault(), move || {
            let (vault, nobody) = (vault.clone(), nobody());
            async move { vault.history(nobody).await.map(drop) }
        }));
    }
    if config.signing.key.is_some() {
        let keys = keys.clone();
        all.push(Asked::new("signing", part.of_vault(), move || {
            let keys = keys.clone();
            async move { keys.check_signing().await.map_err(unsigned) }
        }));
    }
    if engines.directory_admin().is_none() {
        let directory = engines.directory();
        all.push(Asked::new("directory", part.of_directory(), move || {
            let (directory, nobody) = (Arc::clone(&directory), nobody());
            async move { directory.look_up(vec![nobody]).await.pop().map_or(Ok(()), |answer| answer.map(drop)) }
        }));
    }
    if part.of_logs() != Use::Not
        && let Some((logs, settings)) =
            engines.logs(config).map_err(StartError::service)?.zip(config.logs.as_ref())
    {
        let stream = settings.audit_stream.clone();
        all.push(Asked::new("logs", part.of_logs(), move || {
            let (logs, stream) = (logs.clone(), stream.clone());
            async move { logs.probe(&stream).await.map(drop) }
        }));
    }
    Ok(all.into_iter().flatten().collect())
}

async fn depth(state: Arc<dyn Queue>) -> Result<(), Error> {
    state.depth(QueueName::Requests).await.map(drop)
}

fn unsigned(error: KeyError) -> Error {
    match error {
        KeyError::Signer { error, .. } => error,
        other => Error::new(Kind::Denied, "looking at the signing key", other.to_string()),
    }
}
