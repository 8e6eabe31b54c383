//! The two moments in which the password itself is handled: chpasswd sets it, unix_chkpwd tries it. Both read it
//! from standard input.

use keyturn_domain::password::Password;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::name::UserName;
use super::tool::{Done, Tool};
use crate::accounts::{Error, Verdict};

/// unix_chkpwd's words for a right and a wrong password: PAM_SUCCESS and PAM_AUTH_ERR (_pam_types.h).
const RIGHT: i32 = 0;
const WRONG: i32 = 7;

/// What modules of PAM say when a password does not meet their policy: pam_pwquality and pam_cracklib; pam_pwhistory;
/// pam_unix with `remember`; and what each of them ends with.
const POLICY: [&str; 4] =
    ["BAD PASSWORD", "has been already used", "Password unchanged", "exhausted maximum number of retries"];

/// What a logon with one password proved while the account had one hash.
pub(super) struct Proof {
    password: Zeroizing<[u8; 32]>,
    mark: u64,
    verdict: Verdict,
}

impl Proof {
    pub(super) fn new(password: &Password, mark: u64, verdict: Verdict) -> Self {
        Self { password: fingerprint(password), mark, verdict }
    }

    /// The verdict, if it is about this password and this hash.
    pub(super) fn recall(&self, password: &Password, mark: u64) -> Option<Verdict> {
        (self.mark == mark && self.password == fingerprint(password)).then_some(self.verdict)
    }
}

fn fingerprint(password: &Password) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(Sha256::digest(password.expose().as_bytes()).into())
}

/// Has chpasswd(8) set the password, by way of PAM and whatever policy it has.
pub(super) fn set(chpasswd: &Tool<'_>, name: &UserName, password: &Password) -> Result<(), Error> {
    let text = password.expose();
    if text.is_empty() || text.contains(['\n', '\r', '\0']) {
        return Err(Error::Policy("it is empty, or has an end of line in it".to_owned()));
    }
    let line = Zeroizing::new(format!("{name}:{text}\n"));
    let done = chpasswd.run(&[], line.as_bytes())?;
    if done.code() == Some(0) { Ok(()) } else { Err(refusal(done, text)) }
}

fn refusal(mut done: Done, password: &str) -> Error {
    // No module of PAM repeats a password. One that did must not get it into a log.
    if done.said.contains(password) {
        done.said.clear();
    }
    if POLICY.iter().any(|words| done.said.contains(words)) {
        return Error::Policy(done.said);
    }
    done.failure()
}

/// Has unix_chkpwd(8) try the password: PAM's own helper, with the system's own crypt(3). It looks at the hash and
/// at nothing else, so an account that has expired or may not log on tells right from wrong all the same, and
/// nothing is counted against a lockout.
pub(super) fn verify(helper: &Tool<'_>, name: &UserName, password: &Password) -> Result<Verdict, Error> {
    let input = Zeroizing::new(format!("{}\0", password.expose()));
    let done = helper.run(&[name.as_str(), "nonull"], input.as_bytes())?;
    match done.code() {
        Some(RIGHT) => Ok(Verdict::Accepted),
        Some(WRONG) => Ok(Verdict::Rejected),
        _ => Err(done.failure()),
    }
}
