//! A real PostgreSQL for tests: the server of the Debian package `postgresql`, with a cluster of its own.
//!
//! A server refuses to run as root, so root's tests run it as the user `postgres`. What is missing fails the test,
//! and says what to install.

#![expect(
    clippy::panic,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a fixture fails the test it is made for"
)]

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// The server's own user in Debian.
const SERVER_USER: &str = "postgres";

/// The port in the name of the socket; nothing listens on the network unless a test asks.
const PORT: &str = "5432";

/// A cluster with a server.
pub struct Cluster {
    folder: PathBuf,
    /// None for the cluster that all tests share, which ends by itself.
    private: Option<TempDir>,
    /// Held as long as the shared cluster is in use.
    _in_use: Option<File>,
}

/// A database of a cluster, gone when it is dropped.
pub struct TestDatabase {
    cluster: Cluster,
    name: String,
}

impl TestDatabase {
    /// A new, empty database on the cluster that all tests share.
    pub fn fresh() -> Self {
        Self::on(Cluster::shared())
    }

    /// A new, empty database on this cluster.
    pub fn on(cluster: Cluster) -> Self {
        let mut random = [0_u8; 8];
        aws_lc_rs::rand::fill(&mut random).expect("randomness");
        let name = format!("t{:016x}", u64::from_be_bytes(random));
        cluster.sql("postgres", &format!("CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0"));
        Self { cluster, name }
    }

    /// Its address.
    pub fn address(&self) -> String {
        self.cluster.address(&self.name)
    }

    /// Its cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A new database with all that is in this one, by way of a dump.
    pub fn copied_by_dump(&self, into: Cluster) -> Self {
        let folder = self.cluster.folder.display().to_string();
        let mut dump = Command::new(program("pg_dump"));
        dump.args(["-h", &folder, "-p", PORT, "-U", SERVER_USER, "-d", &self.name]);
        let dumped = dump.output().expect("pg_dump runs");
        assert!(dumped.status.success(), "pg_dump: {}", String::from_utf8_lossy(&dumped.stderr));
        let copy = Self::on(into);
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        fs::write(file.path(), dumped.stdout).expect("the dump is kept");
        copy.cluster.sql(&copy.name, &format!("\\i {}", file.path().display()));
        copy
    }

    /// Runs SQL as the owner of everything, looking names up in our schema, and returns what it printed.
    pub fn sql(&self, sql: &str) -> String {
        self.cluster.sql(&self.name, &format!("SET search_path = keyturn; {sql}"))
    }

    /// The same, expected to fail; returns the error.
    pub fn sql_error(&self, sql: &str) -> String {
        let output = self.cluster.psql(&self.name, &format!("SET search_path = keyturn; {sql}"));
        assert!(!output.status.success(), "{sql} did not fail");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        // A server that a test has stopped for good takes its databases along.
        drop(self.cluster.psql("postgres", &sql));
    }
}

impl Cluster {
    /// The cluster that all tests of this checkout share, started by whoever comes first. It ends when it has not been
    /// used for some seconds.
    pub fn shared() -> Self {
        let folder = std::env::temp_dir().join(format!("keyturn-postgres-{:x}", checkout()));
        folder_for_server(&folder);
        let starting = File::create(folder.join("starting")).expect("a lock file");
        starting.lock().expect("a lock");
        // Taken before looking whether the server runs: from here on it is not ended.
        let in_use = File::create(folder.join("in-use")).expect("a lock file");
        in_use.lock_shared().expect("a lock");
        let cluster = Self { folder, private: None, _in_use: Some(in_use) };
        if !cluster.runs() {
            // What an earlier run left behind, perhaps in the middle of being made.
            let _gone = fs::remove_dir_all(cluster.data());
            cluster.create("off");
            cluster.start();
            cluster.end_when_unused();
        }
        cluster
    }

    /// A cluster of one test's own, to stop and to kill. Its commits wait for the disk.
    pub fn private() -> Self {
        let private = tempfile::Builder::new().prefix("keyturn-pg-").tempdir().expect("a temporary folder");
        let folder = private.path().to_owned();
        give_to_server(&folder);
        let cluster = Self { folder, private: Some(private), _in_use: None };
        cluster.create("on");
        cluster.start();
        cluster
    }

    /// The address of a database, through the socket.
    pub fn address(&self, database: &str) -> String {
        let folder = self.folder.display().to_string().replace('/', "%2F");
        format!("postgresql://{SERVER_USER}@/{database}?host={folder}&port={PORT}")
    }

    /// Where the cluster is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts the server and waits until it answers.
    pub fn start(&self) {
        let log = self.folder.join("log");
        self.control(&["-w", "-t", "60", "-l", &log.display().to_string(), "start"]);
    }

    /// Stops the server as an administrator does who does not wait for anybody.
    pub fn stop(&self) {
        self.control(&["-w", "-m", "fast", "stop"]);
    }

    /// Stops the server as a power loss does: without a word, and its log is replayed at the next start.
    pub fn crash(&self) {
        self.control(&["-w", "-m", "immediate", "stop"]);
    }

    /// Stops the server, and starts it as one that was recovered from an archive, to the end of its log.
    pub fn recover(&self) {
        self.stop();
        // Without queries in between it has recovered when it answers.
        self.configure("restore_command = 'false'\nhot_standby = off");
        let signal = self.data().join("recovery.signal");
        File::create(&signal).expect("a signal file");
        give_to_server(&signal);
        self.start();
    }

    /// Has the server take TLS with passwords on this port of 127.0.0.1, and nothing else there. Its socket moves along
    /// with the port: what asks through that has to be done before.
    pub fn serve_tls(&self, port: u16, certificate: &str, key: &str) {
        self.stop();
        let host = "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n";
        for (name, content) in [("server.crt", certificate), ("server.key", key), ("pg_hba.conf", host)] {
            let path = self.data().join(name);
            // One that is replaced is the server's already; a new one has to become it.
            fs::write(&path, content).expect("a file for the server");
            give_to_server(&path);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("one's own file");
        }
        self.configure(&format!("listen_addresses = '127.0.0.1'\nport = {port}\nssl = on"));
        self.start();
    }

    /// What the server wrote into its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).expect("a log")
    }

    /// Adds a line to the server's configuration; it counts from the next start on.
    pub fn configure(&self, line: &str) {
        let mut file =
            File::options().append(true).open(self.data().join("postgresql.conf")).expect("a file");
        writeln!(file, "{line}").expect("a line");
    }

    /// Runs SQL on a database and returns what it printed.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let output = self.psql(database, sql);
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    fn psql(&self, database: &str, sql: &str) -> Output {
        let folder = self.folder.display().to_string();
        let mut psql = Command::new(program("psql"));
        psql.args([
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            &folder,
            "-p",
            PORT,
            "-U",
            SERVER_USER,
        ]);
        psql.args(["-d", database, "-c", sql]).output().expect("psql runs")
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn create(&self, fsync: &str) {
        let mut initdb = as_server("initdb");
        initdb.arg("-D").arg(self.data()).args([
            "-U",
            SERVER_USER,
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
        ]);
        expect(initdb.arg("--no-sync"), "initdb");
        let settings = format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nport = {PORT}\nfsync = {fsync}\n\
             max_connections = 200\nshared_buffers = 32MB\nautovacuum_naptime = 5s\n",
            self.folder.display()
        );
        let mut file =
            File::options().append(true).open(self.data().join("postgresql.conf")).expect("a file");
        file.write_all(settings.as_bytes()).expect("settings");
    }

    fn runs(&self) -> bool {
        let status =
            as_server("pg_ctl").arg("-D").arg(self.data()).arg("status").output().expect("pg_ctl runs");
        status.status.success() && self.psql("postgres", "SELECT 1").status.success()
    }

    fn control(&self, arguments: &[&str]) {
        let mut pg_ctl = as_server("pg_ctl");
        // The server must not keep the pipe of a test open.
        pg_ctl.arg("-D").arg(self.data()).args(arguments).stdin(Stdio::null());
        let status = pg_ctl.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("pg_ctl runs");
        assert!(status.success(), "pg_ctl {arguments:?} failed: {}", self.last_words());
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines.iter().rev().take(20).rev().copied().collect::<Vec<_>>().join("\n")
    }

    /// A process of its own ends the server once no test has held the lock for a while.
    fn end_when_unused(&self) {
        let script = "while :; do idle=0; while [ $idle -lt 20 ]; do sleep 1; \
            if flock --nonblock --exclusive in-use true; then idle=$((idle + 1)); else idle=0; fi; done; \
            exec 9<starting; flock 9; \
            if flock --nonblock --exclusive in-use \"$0\" -D data -m immediate stop; then rm -rf data; exit; fi; \
            exec 9<&-; done";
        // Started in a session of its own, so that it outlives the test and hears no signal of its terminal.
        let mut ending = as_server("setsid");
        ending.args(["--fork", "bash", "-c", script]).arg(program("pg_ctl")).current_dir(&self.folder);
        ending.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().expect("bash runs");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.private.is_some() {
            let mut pg_ctl = as_server("pg_ctl");
            // It may be stopped already.
            drop(pg_ctl.arg("-D").arg(self.data()).args(["-w", "-m", "immediate", "stop"]).output());
        }
    }
}

/// A number for this checkout, so that two of them do not share a cluster.
fn checkout() -> u64 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    (env!("CARGO_MANIFEST_DIR"), rustix_uid()).hash(&mut hasher);
    hasher.finish()
}

fn rustix_uid() -> u32 {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self").map_or(0, |own| own.uid())
}

fn is_root() -> bool {
    rustix_uid() == 0
}

/// A program of the newest server installed.
fn program(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = versions
        .filter_map(|version| {
            let number = version.file_name().to_str()?.parse().ok()?;
            Some((number, version.path().join("bin").join(name)))
        })
        .filter(|(_, path)| path.is_file())
        .collect();
    found.sort();
    match found.pop() {
        Some((_, path)) => path,
        None if ["bash", "setsid"].contains(&name) => name.into(),
        None => panic!("there is no {name} under /usr/lib/postgresql: install the package postgresql"),
    }
}

/// A program, to be run as whoever may run a server.
fn as_server(name: &str) -> Command {
    let path = program(name);
    if !is_root() {
        return Command::new(path);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", SERVER_USER, "--regid", SERVER_USER, "--clear-groups", "--"]).arg(path);
    // Where the server may not look, it would complain.
    command.current_dir("/");
    command
}

fn folder_for_server(folder: &Path) {
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => give_to_server(folder),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => panic!("{}: {error}", folder.display()),
    }
}

fn give_to_server(folder: &Path) {
    if is_root() {
        let id = |flag| {
            let output = Command::new("id").args([flag, SERVER_USER]).output().expect("id runs");
            String::from_utf8_lossy(&output.stdout).trim().parse::<u32>().ok()
        };
        let (Some(user), Some(group)) = (id("-u"), id("-g")) else {
            panic!("there is no user {SERVER_USER}: install the package postgresql");
        };
        chown(folder, Some(user), Some(group)).expect("root may give a folder away");
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("one's own folder");
}

fn expect(command: &mut Command, what: &str) {
    let output = command.output().unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
}
