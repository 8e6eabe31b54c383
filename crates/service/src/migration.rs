//! Moving the state of a deployment from the embedded file to PostgreSQL, and back as long as nothing came after.
//!
//! | step | the file says | the database says | if it ends here |
//! |---|---|---|---|
//! | begin | leaving | | nobody works with the file; the same command goes on |
//! | take | leaving | arriving | nobody works with either |
//! | copy, in batches | leaving | arriving, and how far | the same command goes on behind the last batch |
//! | compare every row, twice read | leaving | arriving | it is compared once more |
//! | mark the file | gone | arriving | it is compared once more |
//! | open the database | gone | arrived | it is done |
//!
//! So at every instant at most one of the two can be worked with, and it has everything. The file is held alone all the
//! while, and keeps all it had.

mod problem;

use std::collections::BTreeSet;
use std::sync::Arc;

use keyturn_domain::ambient::{SystemClock, SystemEntropy};
use keyturn_domain::clock::Clock as _;
use keyturn_embedded::{Departure, Left, OpenOptions};
use keyturn_ports::audit::{Action, NewRow, Verified};
use keyturn_ports::moving::{self, Count, Page, Row, Table, Tally};
use keyturn_postgres::{Arrival, Here, State};

pub use self::problem::Problem;
use crate::config::{Config, VaultEngine};
use crate::keys::KeyStore;

/// What is to move, and who says so.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// The deployment as it is, on the file.
    pub from: &'a Config,
    /// The deployment as it is to be, on PostgreSQL.
    pub to: &'a Config,
    /// Who, for the audit.
    pub actor: &'a str,
    /// Why, for the audit.
    pub reason: &'a str,
    /// How many rows are read and stored at once; at least 1.
    pub batch: u32,
}

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The chain of the file's audit is checked.
    VerifyingOrigin,
    /// The file is marked: its state is leaving.
    Begin,
    /// A table is copied.
    Copying(Table),
    /// Numbers and counters are set.
    Settling,
    /// Both copies of a table are read and compared.
    Comparing(Table),
    /// The chain of the database's audit is checked.
    VerifyingDestination,
    /// The file is marked: its state has left.
    End,
    /// The database is opened for work.
    Opening,
}

/// Told what is being done, and of how many rows how many are done.
pub type Told<'a> = &'a mut dyn FnMut(Step, u64, u64);

/// What moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The database, in words.
    pub to: String,
    /// Each table, which both sides have alike.
    pub tables: Vec<(Table, Tally)>,
    /// Rows of the audit, linked on both sides.
    pub audit: u64,
}

/// How a move ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The state is in the database.
    Moved(Moved),
    /// It was there before.
    Already(String),
}

/// What would move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The database, in words.
    pub to: String,
    /// Whether some of it has moved.
    pub begun: bool,
    /// Each table and its rows.
    pub tables: Vec<(Table, u64)>,
}

/// Looks what would move, and whether it could. Makes the tables in an empty database, and nothing else.
pub async fn look(order: Order<'_>) -> Result<Plan, Problem> {
    let (origin, destination) = open(order)?;
    let left = origin.left()?;
    may_move(&origin, &destination, left.as_ref()).await?;
    verified(&origin.verify_audit()?, "the file")?;
    let tables = Table::ALL.into_iter().map(|table| Ok((table, origin.count(table)?)));
    let tables = tables.collect::<Result<_, Problem>>()?;
    Ok(Plan { to: destination.place(), begun: left.is_some(), tables })
}

/// Moves the state. May be called again after whatever ended it.
pub async fn migrate(order: Order<'_>, told: Told<'_>) -> Result<Outcome, Problem> {
    let (mut origin, destination) = open(order)?;
    let left = origin.left()?;
    let place = destination.place();
    if may_move(&origin, &destination, left.as_ref()).await? == Standing::There {
        origin.end()?;
        return Ok(Outcome::Already(place));
    }
    told(Step::VerifyingOrigin, 0, 0);
    let audit = verified(&origin.verify_audit()?, "the file")?;
    let left = if let Some(left) = left {
        left
    } else {
        told(Step::Begin, 0, 0);
        origin.begin(&place, &noted(order, &format!("to {place}")))?
    };
    take(&origin, &destination, &left).await?;
    for table in Table::ALL {
        copy(order, &origin, &destination, &left, table, told).await?;
    }
    told(Step::Settling, 0, 0);
    destination.settle(&origin.standing()?).await?;
    let tables = compare(order, &origin, &destination, told).await?;
    if origin.standing()?.shipped != destination.standing().await?.shipped {
        return Err(Problem::Differs { table: "shipped" });
    }
    told(Step::VerifyingDestination, 0, 0);
    let there = verified(&destination.verify_audit().await?, "the database")?;
    destination.analyze().await;
    told(Step::End, 0, 0);
    origin.end()?;
    told(Step::Opening, 0, 0);
    destination.say(left.id, State::Arrived).await?;
    Ok(Outcome::Moved(Moved { to: place, tables, audit: audit.max(there) }))
}

/// Has the file be worked with again. One whose state has left is compared with the database first: what came after
/// would be lost. `danger_leave_behind` does it all the same, also if the database cannot be asked.
pub async fn undo(order: Order<'_>, danger_leave_behind: bool, told: Told<'_>) -> Result<(), Problem> {
    let mut origin = origin(order.from)?;
    let Some(left) = origin.left()? else {
        return Err(Problem::NothingToUndo { path: origin.path().to_owned() });
    };
    if left.ended {
        match leave(order, &origin, &left, danger_leave_behind, told).await {
            // A database that is gone has nobody who works with it.
            Err(Problem::Destination(_)) if danger_leave_behind => {}
            other => other?,
        }
    }
    let older = left.ended && danger_leave_behind;
    let how = if older { "back, leaving behind what came after," } else { "back" };
    Ok(origin.undo(&noted(order, &format!("{how} from {}", left.to)), older)?)
}

/// Has nobody work with the database any more, and looks that it has nothing that the file lacks.
async fn leave(
    order: Order<'_>,
    origin: &Departure,
    left: &Left,
    danger_leave_behind: bool,
    told: Told<'_>,
) -> Result<(), Problem> {
    let destination = destination(order.to)?;
    if destination.here().await?.is_none_or(|here| here.id != left.id) {
        return Err(Problem::OtherState { place: destination.place(), to: left.to.clone() });
    }
    destination.say(left.id, State::Undone).await?;
    let unused = async {
        match destination.in_use().await? {
            0 => compare(order, origin, &destination, told).await.map(drop),
            connections => Err(Problem::InUse { place: destination.place(), connections }),
        }
    };
    match unused.await {
        Err(Problem::Differs { .. }) if danger_leave_behind => Ok(()),
        Err(problem) => {
            destination.say(left.id, State::Arrived).await?;
            Err(match problem {
                Problem::Differs { table } => Problem::CameAfter { place: destination.place(), table },
                other => other,
            })
        }
        Ok(()) => Ok(()),
    }
}

fn open(order: Order<'_>) -> Result<(Departure, Arrival), Problem> {
    fit(order)?;
    Ok((origin(order.from)?, destination(order.to)?))
}

fn origin(config: &Config) -> Result<Departure, Problem> {
    if config.postgres.is_some() {
        return Err(Problem::NotEmbedded);
    }
    let data = &config.sections.data;
    if matches!(data.file.try_exists(), Ok(false)) {
        return Err(Problem::NoDatabase(data.file.clone()));
    }
    let mut options = OpenOptions::new(&data.file, Arc::new(SystemClock), Arc::new(SystemEntropy));
    if let Some(file) = &data.epoch_file {
        options = options.epoch_file(file);
    }
    Ok(Departure::open(options)?)
}

fn destination(config: &Config) -> Result<Arrival, Problem> {
    let settings = config.postgres.as_ref().ok_or(Problem::NotPostgres)?;
    Ok(Arrival::open(settings, Arc::new(SystemClock), Arc::new(SystemEntropy))?)
}

/// Whether both configurations are of one deployment: what moves can be used under the second one alone.
fn fit(order: Order<'_>) -> Result<(), Problem> {
    let Order { from, to, .. } = order;
    if from.postgres.is_some() {
        return Err(Problem::NotEmbedded);
    }
    if to.postgres.is_none() {
        return Err(Problem::NotPostgres);
    }
    let sealed = |config: &Config| matches!(config.vault, VaultEngine::Embedded);
    let rules = [
        (from.deployment != to.deployment, "deployment.name"),
        (from.queues.azure_storage != to.queues.azure_storage, "queues"),
        (from.queues.service_bus != to.queues.service_bus, "queues"),
        (sealed(from) != sealed(to), "vault.engine"),
    ];
    if let Some((_, setting)) = rules.into_iter().find(|(differs, _)| *differs) {
        return Err(Problem::Setting { setting });
    }
    if sealed(from) {
        let keys = |config: &Config| KeyStore::new(config.sections.data.keys.clone()).vault();
        let (had, has) = (keys(from)?, keys(to)?);
        let has: BTreeSet<_> = has.ids().collect();
        if had.ids().any(|id| !has.contains(&id)) {
            return Err(Problem::Keys { folder: to.sections.data.keys.clone() });
        }
    }
    Ok(())
}

/// What is to be done yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Move,
    There,
}

/// Whether the state may move there.
async fn may_move(
    origin: &Departure,
    destination: &Arrival,
    left: Option<&Left>,
) -> Result<Standing, Problem> {
    let place = destination.place();
    let here = destination.here().await?;
    match (left, here) {
        (None, Some(_)) => return Err(Problem::Occupied { place, by: "another move" }),
        (Some(left), None) if left.ended => {
            return Err(Problem::OtherState { place, to: left.to.clone() });
        }
        (_, None) => free(destination).await?,
        (Some(left), Some(here)) if here.id != left.id => {
            return Err(Problem::OtherState { place, to: left.to.clone() });
        }
        (_, Some(Here { state: State::Arrived, .. })) => return Ok(Standing::There),
        (_, Some(Here { state: State::Undone, .. })) => {
            return Err(Problem::HalfUndone { path: origin.path().to_owned() });
        }
        (_, Some(Here { state: State::Arriving, .. })) => unused(destination).await?,
    }
    Ok(Standing::Move)
}

/// Whether the database is empty, and nobody else uses it.
async fn free(destination: &Arrival) -> Result<(), Problem> {
    if let Some(table) = destination.occupied().await? {
        return Err(Problem::Occupied { place: destination.place(), by: table.name() });
    }
    unused(destination).await
}

async fn unused(destination: &Arrival) -> Result<(), Problem> {
    match destination.in_use().await? {
        0 => Ok(()),
        connections => Err(Problem::InUse { place: destination.place(), connections }),
    }
}

/// Takes the database. Whoever opened it just before that is found after it, and the database is let go of.
async fn take(origin: &Departure, destination: &Arrival, left: &Left) -> Result<(), Problem> {
    let known = destination.here().await?.is_some();
    let from = format!("the file {}", origin.path().display());
    let here = destination.take(left.id, &from).await?;
    if here != Some(Here { id: left.id, state: State::Arriving }) {
        return Err(Problem::OtherState { place: destination.place(), to: left.to.clone() });
    }
    if known {
        return Ok(());
    }
    let free = free(destination).await;
    if free.is_err() {
        destination.let_go(left.id).await?;
    }
    free
}

async fn copy(
    order: Order<'_>,
    origin: &Departure,
    destination: &Arrival,
    left: &Left,
    table: Table,
    told: Told<'_>,
) -> Result<(), Problem> {
    let all = origin.count(table)?;
    let mut after = destination.passed(table).await?;
    let mut copied = 0;
    told(Step::Copying(table), copied, all);
    loop {
        let page = origin.page(table, after.as_ref(), order.batch)?;
        let Some(last) = page.last.clone() else { return Ok(()) };
        destination.store(left.id, table, after.as_ref(), &page).await?;
        copied += u64::try_from(page.rows.len()).unwrap_or(0);
        told(Step::Copying(table), copied, all);
        after = Some(last);
    }
}

/// Reads both sides as a whole. What differs is named by its table.
async fn compare(
    order: Order<'_>,
    origin: &Departure,
    destination: &Arrival,
    told: Told<'_>,
) -> Result<Vec<(Table, Tally)>, Problem> {
    let mut tables = Vec::with_capacity(Table::ALL.len());
    for table in Table::ALL {
        let all = origin.count(table)?.saturating_mul(2);
        let mut done = 0;
        told(Step::Comparing(table), done, all);
        let mut count = |page: &Page| {
            done += u64::try_from(page.rows.len()).unwrap_or(0);
            told(Step::Comparing(table), done, all);
        };
        let (mut had, mut after) = (Count::default(), None);
        while let Some(next) = add(&mut had, &origin.page(table, after.as_ref(), order.batch)?, &mut count) {
            after = Some(next);
        }
        let (mut has, mut after) = (Count::default(), None);
        while let Some(next) =
            add(&mut has, &destination.page(table, after.as_ref(), order.batch).await?, &mut count)
        {
            after = Some(next);
        }
        let tally = had.tally();
        if has.tally() != tally {
            return Err(Problem::Differs { table: table.name() });
        }
        tables.push((table, tally));
    }
    // What was shipped since leaves nothing behind: the rows are on both sides, and come twice at worst.
    let numbers = |standing| moving::Standing { shipped: [0; 2], ..standing };
    if numbers(origin.standing()?) != numbers(destination.standing().await?) {
        return Err(Problem::Differs { table: "numbers" });
    }
    Ok(tables)
}

/// Adds a page; returns where it ended.
fn add(to: &mut Count, page: &Page, counted: &mut impl FnMut(&Page)) -> Option<Row> {
    page.rows.iter().for_each(|row| to.add(row));
    counted(page);
    page.last.clone()
}

fn verified(verified: &Verified, side: &'static str) -> Result<u64, Problem> {
    match *verified {
        Verified::Intact { rows } => Ok(rows),
        Verified::Broken { seq } => Err(Problem::AuditBroken { side, seq }),
    }
}

fn noted(order: Order<'_>, detail: &str) -> NewRow {
    NewRow {
        at: SystemClock.now(),
        actor: order.actor.to_owned(),
        action: Action::StoreMoved,
        device: None,
        reason: order.reason.to_owned(),
        detail: detail.to_owned(),
    }
}
