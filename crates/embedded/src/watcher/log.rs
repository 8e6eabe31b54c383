//! Writes to the log, as the kernel tells of them.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
#[cfg(target_os = "linux")]
use rustix::fs::inotify;

/// The log, watched by name. It is never opened: closing it again would drop the locks that SQLite holds on it in this
/// process.
#[derive(Debug)]
pub(super) struct Log {
    /// None where the kernel has no watch left for this user, or is not Linux.
    told: Option<OwnedFd>,
    stopped: io::PipeReader,
}

impl Log {
    /// Watches the log. The end of `stopped` ends every wait.
    pub(super) fn watch(path: &Path, stopped: io::PipeReader) -> Self {
        Self { told: begin(path).ok(), stopped }
    }

    /// Whether the kernel tells of writes.
    pub(super) fn is_told(&self) -> bool {
        self.told.is_some()
    }

    /// Waits for a write, for at most `time`. Returns whether there was one.
    pub(super) fn written_within(&self, time: Duration) -> bool {
        let mut waiting = vec![PollFd::new(&self.stopped, PollFlags::IN)];
        waiting.extend(self.told.as_ref().map(|told| PollFd::new(told, PollFlags::IN)));
        // An interrupted wait is as good as one that ended.
        let ended = poll(&mut waiting, Timespec::try_from(time).ok().as_ref());
        let [_, told] = waiting.as_slice() else { return false };
        let written = ended.is_ok() && !told.revents().is_empty();
        if written {
            self.forget();
        }
        written
    }

    /// Waits whatever is written.
    pub(super) fn leave_alone(&self, time: Duration) {
        // Cut short by a signal or by the end, it is over.
        let _ =
            poll(&mut [PollFd::new(&self.stopped, PollFlags::IN)], Timespec::try_from(time).ok().as_ref());
    }

    /// Takes what was told so far. Writes that follow each other are told as one, so this is little.
    fn forget(&self) {
        let mut events = [0_u8; 1024];
        while let Some(told) = &self.told
            && rustix::io::read(told, &mut events).is_ok_and(|read| read == events.len())
        {}
    }
}

#[cfg(target_os = "linux")]
fn begin(path: &Path) -> rustix::io::Result<OwnedFd> {
    let told = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
    inotify::add_watch(&told, path, inotify::WatchFlags::MODIFY)?;
    Ok(told)
}

#[cfg(not(target_os = "linux"))]
fn begin(_: &Path) -> rustix::io::Result<OwnedFd> {
    Err(rustix::io::Errno::NOSYS)
}
