//! The table of codes: of each its exit code, its mend in a sentence, and its page.

/// Declares the table.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident $code:literal $exit:literal $mend:literal;)*) => {
        /// What an operator can be told went wrong. A code never changes its meaning; docs/errors has a page for each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The code itself, like `KT-0404`.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// What a program ends with. docs/OPERATE.md has the table.
            pub const fn exit(self) -> u8 {
                match self { $(Self::$name => $exit,)* }
            }

            /// What mends it most times, in a sentence.
            pub const fn mend(self) -> &'static str {
                match self { $(Self::$name => $mend,)* }
            }

            /// Its page.
            pub const fn page(self) -> &'static str {
                match self {
                    $(Self::$name => include_str!(concat!("../../../../docs/errors/", $code, ".md")),)*
                }
            }
        }
    };
}

codes! {
    // A process does not start, or what it works with fails it.
    /// The state moves, or moved, from this file to PostgreSQL.
    StateLeft "KT-0301" 1 "Use the configuration that names the database, or run the same `keyturn migrate` to its end.";
    /// A move into this database has not ended, or was undone.
    StateNotThere "KT-0302" 1 "Run the same `keyturn migrate` to its end, or use the configuration of the file.";
    /// There is no configuration file.
    ConfigMissing "KT-0303" 1 "Name the file with --config or KEYTURN_CONFIG, or make a deployment with `keyturn init`.";
    /// This user may not read the configuration.
    ConfigUnreadable "KT-0304" 1 "Run this as the user that the deployment belongs to, or as root.";
    /// What stands in the configuration cannot be used.
    ConfigInvalid "KT-0305" 1 "Mend the named line or setting; `keyturn config template` documents every one.";
    /// A key file is not there.
    KeyMissing "KT-0306" 1 "Put the file back from where the keys are kept; `keyturn init` makes keys for new deployments alone.";
    /// A key file may not be read by this user, or may be read by others.
    KeyPermissions "KT-0307" 1 "Give the file to the user of this process alone: `chown`, and `chmod 600`.";
    /// A key file is not what its name says.
    KeyDamaged "KT-0308" 1 "Put the file back from where the keys are kept.";
    /// A key is a good one, and does not go with the configuration, the key set or the vault.
    KeyMismatch "KT-0309" 1 "See that configuration, key files and key set are of one deployment and one time.";
    /// There is no database.
    DatabaseMissing "KT-0310" 3 "Mend data.file, restore a backup with `keyturn restore`, or make a deployment with `keyturn init`.";
    /// There was a database, and it is gone.
    DatabaseLost "KT-0311" 1 "Put the database back, or a backup of it with `keyturn restore`.";
    /// This user may not write the database or what is beside it.
    DatabaseUnwritable "KT-0312" 1 "Let this user write the file and its folder; on Debian, have it in the group keyturn.";
    /// It is a database that Keyturn cannot work with.
    DatabaseForeign "KT-0313" 1 "Name another file or database.";
    /// A later release brought the database forward.
    DatabaseNewer "KT-0314" 1 "Run the release that wrote it, or restore the backup made before the upgrade.";
    /// Somebody else has the database.
    DatabaseBusy "KT-0315" 1 "Stop every process of the deployment, or wait until they are done, and try again.";
    /// What is stored cannot be read.
    DataDamaged "KT-0316" 1 "Stop what runs, keep a copy of the database, and restore the last good backup.";
    /// A disk or a quota is full.
    DiskFull "KT-0317" 1 "Free some space, then try again.";
    /// An engine does not answer, or is overloaded.
    EngineAway "KT-0318" 7 "See that the named service runs and that this machine reaches it; then try again.";
    /// An engine does not let this identity do what it has to.
    EngineDenied "KT-0319" 4 "Give the identity, user or token of this process the right that is named.";
    /// Whoever answers as the engine does not prove to be it.
    EngineUntrusted "KT-0320" 1 "Name the roots of its certificate, and the host by a name that is in it.";
    /// What is needed to talk to a service is not usable.
    ServiceSetup "KT-0321" 1 "Mend the setting or the file that is named.";
    /// An address that is to be listened on.
    AddressTaken "KT-0322" 1 "Stop what listens there (`ss -ltnp` names it), or choose another address.";
    /// The certificate of the ingress, or its key.
    ServerCertificate "KT-0323" 1 "Put a PEM certificate and its key where ingress.tls says, readable to this user.";
    /// The operating system does not give what a process needs.
    System "KT-0324" 1 "Raise the limit that is named; `ulimit -a` and the unit's settings have them.";
    /// A PostgreSQL database without Keyturn's tables.
    DatabaseEmpty "KT-0325" 3 "Name the right database, or make a new deployment's tables with `keyturn init --tables`.";

    // A command does not come to its end.
    /// What was said cannot be meant, whatever the deployment is like.
    Usage "KT-0401" 2 "Say it another way; --help tells what can be said.";
    /// Nothing says why.
    ReasonMissing "KT-0402" 2 "Say why with --reason.";
    /// What cannot be undone was not confirmed.
    NotConfirmed "KT-0403" 2 "Type the queue's name when asked, or give it to --yes-discard.";
    /// No device has the name, serial number or id.
    NoSuchDevice "KT-0404" 3 "`keyturn device list` lists the devices.";
    /// Nothing else has the name or number.
    NothingByThatName "KT-0405" 3 "The list command of the same noun tells what there is.";
    /// There is nothing that the command could be about.
    NothingToDo "KT-0406" 3 "Nothing has to be mended if that is as it should be.";
    /// Several devices have the name.
    SeveralByThatName "KT-0407" 5 "Say which by its id.";
    /// What was looked at has changed since.
    PlanStale "KT-0408" 5 "Look again with --dry-run, and go by that.";
    /// The command is for a deployment of another kind.
    OtherKindOfDeployment "KT-0409" 5 "Use what is meant for this kind, which the message names.";
    /// The keys do not stand as this step needs it.
    KeyNotYet "KT-0410" 5 "Take the steps in turn, with the waits between them; `keyturn keys list` tells where they are.";
    /// What a key sealed may still be needed.
    KeyNeeded "KT-0411" 5 "Have what it sealed done with or sealed anew, then try again.";
    /// The device is there already, and other than was said.
    DeviceThere "KT-0412" 5 "Say --replace if the new record is meant.";
    /// A file or folder that has to be new is there.
    FileExists "KT-0413" 1 "Name another one, or move this one away.";
    /// A file that was named cannot be read.
    FileUnread "KT-0414" 1 "See that the name is right and that this user may read the file.";
    /// A file or folder cannot be written.
    FileUnwritten "KT-0415" 1 "See that its folder exists and has room, and that this user may write it.";
    /// A file is not of the kind that was wanted.
    FileNotMeant "KT-0416" 1 "Name the file that is meant, or make it anew.";
    /// An offline key is a good one, and not the one that this is about.
    OtherOfflineKey "KT-0417" 1 "Bring the key that the message names.";
    /// The vault does not have a version that the ledger knows.
    VersionMissing "KT-0418" 1 "Put it back: `keyturn vault recover` from the recovery log, or a backup.";
    /// Some of it is done.
    Partial "KT-0419" 6 "Look at what is left out, and run the command again if it should not be.";
    /// Somebody pressed Ctrl-C.
    Interrupted "KT-0420" 130 "What was done is done; go on with --resume.";
    /// The audit was changed.
    AuditBroken "KT-0421" 1 "Change nothing more, and follow docs/runbooks/audit-broken.md.";
    /// The audit is not as an anchor says it was.
    AnchorBroken "KT-0422" 1 "Compare with another copy of the anchors, and follow docs/runbooks/audit-broken.md.";
    /// A backup is not sound.
    BackupUnsound "KT-0423" 1 "Take another backup.";
    /// A check failed.
    CheckFailed "KT-0424" 1 "Mend what the failed lines name, from the first on.";
    /// A dead letter cannot be put back on its way.
    NotReplayable "KT-0425" 1 "Leave it or discard it: its device sends a new message at its next check-in.";
    /// A state cannot move to this database.
    MoveTargetTaken "KT-0426" 1 "Name an empty database, or empty this one if nobody needs what is in it.";
    /// A state does not move, or not back, as things stand.
    MoveRefused "KT-0427" 1 "Take the step that the message names; nothing was switched over.";
    /// What was printed could not be written.
    OutputBroken "KT-0428" 1 "Free some space where the output goes, and run the command again.";
    /// The demo did not come to its end.
    DemoFailed "KT-0429" 1 "Run it again; if it fails again, its log (demo.log, with --folder) tells where.";
    /// Something happened that cannot happen.
    Defect "KT-0430" 1 "This is a defect of Keyturn: report it with what `keyturn support` writes.";
}

impl Code {
    /// What it is called, as its page says.
    pub fn title(self) -> &'static str {
        super::pages::title(self.page())
    }
}
