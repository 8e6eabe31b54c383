//! One run: ask, wait, set, report.
//!
//! Order is everything. The journal is brought up to date with the account before anything is said; one message
//! is under way at a time; an answer is checked in full before anything is journaled; the journal is on disk
//! before the account is touched; the report comes last and may be lost, because its content rides in the next
//! request.

mod exchange;

use std::sync::Arc;
use std::time::Duration;

use keyturn_domain::clock::Clock;
use keyturn_domain::entropy::Entropy;
use keyturn_domain::ids::{LaneId, RequestId};
use keyturn_domain::journal::Journal;
use keyturn_schemas::claims::ReportOp;
use keyturn_schemas::result::{Answer, Code};
use keyturn_schemas::seal;

use self::exchange::{Sent, Waited};
use crate::accounts::{Accounts, Found};
use crate::answer::{Ephemeral, Offer, Rejection};
use crate::apply::{Applied, Bench};
use crate::client::{self, Client, Endpoint};
use crate::compose::Speaker;
use crate::journal_file::JournalFile;
use crate::lock::Lock;
use crate::observer::{Observer, Stage};
use crate::outcome::Outcome;
use crate::settings::Settings;
use crate::{accounts, answer, apply, disk, events, identity, install};

/// How often one run asks anew when the server says that a request is stale or unknown.
const ASKS: u32 = 4;

/// Everything a run works with.
pub(crate) struct Context {
    pub(crate) settings: Settings,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) accounts: Arc<dyn Accounts>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) client: Client,
    pub(crate) file: JournalFile,
}

/// A run that came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The agent's own files cannot be read or written.
    #[error(transparent)]
    Disk(#[from] disk::Error),
    /// The account cannot be read or created.
    #[error("the managed account cannot be used")]
    Accounts(#[from] accounts::Error),
    /// There is no account and none may be created.
    #[error("the managed account does not exist, and `create` is off")]
    AccountMissing,
    /// A message could not be made.
    #[error("the message could not be signed")]
    Sign(#[from] identity::Error),
    /// No ephemeral key could be made.
    #[error("no ephemeral key could be made")]
    Seal(#[from] seal::SealError),
    /// The server did not take a message.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// No trustworthy answer in time.
    #[error("no answer that can be trusted came within {} s", .0.as_secs())]
    NoAnswer(Duration),
    /// The server kept asking for another request.
    #[error("the server called {ASKS} requests in a row stale or unknown")]
    NoProgress,
}

impl Error {
    /// The stable word for it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Disk(_) => "disk",
            Self::Accounts(_) | Self::AccountMissing => "account",
            Self::Sign(_) | Self::Seal(_) => "key",
            Self::Client(client::Error::Rejected(_)) => "rejected",
            Self::Client(_) => "unreachable",
            Self::NoAnswer(_) => "no_answer",
            Self::NoProgress => "no_progress",
        }
    }
}

/// What became of a request.
enum Asked {
    Anew,
    Done(Outcome),
    Offered(Offer),
}

/// A run under way.
struct Run {
    context: Arc<Context>,
    lock: Arc<Lock>,
    speaker: Speaker,
    lane: LaneId,
    journal: Journal,
}

/// Runs once. `lock` is what makes it the only run on this device; it is held until the account is at rest.
pub(crate) async fn run(context: Arc<Context>, lock: Arc<Lock>) -> Result<Outcome, Error> {
    let mut run = Run::prepare(context, lock).await?;
    match run.rotate().await {
        Err(Error::Client(client::Error::Throttled(after))) => Ok(Outcome::Throttled { after }),
        outcome => outcome,
    }
}

impl Run {
    /// Brings the journal up to date with the account.
    async fn prepare(context: Arc<Context>, lock: Arc<Lock>) -> Result<Self, Error> {
        let settings = &context.settings;
        let now = context.clock.now();
        let install = install::load(&settings.state, settings.machine.as_deref(), &*context.entropy, now)?;
        let (found, missing) = presence(&context).await?;
        let speaker = Speaker::new(install, &found, missing, &*context.accounts);
        let lane = speaker.lane(settings);
        let mut journal = context.file.load(now)?;
        let knew = journal.cur.is_some();
        if journal.at_start(lane, found.mark) {
            context.file.save(&journal)?;
            if knew {
                events::current_unknown(&journal);
            }
        }
        events::check_in(settings.device, lane, context.client.begin().as_deref());
        Ok(Self { context, lock, speaker, lane, journal })
    }

    async fn rotate(&mut self) -> Result<Outcome, Error> {
        for _ in 0..ASKS {
            match self.ask().await? {
                Asked::Anew => {}
                Asked::Done(outcome) => return Ok(outcome),
                Asked::Offered(offer) => return self.settle(offer).await,
            }
        }
        Err(Error::NoProgress)
    }

    /// Sends one request and waits for its answer.
    async fn ask(&self) -> Result<Asked, Error> {
        let settings = &self.context.settings;
        let (sent, ephemeral) = self.request().await?;
        events::requested(sent.rid);
        self.context.observer.reached(Stage::Requested(sent.rid));
        let mut offer = None;
        let waited = self.wait_for(&sent, |answer| {
            offer = read_offer(answer, &ephemeral)?;
            Ok(())
        });
        match waited.await? {
            Waited::Refused => Ok(Asked::Done(Outcome::Refused)),
            Waited::Gone => {
                events::ask_anew("the server does not know its ticket any more");
                Ok(Asked::Anew)
            }
            Waited::Answered(_) if self.age(&sent) > settings.wait => Ok(Asked::Done(Outcome::Expired)),
            Waited::Answered(answer) => {
                self.context.observer.reached(Stage::Answered(answer.code));
                Ok(heed(&answer, offer))
            }
        }
    }

    /// Sets a version and reports what became of it.
    async fn settle(&mut self, offer: Offer) -> Result<Outcome, Error> {
        let version = offer.version;
        let (context, lock, mut journal) = (self.context.clone(), self.lock.clone(), self.journal.clone());
        let (applied, journal) = blocking(move || {
            let bench =
                Bench { file: &context.file, accounts: &*context.accounts, observer: &*context.observer };
            let applied = apply::apply(&mut journal, &offer, &bench);
            // Nobody else may start before the account is at rest, even if the run that waits here is given up.
            drop(lock);
            (applied, journal)
        })
        .await;
        self.journal = journal;
        match applied? {
            Applied::Proved => {
                self.speaker.password_set = Some(self.context.clock.now().0 / 1000);
                let recorded = self.report(ReportOp::Applied).await;
                Ok(Outcome::Rotated { version, recorded })
            }
            Applied::Refused => {
                let recorded = self.report(ReportOp::Refused).await;
                Ok(Outcome::AccountRefused { version, recorded })
            }
            Applied::Unproved => Ok(Outcome::Unproved { version }),
        }
    }

    /// Reports, and says whether the server confirmed it. Nothing depends on it: the next request says the same.
    async fn report(&self, op: ReportOp) -> bool {
        match self.try_report(op).await {
            Ok(rid) => {
                events::recorded(rid);
                self.context.observer.reached(Stage::Recorded(rid));
                true
            }
            Err(error) => {
                events::not_recorded(&error);
                false
            }
        }
    }

    async fn try_report(&self, op: ReportOp) -> Result<RequestId, Error> {
        let wait = self.context.settings.timing.report_wait;
        for _ in 0..ASKS {
            let draft = |common| Ok((self.speaker.report(common, &self.journal, op), ()));
            let (sent, ()) = self.send(Endpoint::Reports, wait, draft).await?;
            self.context.observer.reached(Stage::Reported(sent.rid));
            let waited = self.wait_for(&sent, |answer| match answer.code {
                Code::Recorded | Code::Stale => Ok(()),
                other => Err(Rejection::Code(other)),
            });
            match waited.await? {
                Waited::Answered(answer) if answer.code == Code::Recorded => return Ok(sent.rid),
                Waited::Answered(_) | Waited::Gone => {}
                Waited::Refused => return Err(Error::NoAnswer(wait)),
            }
        }
        Err(Error::NoProgress)
    }

    async fn request(&self) -> Result<(Sent, Ephemeral), Error> {
        let settings = &self.context.settings;
        let draft = |common| {
            let (secret, public) = seal::generate()?;
            let claims = self.speaker.request(common, &self.journal, public, settings);
            Ok((claims, Ephemeral { secret, public }))
        };
        self.send(Endpoint::Requests, settings.wait, draft).await
    }
}

/// What to do about an answer that passed every check.
fn heed(answer: &Answer, offer: Option<Offer>) -> Asked {
    if let Some(offer) = offer {
        events::version_received(answer.rid, offer.version);
        return Asked::Offered(offer);
    }
    events::nothing_to_set(answer.rid, answer.code);
    let retry_at = answer.retry_at;
    match answer.code {
        Code::NotDue => Asked::Done(Outcome::NotDue { retry_at }),
        Code::Held => Asked::Done(Outcome::Held { retry_at }),
        Code::Expired => Asked::Done(Outcome::Expired),
        Code::Refused => Asked::Done(Outcome::Refused),
        Code::Stale | Code::Rotate | Code::Recorded => {
            events::ask_anew("a newer message of this device was known already");
            Asked::Anew
        }
    }
}

/// The version in an answer to a request, if there has to be one.
fn read_offer(answer: &Answer, ephemeral: &Ephemeral) -> Result<Option<Offer>, Rejection> {
    match answer.code {
        Code::Rotate => answer::open(answer, ephemeral).map(Some),
        Code::Recorded => Err(Rejection::Code(Code::Recorded)),
        _ => Ok(None),
    }
}

/// The account, created if it was missing, and whether it was.
async fn presence(context: &Arc<Context>) -> Result<(Found, bool), Error> {
    let (accounts, create) = (context.accounts.clone(), context.settings.create_account);
    blocking(move || {
        accounts.restore()?;
        match accounts.find()? {
            Some(found) => Ok((found, false)),
            None if create => {
                let found = accounts.create()?;
                events::account_created(found.id.as_str());
                Ok((found, true))
            }
            None => Err(Error::AccountMissing),
        }
    })
    .await
}

/// Runs work that blocks, away from the executor. Its panics are the caller's.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is being shut down, and this future with it.
            Err(_) => std::future::pending().await,
        },
    }
}
