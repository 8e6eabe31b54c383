//! The audit.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `keyturn audit`
#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// The last rows, newest first: all of them, or those of which everything that is said holds.
    List(Search),
    /// Check that no row was changed, added or taken out.
    Verify {
        /// Check these anchors too: that the end was not cut off, and that it was not all written anew.
        #[arg(long, value_name = "FILE")]
        anchor: Option<PathBuf>,
    },
    /// Print the head of the audit, signed, to be kept where whoever has the database cannot reach.
    Anchor,
    /// Print rows as JSON lines, oldest first, with CloudLAPS's columns (CloudLAPSAudit) beside our own.
    Export {
        /// Only rows from this instant on, like 2026-11-22T00:00:00Z.
        #[arg(long)]
        since: Option<String>,
    },
}

/// Which rows.
#[derive(Debug, Args)]
pub(crate) struct Search {
    /// At most this many.
    #[arg(long, default_value_t = 50)]
    pub(crate) limit: usize,
    /// Only rows about this device: its id, its name in the directory, or its serial number.
    #[arg(long)]
    pub(crate) device: Option<String>,
    /// Only rows of this action, as the list shows it, like 'password revealed', or as exports name it, like SecretGet.
    #[arg(long)]
    pub(crate) action: Option<String>,
    /// Only what somebody did whose name has this in it, in upper or lower case.
    #[arg(long, value_name = "NAME")]
    pub(crate) who: Option<String>,
    /// Only rows from this instant on, like 2026-11-22T00:00:00Z.
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
}
