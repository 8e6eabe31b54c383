//! File handles: a connection takes one. systemd gives a process 1024 of them unless it asks for more.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// What a process needs besides its connections: the state's file, logs, engines, whoever asks for its health.
const OTHERS: u64 = 256;

/// Takes as many handles as the system allows this process. Returns how many of these connections it can hold open at once, and
/// warns if those are not all: further ones wait until others have ended.
pub(crate) fn provide(connections: usize) -> usize {
    let Some(there) = take_all() else { return connections };
    let held = connections.min(fit(there));
    if held < connections {
        warn!(
            handles = there,
            "only {held} of ingress.connections = {connections} can be open at once: let this process have more open files \
             (LimitNOFILE= of its unit, or ulimit -Hn), or lower the setting"
        );
    }
    held
}

/// How many connections so many handles are enough for. Even where they are very few, some of them are connections.
fn fit(handles: u64) -> usize {
    let fit = handles.saturating_sub(OTHERS).max(handles / 2).max(1);
    usize::try_from(fit).unwrap_or(usize::MAX)
}

/// Raises what is allowed to all that may be. Returns what it is then; none is no limit.
fn take_all() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // Who may not raise it has what there is.
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    if raised.is_ok() { maximum } else { current }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_else_needs_a_handle_has_one() {
        assert_eq!([0, 64, 1024, 65_536].map(fit), [1, 32, 768, 65_280]);
    }

    #[test]
    fn all_that_the_system_allows_is_taken() {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        // As systemd starts a service.
        setrlimit(Resource::Nofile, Rlimit { current: Some(1024), maximum }).unwrap();
        assert_eq!(take_all(), maximum);
        assert_eq!(getrlimit(Resource::Nofile).current, maximum);
    }
}
