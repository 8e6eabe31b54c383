//! `keyturn migrate`.

use indicatif::{ProgressBar, ProgressStyle};
use keyturn_ports::audit::chain;
use keyturn_ports::moving::{Table, Tally};
use keyturn_service::config::Config;
use keyturn_service::migration::{self, Moved, Order, Outcome, Plan, Step};
use serde::Serialize;

use crate::cli::{Arguments, Migrate};
use crate::failure::Result;
use crate::operator;
use crate::output;

/// How much of a hash a table shows, in bytes. JSON has all of it.
const SHOWN: usize = 8;

pub(super) async fn run(arguments: &Arguments, migrate: &Migrate) -> Result<()> {
    let (from, to) = (Config::load(&arguments.config)?, Config::load(&migrate.to)?);
    let (actor, reason) = (operator::name(), migrate.reason.clone().unwrap_or_default());
    let order = Order { from: &from, to: &to, actor: &actor, reason: &reason, batch: migrate.batch };
    if migrate.dry_run {
        return plan(arguments, &migration::look(order).await?);
    }
    let mut teller = Teller::new();
    let mut told = |step, done, all| teller.tell(step, done, all);
    if migrate.undo {
        migration::undo(order, migrate.danger_leave_behind, &mut told).await?;
        teller.end();
        eprintln!("The state is in {} again.", from.sections.data.file.display());
        eprintln!(
            "What is in the database is refused to every process: DROP SCHEMA keyturn CASCADE empties it."
        );
        return Ok(());
    }
    let outcome = migration::migrate(order, &mut told).await?;
    teller.end();
    match outcome {
        Outcome::Already(place) => eprintln!("The state was already in {place}."),
        Outcome::Moved(moved) => moved_there(arguments, &moved)?,
    }
    eprintln!("Start every process with {} from now on.", migrate.to.display());
    eprintln!("{} is refused from now on. Keep it until all is well.", from.sections.data.file.display());
    Ok(())
}

/// A table, as it is printed.
#[derive(Serialize)]
struct Printed {
    table: &'static str,
    rows: u64,
    /// Over the rows on both sides.
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

fn plan(arguments: &Arguments, plan: &Plan) -> Result<()> {
    let printed = |(table, rows): &(Table, u64)| Printed { table: table.name(), rows: *rows, sha256: None };
    let printed: Vec<Printed> = plan.tables.iter().map(printed).collect();
    let cells = printed.iter().map(|one| [one.table.to_owned(), one.rows.to_string()]);
    output::table(arguments.output, ["TABLE", "ROWS"], cells, &printed)?;
    let how = if plan.begun { "The move was begun, and would go on" } else { "This would move" };
    eprintln!("{how}: to {}. Nothing was moved.", plan.to);
    Ok(())
}

fn moved_there(arguments: &Arguments, moved: &Moved) -> Result<()> {
    let printed = |(table, Tally { rows, hash }): &(Table, Tally)| Printed {
        table: table.name(),
        rows: *rows,
        sha256: Some(chain::hexadecimal(hash)),
    };
    let printed: Vec<Printed> = moved.tables.iter().map(printed).collect();
    let cells = printed.iter().map(|one| {
        let hash: String = one.sha256.iter().flat_map(|hash| hash.chars()).take(2 * SHOWN).collect();
        [one.table.to_owned(), one.rows.to_string(), hash]
    });
    output::table(arguments.output, ["TABLE", "ROWS", "SHA-256 ON BOTH SIDES"], cells, &printed)?;
    eprintln!("The state is in {}: {} audit rows in an unbroken chain.", moved.to, moved.audit);
    Ok(())
}

/// Tells on stderr what is being done: a line for each step, and on a terminal how far it is.
struct Teller {
    bar: ProgressBar,
    step: Option<Step>,
}

impl Teller {
    fn new() -> Self {
        let bar = ProgressBar::new(0);
        let bar = match ProgressStyle::with_template("{pos}/{len} rows {bar:30} {eta}") {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        };
        Self { bar, step: None }
    }

    fn tell(&mut self, step: Step, done: u64, all: u64) {
        if self.step != Some(step) {
            self.step = Some(step);
            self.bar.suspend(|| eprintln!("{}", words(step, all)));
            self.bar.reset();
        }
        self.bar.set_length(all);
        self.bar.set_position(done);
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

fn words(step: Step, all: u64) -> String {
    match step {
        Step::VerifyingOrigin => "checking the audit of the file".to_owned(),
        Step::Begin => "marking the file: its state is leaving".to_owned(),
        Step::Copying(table) => format!("copying {}: {all} rows", table.name()),
        Step::Settling => "setting numbers and counters".to_owned(),
        Step::Comparing(table) => format!("comparing {}: {} rows on both sides", table.name(), all / 2),
        Step::VerifyingDestination => "checking the audit of the database".to_owned(),
        Step::End => "marking the file: its state has left".to_owned(),
        Step::Opening => "opening the database for work".to_owned(),
    }
}
