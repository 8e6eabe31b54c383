//! Telling other processes that share the file what was committed.
//!
//! Each process has a socket beside the file, with `.bell-` and a random name behind the name of the file. Who opens the
//! file says hello at every socket there is, and is known to all who were there before; a socket with nobody behind it is
//! removed by the first who notices. After a commit that concerns somebody, everybody else is told which queues and which
//! results are worth a look. Where no other process has the file open, nothing is sent.
//!
//! Whoever may write to the file may ring, and a bell has no effect but that somebody looks. It may also get lost, where a
//! process does not read what it is sent or has no socket; so nobody relies on bells alone, see [`crate::watcher`].

mod word;

use std::fs::{File, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keyturn_domain::entropy::Entropy;

pub(crate) use self::word::News;
use self::word::Word;
use crate::signals::Woken;

/// This process's socket. It is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Bell {
    socket: UnixDatagram,
    others: Arc<Others>,
}

/// The way to the processes that have the file open besides this one.
#[derive(Debug)]
pub(crate) struct Others {
    /// Never waits.
    socket: UnixDatagram,
    /// The folder of the file. Sockets are reached through its handle: their addresses have room for 107 bytes.
    folder: File,
    path: PathBuf,
    /// What the names of all sockets begin with.
    prefix: String,
    /// The name of this process's own.
    own: String,
    known: Mutex<Vec<String>>,
}

impl Bell {
    /// Makes a socket beside `file` and tells the others of it.
    pub(crate) fn hang(file: &Path, entropy: &dyn Entropy) -> io::Result<Self> {
        let others = Arc::new(Others::beside(file, entropy)?);
        let socket = UnixDatagram::bind(others.address(&others.own))?;
        let bell = Self { socket, others };
        // Whoever may write to the file may ring.
        let mode = std::fs::metadata(file)?.mode() & 0o666;
        std::fs::set_permissions(bell.others.address(&bell.others.own), Permissions::from_mode(mode))?;
        bell.others.greet()?;
        Ok(bell)
    }

    pub(crate) fn others(&self) -> &Arc<Others> {
        &self.others
    }

    /// What was rung for next, within so long. None if nothing was, or somebody only said hello.
    pub(crate) fn heard(&self, within: Duration) -> io::Result<Option<News>> {
        let mut bytes = [0; word::LONGEST];
        self.socket.set_read_timeout(Some(within))?;
        let length = match self.socket.recv(&mut bytes) {
            Ok(length) => length,
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let Some(word) = bytes.get(..length).and_then(Word::decode) else { return Ok(Some(News::Anything)) };
        self.others.meet(word.from);
        Ok(word.news)
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        // Otherwise somebody removes it who finds nobody behind it.
        let _ = std::fs::remove_file(self.others.address(&self.others.own));
    }
}

impl Others {
    fn beside(file: &Path, entropy: &dyn Entropy) -> io::Result<Self> {
        let name = file.file_name().and_then(|name| name.to_str()).ok_or(ErrorKind::InvalidFilename)?;
        let prefix = format!("{name}.bell-");
        let own = format!("{prefix}{:016x}", u64::from_be_bytes(entropy.bytes()));
        let path = match file.parent() {
            Some(folder) if folder != Path::new("") => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, folder: File::open(&path)?, path, prefix, own, known: Mutex::default() })
    }

    /// Tells them what a commit changed.
    pub(crate) fn ring(&self, woken: &Woken) {
        if woken.is_empty() || self.known().is_empty() {
            return;
        }
        let word = Word::of(self.own.clone(), woken).encode();
        let known = self.known().clone();
        let gone: Vec<String> = known.into_iter().filter(|other| !self.reaches(other, &word)).collect();
        if !gone.is_empty() {
            self.known().retain(|other| !gone.contains(other));
        }
    }

    /// Ends a wait of this process's own bell.
    pub(crate) fn ring_own(&self) {
        // If there is no room there is something to be heard already.
        let _ = self.socket.send_to(&[], self.address(&self.own));
    }

    /// Tells everybody who is there of this process.
    fn greet(&self) -> io::Result<()> {
        let hello = Word::hello(self.own.clone()).encode();
        for entry in std::fs::read_dir(&self.path)? {
            let Ok(name) = entry?.file_name().into_string() else { continue };
            if name != self.own && self.is_bell(&name) && self.reaches(&name, &hello) {
                self.meet(name);
            }
        }
        Ok(())
    }

    /// Whether somebody is behind this socket, who may have been told or be too busy to listen.
    fn reaches(&self, name: &str, word: &[u8]) -> bool {
        match self.socket.send_to(word, self.address(name)) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                // Nobody is: its process died, and no other ever has the same name.
                let _ = std::fs::remove_file(self.address(name));
                false
            }
            Err(error) => error.kind() != ErrorKind::NotFound,
            Ok(_) => true,
        }
    }

    fn meet(&self, name: String) {
        let mut known = self.known();
        if self.is_bell(&name) && name != self.own && !known.contains(&name) {
            known.push(name);
        }
    }

    fn is_bell(&self, name: &str) -> bool {
        name.strip_prefix(&self.prefix).is_some_and(|rest| {
            rest.len() == 16 && rest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        })
    }

    fn address(&self, name: &str) -> PathBuf {
        if cfg!(target_os = "linux") {
            format!("/proc/self/fd/{}/{name}", self.folder.as_raw_fd()).into()
        } else {
            self.path.join(name)
        }
    }

    fn known(&self) -> MutexGuard<'_, Vec<String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use keyturn_domain::ambient::SystemEntropy;
    use keyturn_ports::queue::QueueName;
    use tempfile::TempDir;

    use super::*;

    const SOON: Duration = Duration::from_millis(1);

    /// A file in a folder whose path is longer than the address of a socket may be.
    fn file() -> (TempDir, PathBuf) {
        let folder = TempDir::new().unwrap();
        let deep = folder.path().join("x".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let file = deep.join("keyturn.db");
        std::fs::write(&file, "").unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o660)).unwrap();
        (folder, file)
    }

    fn hang(file: &Path) -> Bell {
        Bell::hang(file, &SystemEntropy).unwrap()
    }

    fn sent() -> Woken {
        let mut woken = Woken::default();
        woken.sent(QueueName::Findings, 7);
        woken
    }

    fn beside(file: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(file.parent().unwrap()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn everybody_else_is_told_whoever_came_first() {
        let (_folder, file) = file();
        let bells = [hang(&file), hang(&file), hang(&file)];
        for (after, bell) in (0..3).rev().zip(&bells) {
            (0..after).for_each(|_| assert!(bell.heard(SOON).unwrap().is_none(), "hello"));
        }
        for (number, ringing) in bells.iter().enumerate() {
            ringing.others().ring(&sent());
            for (other, bell) in bells.iter().enumerate() {
                let heard = bell.heard(SOON).unwrap();
                if other == number {
                    assert!(heard.is_none(), "its own");
                } else {
                    assert!(matches!(heard, Some(News::Of(woken)) if woken == sent()));
                }
            }
        }
    }

    #[test]
    fn who_may_write_may_ring_and_nothing_is_left_behind() {
        let (_folder, file) = file();
        let bell = hang(&file);
        let socket = bell.others().address(&bell.others().own);
        assert_eq!(std::fs::metadata(socket).unwrap().mode() & 0o777, 0o660);
        drop(bell);
        assert_eq!(beside(&file), ["keyturn.db"]);
    }

    #[test]
    fn sockets_of_the_dead_are_removed() {
        let (_folder, file) = file();
        let dead = format!("{}.bell-0123456789abcdef", file.display());
        let other = format!("{}.bell-other", file.display());
        let folder = File::open(file.parent().unwrap()).unwrap();
        for name in [&dead, &other] {
            let name = Path::new(name).file_name().unwrap().to_str().unwrap();
            drop(UnixDatagram::bind(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd())).unwrap());
        }
        let bell = hang(&file);
        assert!(!Path::new(&dead).exists());
        assert!(Path::new(&other).exists(), "no name of ours");
        assert!(bell.others().known().is_empty());
        // One that dies later.
        let second = hang(&file);
        drop(bell.heard(SOON).unwrap());
        assert_eq!(bell.others().known().len(), 1);
        drop(second);
        bell.others().ring(&sent());
        assert!(bell.others().known().is_empty());
    }

    #[test]
    fn who_does_not_listen_keeps_nobody_waiting() {
        let (_folder, file) = file();
        let (deaf, bell) = (hang(&file), hang(&file));
        for _ in 0..10_000 {
            bell.others().ring(&sent());
        }
        assert!(matches!(deaf.heard(SOON), Ok(None)), "hello");
        assert!(matches!(deaf.heard(SOON), Ok(Some(News::Of(_)))));
        bell.others().ring(&sent());
    }

    #[test]
    fn what_is_not_understood_might_be_anything() {
        let (_folder, file) = file();
        let bell = hang(&file);
        let stranger = UnixDatagram::unbound().unwrap();
        for word in [&b"?"[..], &[9; 300]] {
            stranger.send_to(word, bell.others().address(&bell.others().own)).unwrap();
            assert!(matches!(bell.heard(SOON), Ok(Some(News::Anything))));
        }
        assert!(bell.others().known().is_empty());
    }
}
