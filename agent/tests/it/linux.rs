//! Accounts of a real Linux system, each test on an island of its own.

mod island;
mod rotation;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keyturn_agent::accounts::{Accounts as _, Error, Verdict};
use keyturn_agent::platform::linux::{LinuxAccounts, Options};
use keyturn_domain::ambient::SystemClock;
use keyturn_domain::password::Password;

use self::island::{done, remove, replace, restore, shadow};

const NAME: &str = "lapsadmin";
const CHPASSWD: &str = "/usr/sbin/chpasswd";
const HELPER: &str = "/usr/sbin/unix_chkpwd";

fn account(name: &str, state: &Path, options: Options) -> LinuxAccounts {
    LinuxAccounts::new(name.parse().unwrap(), options, state, Arc::new(SystemClock))
}

fn password(text: &str) -> Password {
    Password::new(text.to_owned())
}

#[test]
fn an_account_is_created_with_its_groups_and_without_a_password() {
    island::run("linux::an_account_is_created_with_its_groups_and_without_a_password", async {
        let folder = tempfile::tempdir().unwrap();
        let account = account(NAME, folder.path(), Options::default());
        assert_eq!(account.find().unwrap(), None);
        let created = account.create().unwrap();
        assert_eq!(created.id.as_str(), done("id", &["-u", NAME], "").trim());
        assert_eq!(created.mark, None);
        assert!(done("id", &["-Gn", NAME], "").split_whitespace().any(|group| group == "sudo"));
        assert_eq!(account.create().unwrap(), created, "a second time does nothing");
        for text in ["", "anything"] {
            assert_eq!(account.verify(&password(text)).unwrap(), Verdict::Rejected);
        }
    });
}

#[test]
fn a_group_that_does_not_exist_is_not_made_up() {
    island::run("linux::a_group_that_does_not_exist_is_not_made_up", async {
        let folder = tempfile::tempdir().unwrap();
        let groups = Some(vec!["operators".to_owned()]);
        let account = account(NAME, folder.path(), Options { groups, ..Options::default() });
        let error = account.create().unwrap_err().to_string();
        assert!(error.contains("run groupadd operators"), "{error}");
        assert_eq!(account.find().unwrap(), None);
        done("groupadd", &["operators"], "");
        account.create().unwrap();
        assert!(done("id", &["-Gn", NAME], "").contains("operators"));
    });
}

#[test]
fn only_the_password_that_was_set_is_accepted() {
    island::run("linux::only_the_password_that_was_set_is_accepted", async {
        let folder = tempfile::tempdir().unwrap();
        let account = account(NAME, folder.path(), Options::default());
        assert!(matches!(account.set(&password("x")), Err(Error::Missing)));
        account.create().unwrap();
        let mut marks = Vec::new();
        for text in ["N3w:pass word-äé$1", "second, and longer: $(id) `id` \\ ' \"", "second, and longer"] {
            account.set(&password(text)).unwrap();
            assert_eq!(account.verify(&password(text)).unwrap(), Verdict::Accepted, "{text}");
            assert_eq!(account.verify(&password("other")).unwrap(), Verdict::Rejected);
            let found = account.find().unwrap().unwrap();
            marks.push(found.mark.unwrap());
            let age = keyturn_domain::clock::Clock::now(&SystemClock).0 / 1000 - found.set_at.unwrap();
            assert!(age < 2 * 86_400, "{age}");
        }
        account.set(&password("second, and longer")).unwrap();
        marks.push(account.find().unwrap().unwrap().mark.unwrap());
        marks.sort_unstable();
        marks.dedup();
        assert_eq!(marks.len(), 4, "every setting shows, also of the same password");
        for text in ["", "two\nlines", "a\rb", "a\0b"] {
            assert!(matches!(account.set(&password(text)), Err(Error::Policy(_))), "{text:?}");
        }
        done("usermod", &["--expiredate", "1", NAME], "");
        assert_eq!(account.verify(&password("second, and longer")).unwrap(), Verdict::Accepted, "expired");
        account.set(&password("third")).unwrap();
        assert_eq!(account.verify(&password("third")).unwrap(), Verdict::Accepted);
        assert_eq!(shadow(NAME, 7), "1", "and stays so");
    });
}

#[test]
fn a_locked_account_stays_locked() {
    island::run("linux::a_locked_account_stays_locked", async {
        let folder = tempfile::tempdir().unwrap();
        let keeping = account(NAME, folder.path(), Options::default());
        keeping.create().unwrap();
        keeping.set(&password("first")).unwrap();
        let before = keeping.find().unwrap();
        done("usermod", &["--lock", NAME], "");
        assert_eq!(keeping.find().unwrap(), before, "a lock is no new password");

        keeping.set(&password("second")).unwrap();
        assert!(shadow(NAME, 1).starts_with("!$"));
        assert_eq!(keeping.verify(&password("second")).unwrap(), Verdict::Accepted);
        assert!(keeping.verify(&password("first")).is_err(), "not known, so not claimed");
        done("usermod", &["--unlock", NAME], "");
        assert_eq!(keeping.verify(&password("second")).unwrap(), Verdict::Accepted);

        // A crash between chpasswd and the lock.
        fs::write(folder.path().join("relock"), NAME).unwrap();
        keeping.restore().unwrap();
        assert!(shadow(NAME, 1).starts_with("!$"));
        assert!(!folder.path().join("relock").exists());

        // chpasswd that fails leaves the lock, and one that sets all the same loses none.
        replace(CHPASSWD, folder.path(), "exit 1");
        assert!(keeping.set(&password("third")).is_err());
        assert!(shadow(NAME, 1).starts_with("!$") && !folder.path().join("relock").exists());
        restore(CHPASSWD);

        // Without the program that locks, the lock is not opened.
        let before = shadow(NAME, 1);
        remove("/usr/sbin/usermod");
        assert!(keeping.set(&password("third")).unwrap_err().to_string().contains("usermod is missing"));
        restore("/usr/sbin/usermod");
        assert_eq!(shadow(NAME, 1), before);

        let unlocking = account(NAME, folder.path(), Options { unlock: true, ..Options::default() });
        unlocking.set(&password("fourth")).unwrap();
        assert!(shadow(NAME, 1).starts_with('$'));
    });
}

#[test]
fn root_is_left_alone_unless_it_is_asked_for() {
    island::run("linux::root_is_left_alone_unless_it_is_asked_for", async {
        let folder = tempfile::tempdir().unwrap();
        done("useradd", &["--non-unique", "--uid", "0", "--no-create-home", "toor"], "");
        for name in ["root", "toor"] {
            let before = shadow(name, 1);
            let careful = account(name, folder.path(), Options::default());
            for error in [careful.find().unwrap_err(), careful.set(&password("x")).unwrap_err()] {
                assert!(matches!(error, Error::Root(_)), "{error}");
                assert!(error.to_string().contains("danger_manage_root = true"));
            }
            assert_eq!(shadow(name, 1), before);
        }
        let options = Options { danger_manage_root: true, ..Options::default() };
        let bold = account("toor", folder.path(), options);
        bold.set(&password("asked for")).unwrap();
        assert_eq!(bold.verify(&password("asked for")).unwrap(), Verdict::Accepted);
    });
}

#[test]
fn programs_that_are_missing_fail_or_hang_are_said_so() {
    island::run("linux::programs_that_are_missing_fail_or_hang_are_said_so", async {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { time_limit: Duration::from_secs(1), ..Options::default() };
        let account = account(NAME, folder.path(), options);
        account.create().unwrap();
        account.set(&password("first")).unwrap();
        let told = |script: &str, program: &str| {
            replace(program, folder.path(), script);
            let error = match program {
                CHPASSWD => account.set(&password("s3cret-canary")).unwrap_err(),
                _ => account.verify(&password("s3cret-canary")).unwrap_err(),
            };
            restore(program);
            let error = error.to_string();
            assert!(!error.contains("s3cret-canary"), "{error}");
            error
        };
        assert!(
            told("echo no disk >&2; exit 3", CHPASSWD).contains("chpasswd failed (exit status: 3): no disk")
        );
        assert!(told("cat; exit 3", CHPASSWD).contains("it said nothing"), "a password is not repeated");
        assert!(told("kill -9 $$", CHPASSWD).contains("signal: 9"));
        let hung = told(&format!("sleep 600 & echo $! >{}/pid; wait", folder.path().display()), CHPASSWD);
        assert!(hung.contains("chpasswd did not end within 1 s: raise account.time_limit"), "{hung}");
        let pid = fs::read_to_string(folder.path().join("pid")).unwrap();
        let state = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z "), "what it started is gone as well: {state}");
        assert!(told("exit 9", HELPER).contains("unix_chkpwd failed (exit status: 9)"));
        for (program, name) in [(CHPASSWD, "chpasswd"), (HELPER, "unix_chkpwd")] {
            remove(program);
            let error = match program {
                CHPASSWD => account.set(&password("x")).unwrap_err().to_string(),
                _ => account.verify(&password("x")).unwrap_err().to_string(),
            };
            restore(program);
            assert!(error.contains(&format!("{name} is missing; it comes with")), "{error}");
        }
        assert_eq!(account.verify(&password("first")).unwrap(), Verdict::Accepted, "nothing was changed");
    });
}

/// The real chpasswd waits for the lock of the account database without end; the agent does not.
#[test]
fn a_database_that_somebody_holds_is_given_up_in_time() {
    island::run("linux::a_database_that_somebody_holds_is_given_up_in_time", async {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { time_limit: Duration::from_secs(1), ..Options::default() };
        let account = account(NAME, folder.path(), options);
        account.create().unwrap();
        account.set(&password("first")).unwrap();
        // Locks of this kind do not hold against the process that has them, and do against its children.
        let lock = fs::File::options().write(true).open("/etc/.pwd.lock").unwrap();
        rustix::fs::fcntl_lock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let mut other = std::process::Command::new("python3")
            .args(["-c", "import fcntl,sys\nf=open('/etc/.pwd.lock','w')\nfcntl.lockf(f,fcntl.LOCK_EX)\nprint('held',flush=True)\nsys.stdin.read()"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        drop(lock);
        let mut line = String::new();
        let mut told = std::io::BufReader::new(other.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut told, &mut line).unwrap();
        let error = account.set(&password("second")).unwrap_err().to_string();
        assert!(error.contains("another program holds /etc/.pwd.lock"), "{error}");
        drop(other.stdin.take());
        other.wait().unwrap();
        assert_eq!(account.verify(&password("first")).unwrap(), Verdict::Accepted);
        account.set(&password("second")).unwrap();
    });
}

#[test]
fn a_refusal_of_the_policy_is_told_from_a_fault() {
    island::run("linux::a_refusal_of_the_policy_is_told_from_a_fault", async {
        let folder = tempfile::tempdir().unwrap();
        let account = account(NAME, folder.path(), Options::default());
        account.create().unwrap();
        let stack = "password required pam_pwhistory.so remember=5 enforce_for_root\n\
                     password required pam_unix.so use_authtok\n";
        fs::write("/etc/pam.d/chpasswd", stack).unwrap();
        account.set(&password("first")).unwrap();
        let error = account.set(&password("first")).unwrap_err();
        assert!(matches!(error, Error::Policy(_)), "{error}");
        assert!(error.to_string().contains("already used"), "{error}");
        fs::write("/etc/pam.d/chpasswd", "password requisite pam_deny.so\n").unwrap();
        assert!(matches!(account.set(&password("second")), Err(Error::Database(_))));
        assert_eq!(account.verify(&password("first")).unwrap(), Verdict::Accepted);
    });
}

#[test]
fn no_password_is_seen_from_outside() {
    island::run("linux::no_password_is_seen_from_outside", async {
        let folder = tempfile::tempdir().unwrap();
        let account = account(NAME, folder.path(), Options::default());
        account.create().unwrap();
        account.set(&password("first")).unwrap();
        let at = folder.path().display();
        let record = format!(
            "tr '\\0' '\\n' </proc/$$/cmdline >{at}/$(basename $0).cmdline\n\
             tr '\\0' '\\n' </proc/$$/environ >{at}/$(basename $0).environ\n\
             cat >{at}/$(basename $0).stdin"
        );
        for program in [CHPASSWD, HELPER] {
            replace(program, folder.path(), &record);
        }
        account.set(&password("s3cret-canary")).unwrap();
        account.verify(&password("s3cret-canary")).unwrap();
        for (name, input) in [("chpasswd", "lapsadmin:s3cret-canary\n"), ("unix_chkpwd", "s3cret-canary\0")] {
            let read = |kind: &str| fs::read_to_string(folder.path().join(format!("{name}.{kind}"))).unwrap();
            assert_eq!(read("stdin"), input);
            assert!(!read("cmdline").contains("canary") && read("cmdline").contains(name));
            assert_eq!(read("environ"), "LC_ALL=C\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\n");
        }
    });
}
