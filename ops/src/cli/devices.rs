//! Devices, their groups, and their passwords.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use keyturn_domain::ids::GroupId;
use keyturn_domain::span::Span;

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
    /// Add one device by its registration certificate. One that is there stays as it is.
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
        /// If the device is there and differs: replace its name, key and join. It stays enabled or disabled, and in its
        /// groups.
        #[arg(long)]
        replace: bool,
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
    Disable(Because),
    /// Let a device rotate again.
    Enable(Because),
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
pub(crate) struct Because {
    /// The device: its id, its name in the directory, or its serial number.
    pub(crate) device: String,
    /// Why, for the audit.
    #[arg(long)]
    pub(crate) reason: String,
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
