//! Dead letters.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLetters {
    /// List them, grouped by queue and reason, the group with the newest first.
    List {
        /// Only those of this queue: requests, findings, outcomes or alarms.
        #[arg(long)]
        queue: Option<String>,
        /// Only those that match, like 'reason:exhausted age:>10m'. The keys are reason, queue, device, label, group,
        /// age, attempts, error and id; a device goes by its id, name or serial; a hyphen in front turns a term into its opposite.
        #[arg(long = "where", value_name = "FILTER", allow_hyphen_values = true)]
        filter: Option<String>,
        /// List every letter, newest first.
        #[arg(long)]
        each: bool,
        /// With --each: at most this many.
        #[arg(long, default_value_t = 100, requires = "each")]
        limit: usize,
    },
    /// Show one, with its attempts. The device's message is shown without its signature.
    Show {
        /// Its number.
        id: u64,
    },
    /// Put them back on their way: at the validator, with every check made again; alarms to their webhook. By number, all
    /// of them; by --where, those that it can be of use to, and --dry-run tells which are left out.
    Replay(Replay),
    /// Take them away for good. They are archived in a file first.
    Discard(Discard),
    /// Print them as JSON lines, without what makes their messages usable.
    Export(Letters),
    /// List the jobs that replayed or discarded many.
    Jobs {
        /// At most this many, newest first.
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Compare the index with the messages there are, and tell what does not agree and what mends it. Changes nothing.
    Reconcile,
}

/// Which dead letters.
#[derive(Debug, Args)]
pub(crate) struct Letters {
    /// Their numbers. If one of them does not exist, nothing is done.
    pub(crate) ids: Vec<u64>,
    /// All that match, as in `dead-letters list`.
    #[arg(long = "where", value_name = "FILTER", conflicts_with = "ids", allow_hyphen_values = true)]
    pub(crate) filter: Option<String>,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which_letters").required(true).multiple(false).args(["ids", "filter", "resume"]))]
pub(crate) struct Replay {
    #[command(flatten)]
    pub(crate) letters: Letters,
    /// Go on with a job that was cut off, by its number in `dead-letters jobs`.
    #[arg(long, value_name = "JOB", conflicts_with_all = ["reason", "max_rate", "dry_run", "plan"])]
    pub(crate) resume: Option<u64>,
    /// Tell how many it would be, how many are left out and why, and move none.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Only if it is still what --dry-run told under this name.
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) plan: Option<String>,
    /// Move at most this many per minute.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=60_000), conflicts_with = "ids")]
    pub(crate) max_rate: Option<u32>,
    /// Why, for the audit.
    #[arg(long, required_unless_present_any = ["resume", "dry_run"])]
    pub(crate) reason: Option<String>,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which_discard").required(true).multiple(false).args(["ids", "filter", "resume"]))]
pub(crate) struct Discard {
    #[command(flatten)]
    pub(crate) letters: Letters,
    /// Go on with a job that was cut off, by its number in `dead-letters jobs`.
    #[arg(long, value_name = "JOB", conflicts_with_all = ["reason", "dry_run", "plan", "archive", "confirmed"])]
    pub(crate) resume: Option<u64>,
    /// Tell how many it would be, and take none away.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Only if it is still what --dry-run told under this name.
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) plan: Option<String>,
    /// Where to archive them, whole: a new file. QUEUE-dead-TIME.jsonl in this folder if not given.
    #[arg(long, value_name = "FILE")]
    pub(crate) archive: Option<PathBuf>,
    /// The name of their queue, instead of typing it when asked.
    #[arg(long = "yes-discard", value_name = "QUEUE")]
    pub(crate) confirmed: Option<String>,
    /// Why, for the audit.
    #[arg(long, required_unless_present_any = ["resume", "dry_run"])]
    pub(crate) reason: Option<String>,
}
