//! What processes cost: CPU time, memory, bytes written, from Linux's `/proc` (proc(5)).

use std::fs;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;

/// What a process has used since it began, and what it holds now.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Usage {
    /// CPU time of all its threads, in user and kernel mode, to a hundredth of a second.
    pub cpu: Duration,
    /// Resident memory, in bytes.
    pub memory: u64,
    /// The most that it ever was.
    pub peak: u64,
    /// Bytes it made the kernel send to disks.
    pub written: u64,
}

/// Takes as many file handles as the system allows this process: each connection needs one, and shells start programs with a
/// thousand.
pub fn take_handles() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // With fewer, connections fail and are opened again later, and the report says how many.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// A process's usage; none if it is gone.
pub fn usage(pid: u32) -> Option<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    let pages: u64 = fields.get(21)?.parse().ok()?;
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok()).unwrap_or(0);
    let page = u64::try_from(rustix::param::page_size()).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
    Some(Usage { cpu: of_ticks(ticks), memory: pages * page, peak: peak.unwrap_or(0) * 1024, written })
}

/// CPU time that all processes of the machine have used, this one's share of virtual time stolen by others included.
pub fn machine() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let fields: Vec<u64> =
        stat.lines().next()?.split_whitespace().skip(1).map_while(|field| field.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; guest time is in user time already.
    let busy = fields
        .iter()
        .take(8)
        .enumerate()
        .filter(|(at, _)| !matches!(at, 3 | 4))
        .map(|(_, ticks)| ticks)
        .sum();
    Some(of_ticks(busy))
}

/// The load average of the last minute.
pub fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// What the processor calls itself.
pub fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn of_ticks(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something_and_the_machine_no_less() {
        let mut spin = 0_u64;
        while usage(std::process::id()).unwrap().cpu.is_zero() {
            for n in 0..1_000_000_u64 {
                spin = spin.wrapping_mul(31).wrapping_add(n);
            }
        }
        let own = usage(std::process::id()).unwrap();
        assert!(own.memory > 100_000 && machine().unwrap() >= own.cpu && load().is_some(), "{own:?} {spin}");
        assert!(usage(u32::MAX).is_none());
    }
}
