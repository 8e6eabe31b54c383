//! A place where accounts may be made and broken: a mount namespace with a copy-on-write /etc, and folders of its
//! own where else the system's programs write. The machine's accounts are never touched.

use std::ffi::OsStr;
use std::io::{Write as _, stderr};
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Tells a test that it runs in the namespace.
const INSIDE: &str = "KEYTURN_TEST_ISLAND";

/// What the shell ends with if the namespace cannot be had.
const IMPOSSIBLE: i32 = 77;

/// $1 is an empty folder, the rest is what to run.
const PREPARE: &str = r#"
island=$1; shift
{
    mount -t tmpfs tmpfs "$island" && mkdir "$island/upper" "$island/work" &&
    mount -t overlay overlay -o "lowerdir=/etc,upperdir=$island/upper,workdir=$island/work" /etc &&
    for folder in /home /var/mail /var/log; do mount -t tmpfs tmpfs "$folder" || exit 77; done
} || exit 77
exec "$@"
"#;

/// Runs a test on an island, by running its own program again with that test alone. `name` is the test's path.
pub(crate) fn run(name: &str, test: impl Future<Output = ()>) {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        return runtime.unwrap().block_on(test);
    }
    if !rustix::process::geteuid().is_root() {
        return skip(name, "only root can make accounts");
    }
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", PREPARE, "sh"]).arg(folder.path());
    command.arg(std::env::current_exe().unwrap()).args(["--exact", name, "--nocapture"]);
    let output = command.env(INSIDE, "1").stdin(Stdio::null()).output().unwrap();
    match output.status.code() {
        Some(0) => {
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(said.contains("1 passed"), "{name} is no test's path: {said}");
        }
        Some(IMPOSSIBLE) => {
            skip(name, &format!("no namespace: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
        _ => {
            panic!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
        }
    }
}

/// Not captured by the harness, so that it is seen.
fn skip(name: &str, why: &str) {
    assert!(
        std::env::var_os("CI").is_none_or(|ci| ci != "true"),
        "{name}: {why}; nothing may be skipped here"
    );
    let _ = writeln!(stderr(), "skipped {name}: {why}");
}

/// Runs a program of the system to its end.
pub(crate) fn system<S: AsRef<OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = S>,
    input: &str,
) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// The same, and it has to end well.
pub(crate) fn done(program: &str, arguments: &[&str], input: &str) -> String {
    let output = system(program, arguments, input);
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Puts a shell script in the place of a program, for this namespace only.
pub(crate) fn replace(program: &str, folder: &Path, script: &str) {
    let path = folder.join(Path::new(program).file_name().unwrap());
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    done("chmod", &["755", path.to_str().unwrap()], "");
    done("mount", &["--bind", path.to_str().unwrap(), program], "");
}

/// Takes a program away.
pub(crate) fn remove(program: &str) {
    done("mount", &["--bind", "/dev/null", program], "");
}

/// Gives the program back.
pub(crate) fn restore(program: &str) {
    done("umount", &[program], "");
}

/// A field of /etc/shadow.
pub(crate) fn shadow(name: &str, number: usize) -> String {
    let text = std::fs::read_to_string("/etc/shadow").unwrap();
    let line = text.lines().find(|line| line.split(':').next() == Some(name)).unwrap();
    line.split(':').nth(number).unwrap().to_owned()
}
