//! Keys, the root and the vault.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::devices::Which;

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
    /// Show what an export holds. Needs the file and the key's secret half, and no deployment: devices have the names that
    /// they gave themselves.
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
