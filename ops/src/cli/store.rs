//! Backups, and moving to another store.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum Backup {
    /// Make a backup and check it, with its SHA-256 in a file beside it. Everything else works on; the settings of the
    /// section `backup` say how fast it is.
    Create {
        /// The backup's file, which must not exist. Its SHA-256 is written to the same name with .sha256.
        to: PathBuf,
    },
    /// Check a backup: every byte by the SHA-256 beside it, every page, the schema, the vault against the ledger, the chain
    /// of the audit.
    Verify {
        /// The backup.
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The backup.
    #[arg(required_unless_present = "declare")]
    pub(crate) backup: Option<PathBuf>,
    /// Instead of a backup: take the database as it is for restored. For a machine that was put back as a whole, such
    /// as from a snapshot. Nothing has to be stopped.
    #[arg(long, conflicts_with = "backup")]
    pub(crate) declare: bool,
    /// Why, for the audit.
    #[arg(long)]
    pub(crate) reason: String,
}

#[derive(Debug, Args)]
pub(crate) struct Migrate {
    /// The configuration to work with from then on: a copy of the present one, with PostgreSQL in its section `state`.
    #[arg(long, value_name = "CONFIG")]
    pub(crate) to: PathBuf,
    /// Why, for the audit.
    #[arg(long, required_unless_present = "dry_run")]
    pub(crate) reason: Option<String>,
    /// Look whether it can move and tell how much it is. Makes the tables of the database, and changes nothing else.
    #[arg(long, conflicts_with = "undo")]
    pub(crate) dry_run: bool,
    /// Work with the file again. Refused if anything was done in the database since.
    #[arg(long)]
    pub(crate) undo: bool,
    /// With --undo: lose what was done in the database since. Devices are heard anew.
    #[arg(long, requires = "undo")]
    pub(crate) danger_leave_behind: bool,
    /// How many rows are read and stored at once.
    #[arg(long, value_name = "ROWS", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) batch: u32,
}
