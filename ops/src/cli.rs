//! What can be said on the command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use keyturn_domain::ids::GroupId;
use keyturn_domain::span::Span;

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
    /// Make a new deployment: keys, root, key set, configuration and an empty database.
    Init(Init),
    /// Run all roles in one process.
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
    /// Look for what is wrong with the deployment, and tell what mends it. Changes nothing.
    Doctor,
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
pub(crate) struct Queues {
    /// Look again every so often, 2s if nothing is said, and tell how many messages came and were done with in between.
    #[arg(long, value_name = "SPAN", num_args = 0..=1, default_missing_value = "2s")]
    pub(crate) watch: Option<Span>,
    /// With --watch: end after so many looks.
    #[arg(long, requires = "watch")]
    pub(crate) looks: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// List the keys: which one is in use, which one is to come, which one was replaced.
    List,
    /// Make a second key, which is accepted and not used yet. With --activate, put it to use.
    Rotate {
        /// Which.
        #[arg(value_enum)]
        kind: Kind,
        /// Use the second key from now on. Every process must have read it before, which takes a minute.
        #[arg(long)]
        activate: bool,
    },
    /// Take away a key that is not in use and that nothing depends on any more.
    Retire {
        /// Which.
        #[arg(value_enum)]
        kind: Kind,
        /// Its id, as `keys list` shows it.
        id: String,
        /// Take it away although what it sealed may still be under way: for a key that others may have.
        #[arg(long)]
        danger_now: bool,
    },
}

/// The kinds of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Seals nonces.
    Nonce,
    /// Seals stamps.
    Stamp,
    /// Seals tickets.
    Ticket,
    /// Seals findings.
    Finding,
    /// Seals the vault's versions.
    Vault,
    /// Signs results.
    Signing,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Root {
    /// Sign a new key set that lists the signing keys of the key folder, with the next serial.
    SignKeys {
        /// The root key's file. Bring it to this machine for this command alone.
        #[arg(long)]
        root: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Vault {
    /// Seal every version anew under the master key in use. May be stopped and repeated at any time.
    Rekey,
    /// Open every version, and count them by master key.
    Verify,
    /// With vault.engine = "key-vault": what the vaults have of a device, without values, and whether it is too much.
    History(Which),
    /// With vault.engine = "key-vault": bring every version to the vault that new ones of its device go to, after
    /// vault.urls was changed. May be stopped and repeated at any time.
    Rebalance(VaultRebalance),
    /// With vault.engine = "envelope": wrap the master keys by the newest version of the key in Key Vault. Also the
    /// way there, from plain keys. May be repeated at any time.
    Wrap,
    /// Make the key pair of the recovery log: the secret half at OUT, the public one at OUT.pub.
    RecoveryKey {
        /// The secret half's file, which must not exist. Take it offline; without it the log opens for nobody.
        out: PathBuf,
    },
    /// Put back what the vault lacks and the recovery log has. May be repeated at any time.
    Recover {
        /// The secret half of the recovery key. Bring it to this machine for this command alone.
        #[arg(long)]
        key: PathBuf,
        /// The recovery log.
        #[arg(long)]
        log: PathBuf,
    },
    /// Break-glass: write every password that a device may have now to a file, sealed to an offline key.
    Export(VaultExport),
    /// Show what an export holds. Needs the file and the key's secret half, and no deployment.
    OpenExport(OpenExport),
}

#[derive(Debug, Args)]
pub(crate) struct VaultRebalance {
    /// Why, for the audit.
    #[arg(long, required_unless_present = "dry_run")]
    pub(crate) reason: Option<String>,
    /// Tell how many versions would be moved, and move none.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Versions written per minute at most; rotations take their turns from the same vault.
    #[arg(long, value_name = "PER_MINUTE")]
    pub(crate) max_rate: Option<std::num::NonZeroU32>,
    /// Also disable the old ones, each after the same was read at home. Only when every process has the new addresses.
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) disable_old: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VaultExport {
    /// The file, which must not exist.
    pub(crate) to: PathBuf,
    /// The public half of a key that `vault recovery-key` made. The secret half belongs offline.
    #[arg(long, value_name = "KEY")]
    pub(crate) sealed_to: PathBuf,
    /// Why, for the audit.
    #[arg(long)]
    pub(crate) reason: String,
}

#[derive(Debug, Args)]
pub(crate) struct OpenExport {
    /// The export.
    pub(crate) file: PathBuf,
    /// The key's secret half.
    #[arg(long)]
    pub(crate) key: PathBuf,
    /// Show one device only: its id, its name, or its serial number, without regard to case.
    #[arg(long)]
    pub(crate) device: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Backup {
    /// Make a backup and check it. Everything else works on; the settings of the section `backup` say how fast it is.
    Create {
        /// The backup's file, which must not exist.
        to: PathBuf,
    },
    /// Check a backup: every page, the schema, the vault against the ledger, the chain of the audit.
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

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The folder to make it in. It must not exist yet, or be empty.
    #[arg(default_value = "keyturn-data")]
    pub(crate) folder: PathBuf,
    /// The deployment's name: 1 to 64 characters of a-z 0-9 - . It cannot be changed later.
    #[arg(long)]
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Run a fresh throw-away deployment with this many simulated devices.
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

/// `keyturn group`
#[derive(Subcommand, Debug)]
pub(crate) enum Group {
    /// The groups that devices are in or policies go by, with how many devices each has.
    List,
    /// Make the devices of a list, and no others, the members of a group.
    Set {
        /// The group's object id, as in the setting groups of a policy.
        #[arg(value_parser = GroupId::parse_any_case)]
        group: GroupId,
        /// The list: one device a line, by id, name or serial; what follows a # is a comment. An empty one empties the
        /// group.
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Device {
    /// Add one device by its registration certificate.
    Add {
        /// The certificate, PEM or DER. Its common name is the device id.
        #[arg(long)]
        cert: PathBuf,
        /// The name people know it by.
        #[arg(long)]
        name: String,
        /// How it is joined: AzureAd, ServerAd or Workplace.
        #[arg(long, default_value = "AzureAd")]
        join: String,
    },
    /// Add or replace devices from an export of Microsoft Graph's /devices.
    Import {
        /// JSON: {"value": [...]} as Graph answers, or the list alone.
        file: PathBuf,
    },
    /// List devices.
    List,
    /// Show what is known of a device.
    Show(Which),
    /// Let a device rotate no more.
    Disable(Which),
    /// Let a device rotate again.
    Enable(Which),
    /// List every password version that was ever made for a device. No password is shown.
    History(Which),
    /// Show the candidates of a lane no more: the device has another key, account or installation now.
    CloseLane {
        /// The device: its id, its name in the directory, or its serial number.
        device: String,
        /// The lane, as `device show` names it. It may begin with a hyphen.
        #[arg(long, allow_hyphen_values = true)]
        lane: String,
        /// Why, for the audit.
        #[arg(long)]
        reason: String,
    },
    /// Hold a device: it gets no new password, and what it has is shown as before. Later lanes of it are not held.
    Hold {
        /// The device: its id, its name in the directory, or its serial number.
        device: String,
        /// For how long, like 2h or 14d; until it is released if not given.
        #[arg(long = "for", value_name = "SPAN")]
        span: Option<Span>,
        /// Why, for the audit.
        #[arg(long)]
        reason: String,
    },
    /// End a hold: the device may have new passwords again.
    Release {
        /// The device: its id, its name in the directory, or its serial number.
        device: String,
        /// Why, for the audit.
        #[arg(long)]
        reason: String,
    },
    /// Ask for a new password at the next check-in, however far off that is: of one device, or of many.
    RotateNow(RotateNow),
    /// List what was asked of many devices with `rotate-now`, and how far that is.
    Rotations {
        /// At most this many, newest first.
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["device", "all", "since", "file", "resume"]))]
pub(crate) struct RotateNow {
    /// One device: its id, its name in the directory, or its serial number.
    pub(crate) device: Option<String>,
    /// Every device that ever had a password.
    #[arg(long)]
    pub(crate) all: bool,
    /// The devices for which a password was made at this instant or later, like 2026-11-22T00:00:00Z.
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// The devices in this file, one a line, as they would be named here. What follows a # is left out.
    #[arg(long, value_name = "LIST")]
    pub(crate) file: Option<PathBuf>,
    /// Go on with a job that was cut off, by its number in `device rotations`.
    #[arg(long, value_name = "JOB", conflicts_with_all = ["reason", "max_rate", "dry_run"])]
    pub(crate) resume: Option<u64>,
    /// Ask at most this many devices per minute, so that not all of them come for a password at once.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=60_000), conflicts_with = "device")]
    pub(crate) max_rate: Option<u32>,
    /// Why, for the audit.
    #[arg(long, required_unless_present = "resume")]
    pub(crate) reason: Option<String>,
    /// Tell how many it would be, and ask none.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The device: its id, its name in the directory, or its serial number.
    pub(crate) device: String,
}

#[derive(Debug, Args)]
pub(crate) struct Reveal {
    /// The device: its id, its name in the directory, or its serial number.
    pub(crate) device: String,
    /// Why, for the audit.
    #[arg(long)]
    pub(crate) reason: String,
    /// An older version, as `device history` names it, instead of the candidates. It may begin with a hyphen.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) version: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLetters {
    /// List them, grouped by queue and reason, the group with the newest first.
    List {
        /// Only those of this queue: requests, findings, outcomes or alarms.
        #[arg(long)]
        queue: Option<String>,
        /// Only those that match, like 'reason:exhausted age:>10m'. The keys are reason, queue, device, label, group,
        /// age, attempts, error and id; a hyphen in front turns a term into its opposite.
        #[arg(long = "where", value_name = "FILTER")]
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
    /// Put them back on their way: at the validator, with every check made again; alarms to their webhook.
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
    /// Their numbers. A replay by number leaves none out.
    pub(crate) ids: Vec<u64>,
    /// All that match, as in `dead-letters list`.
    #[arg(long = "where", value_name = "FILTER", conflicts_with = "ids")]
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

#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// The last rows, newest first.
    List {
        /// At most this many.
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
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

/// Reads the command line; says what is wrong with it and exits with 2 if something is.
pub(crate) fn parse() -> Arguments {
    Arguments::parse()
}
