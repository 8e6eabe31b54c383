//! Where the database is and how it is talked to.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::config::{Host, SslMode};

/// How to reach a database. Holds no password: the file that has it is read at every connection, so that the
/// password can be changed while processes run.
#[derive(Clone)]
pub struct Settings {
    pub(crate) target: tokio_postgres::Config,
    pub(crate) password_file: Option<PathBuf>,
    pub(crate) tls: Tls,
    pub(crate) limits: Limits,
    pub(crate) settled_elsewhere: bool,
    place: String,
}

/// How connections are protected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// TLS 1.2 or 1.3; the certificate has to be valid for the host's name. The roots are those in this PEM file,
    /// or the system's. A Unix socket needs none and gets none.
    VerifyFull {
        /// PEM file of the roots to trust instead of the system's.
        roots: Option<PathBuf>,
    },
    /// None: for a Unix socket and loopback addresses alone.
    Off,
    /// None, though the database is on another machine: whoever is on the way reads and changes everything.
    DangerDisabled,
}

/// The bounds of what is asked of the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of one process, beside the one that listens; at least 1.
    pub connections: usize,
    /// How long connecting may take, and waiting for a connection of the process's own.
    pub connect: Duration,
    /// How long one statement may take.
    pub statement: Duration,
    /// How long a statement may wait for a lock.
    pub lock: Duration,
    /// How often those who wait look when nobody woke them.
    pub look_every: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 8,
            connect: Duration::from_secs(5),
            statement: Duration::from_secs(15),
            lock: Duration::from_secs(5),
            look_every: Duration::from_secs(1),
        }
    }
}

/// Settings that cannot be used. No text repeats the address, which somebody may have put a password into.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The address cannot be read.
    #[error(
        "this is no address of a database; write postgresql://USER@HOST/DATABASE, or \
         postgresql://USER@/DATABASE?host=/run/postgresql for a Unix socket"
    )]
    Address,
    /// The address holds a password.
    #[error("the address holds a password; take it out, and name a file that holds it")]
    Password,
    /// The address says how to use TLS.
    #[error("the address says {0}; take that out, and use the settings for TLS")]
    SslMode(&'static str),
    /// A part is missing.
    #[error("the address names no {0}")]
    Missing(&'static str),
    /// TLS is off for another machine.
    #[error("without TLS only a Unix socket or a loopback address is allowed")]
    Plain,
}

impl Settings {
    /// Reads an address in either form that PostgreSQL has for it
    /// (postgresql.org/docs/15/libpq-connect.html#LIBPQ-CONNSTRING).
    pub fn new(
        address: &str,
        password_file: Option<PathBuf>,
        tls: Tls,
        limits: Limits,
    ) -> Result<Self, SettingsError> {
        if let Some(said) =
            ["sslmode", "sslrootcert", "sslnegotiation"].into_iter().find(|word| address.contains(word))
        {
            return Err(SettingsError::SslMode(said));
        }
        let mut target: tokio_postgres::Config = address.parse().map_err(|_| SettingsError::Address)?;
        if target.get_password().is_some() {
            return Err(SettingsError::Password);
        }
        for (missing, what) in [
            (target.get_hosts().is_empty(), "host"),
            (target.get_user().is_none(), "user"),
            (target.get_dbname().is_none(), "database"),
        ] {
            if missing {
                return Err(SettingsError::Missing(what));
            }
        }
        target.connect_timeout(limits.connect);
        let sockets = target.get_hosts().iter().all(is_socket);
        let mode = match tls {
            Tls::Off if !is_local(&target) => return Err(SettingsError::Plain),
            Tls::VerifyFull { .. } if !sockets => SslMode::Require,
            _ => SslMode::Disable,
        };
        target.ssl_mode(mode);
        // Whoever answers has to be the one that writes: a standby would refuse every write.
        target.target_session_attrs(tokio_postgres::config::TargetSessionAttrs::ReadWrite);
        let place = place(&target);
        Ok(Self { target, password_file, tls, limits, settled_elsewhere: false, place })
    }

    /// Whether messages are settled on another engine. What they led to is then on the server's disk before that engine
    /// is told that they are done with; it would not give them out again. They are not by default: what a crash of the
    /// server takes of the effects it takes of the settlements too.
    pub fn settled_elsewhere(self, elsewhere: bool) -> Self {
        Self { settled_elsewhere: elsewhere, ..self }
    }

    /// The name under which the server lists the connections, like `keyturn-rotator`.
    pub fn named(mut self, name: &str) -> Self {
        self.target.application_name(name);
        self
    }
}

/// Whether every host is this machine. An address that is given beside a name is where the connection goes.
fn is_local(target: &tokio_postgres::Config) -> bool {
    target.get_hosts().iter().all(|host| is_socket(host) || is_loopback(host))
        && target.get_hostaddrs().iter().all(std::net::IpAddr::is_loopback)
}

fn is_socket(host: &Host) -> bool {
    matches!(host, Host::Unix(_))
}

fn is_loopback(host: &Host) -> bool {
    let Host::Tcp(name) = host else {
        return false;
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// What errors call the database: never more than hosts and its name.
fn place(target: &tokio_postgres::Config) -> String {
    let hosts: Vec<String> = target
        .get_hosts()
        .iter()
        .map(|host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(folder) => folder.display().to_string(),
        })
        .collect();
    format!("database {} at {}", target.get_dbname().unwrap_or_default(), hosts.join(", "))
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("place", &self.place).field("tls", &self.tls).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(address: &str) -> Result<Settings, SettingsError> {
        Settings::new(address, None, Tls::VerifyFull { roots: None }, Limits::default())
    }

    #[test]
    fn passwords_and_tls_do_not_belong_into_the_address() {
        for address in
            ["postgresql://me:hunter2@db/keyturn", "host=db user=me password=hunter2 dbname=keyturn"]
        {
            let error = settings(address).unwrap_err();
            assert_eq!(error, SettingsError::Password);
            assert!(!error.to_string().contains("hunter2"));
        }
        let error = settings("postgresql://me:hunter2@db:port/keyturn").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
        assert_eq!(
            settings("postgresql://me@db/k?sslmode=disable").unwrap_err(),
            SettingsError::SslMode("sslmode")
        );
    }

    #[test]
    fn an_address_names_host_user_and_database() {
        assert_eq!(settings("postgresql://me@/keyturn").unwrap_err(), SettingsError::Missing("host"));
        assert_eq!(settings("postgresql://db/keyturn").unwrap_err(), SettingsError::Missing("user"));
        assert_eq!(settings("host=db user=me").unwrap_err(), SettingsError::Missing("database"));
        assert_eq!(settings("nonsense").unwrap_err(), SettingsError::Address);
        let shown = settings("postgresql://me@db.example/keyturn").unwrap().to_string();
        assert_eq!(shown, "database keyturn at db.example");
    }

    #[test]
    fn tls_is_asked_for_of_every_other_machine() {
        let mode = |address| settings(address).unwrap().target.get_ssl_mode();
        assert_eq!(mode("postgresql://me@db/k"), SslMode::Require);
        assert_eq!(mode("postgresql://me@127.0.0.1/k"), SslMode::Require);
        assert_eq!(mode("postgresql://me@/k?host=/run/postgresql"), SslMode::Disable);
        assert_eq!(mode("host=/run/postgresql,db user=me dbname=k"), SslMode::Require);
    }

    #[test]
    fn plain_connections_stay_on_this_machine() {
        let plain = |address| Settings::new(address, None, Tls::Off, Limits::default());
        for address in
            ["postgresql://me@127.0.0.1/k", "postgresql://me@localhost/k", "host=/run user=me dbname=k"]
        {
            assert!(plain(address).is_ok(), "{address}");
        }
        for address in [
            "postgresql://me@db/k",
            "host=/run,db user=me dbname=k",
            "host=localhost hostaddr=10.0.0.1 user=me dbname=k",
        ] {
            assert_eq!(plain(address).unwrap_err(), SettingsError::Plain, "{address}");
        }
    }
}
