//! What can be said on the command line.

mod audit;
mod devices;
mod letters;
mod mistakes;
mod secrets;
mod store;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use keyturn_domain::span::Span;

pub(crate) use self::audit::{Audit, Search};
pub(crate) use self::devices::{Device, Group, Reveal, RotateNow};
pub(crate) use self::letters::{DeadLetters, Discard, Letters, Replay};
pub(crate) use self::secrets::{Keys, Kind, OpenExport, Root, Vault, VaultExport, VaultRebalance};
pub(crate) use self::store::{Backup, Migrate, Restore};

/// Rotates the local administrator password of every cloud-managed device.
#[derive(Debug, Parser)]
#[command(name = "keyturn", version, about, max_term_width = 100)]
pub(crate) struct Arguments {
    /// The configuration file of the deployment.
    #[arg(long, global = true, env = "KEYTURN_CONFIG", default_value = "keyturn-data/keyturn.toml")]
    pub(crate) config: PathBuf,
    /// How to print what was asked for.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a new deployment: keys, root, key set, configuration and an empty database; or with --tables the tables of one
    /// whose state is on PostgreSQL.
    Init(Init),
    /// Run all roles in one process. Further processes of the deployment need addresses of their own.
    Up(Up),
    /// Devices of the embedded directory, and what is known of them.
    #[command(subcommand)]
    Device(Device),
    /// Groups of the embedded directory, which policies may go by.
    #[command(subcommand)]
    Group(Group),
    /// Show the passwords a device may have now. Recorded in the audit before anything is shown.
    Reveal(Reveal),
    /// How full the queues are, and with --watch how fast they move.
    Queues(Queues),
    /// Messages that were given up on.
    #[command(subcommand)]
    DeadLetters(DeadLetters),
    /// Who looked and who commanded.
    #[command(subcommand)]
    Audit(Audit),
    /// The keys of the deployment, and changing them while everything runs.
    #[command(subcommand)]
    Keys(Keys),
    /// What the offline root key is for.
    #[command(subcommand)]
    Root(Root),
    /// The vault's seals.
    #[command(subcommand)]
    Vault(Vault),
    /// Backups of the database, made and checked while everything runs.
    #[command(subcommand)]
    Backup(Backup),
    /// Put a backup in place of the database, while nothing runs. The one replaced is kept.
    Restore(Restore),
    /// Move the state from the file to PostgreSQL, while nothing runs. Cut off, the same command goes on.
    Migrate(Migrate),
    /// What happened on devices.
    #[command(subcommand)]
    Events(Events),
    /// The configuration.
    #[command(subcommand)]
    Config(Config),
    /// How the fleet stands: confirmed, overdue, never escrowed, unverified, on hold, orphaned.
    Fleet {
        /// List the devices.
        #[arg(long)]
        list: bool,
        /// Show the report that was last made in the background, with the first devices that are not as they should be.
        #[arg(long, conflicts_with = "list")]
        last_report: bool,
    },
    /// Show how much running processes log, or change it, without a restart. Stays until --reset.
    LogLevel(LogLevel),
    /// Look for what is wrong with the deployment, and tell what mends it. Changes nothing without --write.
    Doctor {
        /// Try as well what cannot be asked. Where versions are in Key Vault, this makes a disabled version of the secret
        /// keyturn-doctor in each vault; where hops are on Azure Storage, it sends a message to each that nobody gets to see,
        /// and deletes it. Run it as who the role is that is to do so.
        #[arg(long)]
        write: bool,
    },
    /// Print the page of an error code: what it means, how its cause is found, and the mend. Without a code, list them.
    Explain {
        /// The code, like KT-0404.
        #[arg(value_parser = mistakes::AnyCode, hide_possible_values = true)]
        code: Option<String>,
    },
    /// Print what completes this command in a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages of this command and all below it.
    Man {
        /// The folder, which is made if it does not exist.
        to: PathBuf,
    },
    /// Write a file for whoever helps: checks, settings and figures, without any secret.
    Support {
        /// The file, which must not exist.
        to: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct LogLevel {
    /// error, warn, info, debug or trace, or a filter like info,keyturn_rotator=debug. Shows the present one if not given.
    #[arg(conflicts_with = "reset")]
    pub(crate) level: Option<String>,
    /// Log as configured again.
    #[arg(long)]
    pub(crate) reset: bool,
    /// Why, for the audit. A change is recorded without one as well.
    #[arg(long)]
    pub(crate) reason: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Queues {
    /// Look again every so often, 2s if nothing is said, and tell how many messages came and were done with in between.
    #[arg(long, value_name = "SPAN", num_args = 0..=1, default_missing_value = "2s")]
    pub(crate) watch: Option<Span>,
    /// With --watch: end after so many looks.
    #[arg(long, requires = "watch")]
    pub(crate) looks: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The folder to make it in. It must not exist yet, or be empty.
    #[arg(default_value = "keyturn-data")]
    pub(crate) folder: PathBuf,
    /// The deployment's name: 1 to 64 characters of a-z 0-9 - . It cannot be changed later.
    #[arg(long, required_unless_present = "tables")]
    pub(crate) name: Option<String>,
    /// Make the tables in the database that state.postgres.url of the configuration names, and nothing else.
    #[arg(long, conflicts_with_all = ["name", "folder"])]
    pub(crate) tables: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Run a fresh throw-away deployment with this many simulated devices: 4 to 2000.
    #[arg(long, value_name = "DEVICES", value_parser = clap::value_parser!(u16).range(4..=2000))]
    pub(crate) demo: Option<u16>,
    /// With --demo: end when every device has settled, twice.
    #[arg(long, requires = "demo")]
    pub(crate) until_settled: bool,
    /// With --demo: keep the deployment in this folder, which must be new. A temporary one is used otherwise.
    #[arg(long, requires = "demo")]
    pub(crate) folder: Option<PathBuf>,
    /// Where devices connect, instead of the configuration's ingress.listen.
    #[arg(long)]
    pub(crate) listen: Option<SocketAddr>,
    /// What to log, instead of the configuration's logs.level.
    #[arg(long)]
    pub(crate) log_level: Option<String>,
    /// Serve devices on an address other than loopback although every key is in this one process.
    #[arg(long)]
    pub(crate) danger_serve_beyond_loopback: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Events {
    /// Print what happened on all devices as JSON lines, oldest first, with CloudLAPS's columns (CloudLAPSClient)
    /// beside our own.
    Export {
        /// Only what happened from this instant on, like 2026-11-22T00:00:00Z.
        #[arg(long)]
        since: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Check the configuration and the keys, and tell what is wrong with which line.
    Check,
    /// Print the values in effect.
    Print,
    /// Print a documented configuration with every setting at its default.
    Template,
}

/// Reads the command line; says what is wrong with it, or what was asked for with --help, and with what the program ends
/// then.
pub(crate) fn parse() -> Result<Arguments, ExitCode> {
    Arguments::try_parse().map_err(|error| mistakes::tell(&error))
}
