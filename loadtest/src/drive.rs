//! Many rotations: each arrival of the schedule becomes a task at its time, whatever the ones before it are doing. A
//! device does one rotation at a time; an arrival that finds none free waits for one, and the wait is in its latency.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use keyturn_domain::ambient::SystemClock;
use keyturn_domain::clock::Clock as _;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::device::{Device, World};
use crate::record::{Record, Timeline};
use crate::scenario::Phase;

/// Connections that sign ahead at once.
const SIGNERS: usize = 16;

/// The devices that do nothing at the moment. The one that has rested longest goes first.
pub struct Pool {
    free: Semaphore,
    devices: Mutex<VecDeque<Box<Device>>>,
}

impl Pool {
    /// All devices, resting.
    pub fn new(devices: Vec<Device>) -> Self {
        let devices: VecDeque<_> = devices.into_iter().map(Box::new).collect();
        Self { free: Semaphore::new(devices.len()), devices: Mutex::new(devices) }
    }

    async fn take(&self) -> Result<Box<Device>> {
        self.free.acquire().await?.forget();
        self.devices().pop_front().context("a permit stands for a device")
    }

    fn put(&self, device: Box<Device>) {
        self.devices().push_back(device);
        self.free.add_permits(1);
    }

    /// The devices, once all are back.
    pub fn into_devices(self) -> Vec<Device> {
        let devices = self.devices.into_inner().unwrap_or_else(PoisonError::into_inner);
        devices.into_iter().map(|device| *device).collect()
    }

    /// How many rest.
    pub fn resting(&self) -> usize {
        self.devices().len()
    }

    fn devices(&self) -> std::sync::MutexGuard<'_, VecDeque<Box<Device>>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a phase until its last rotation has ended. Returns how long that took.
pub async fn run(
    phase: &Phase,
    schedule: Vec<Duration>,
    world: &Arc<World>,
    pool: &Arc<Pool>,
    record: &Arc<Record>,
) -> Result<Duration> {
    if phase.presign {
        presign(schedule.len(), world, pool).await.with_context(|| format!("phase {}", phase.name))?;
    }
    let start = SystemClock.monotonic();
    let mut running = JoinSet::new();
    for offset in schedule {
        let intended = start + offset;
        until(intended).await;
        let (world, pool, record) = (Arc::clone(world), Arc::clone(pool), Arc::clone(record));
        running.spawn(async move {
            let mut device = pool.take().await?;
            let mut timeline = Timeline::start(intended);
            let ended = device.rotate(&world, &mut timeline).await;
            record.add(&timeline, &ended, start);
            pool.put(device);
            anyhow::Ok(())
        });
        while let Some(ended) = running.try_join_next() {
            ended??;
        }
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    Ok(SystemClock.monotonic().saturating_sub(start))
}

/// Waits until an arrival is due. Even a sleep of no time lasts until the timer's next tick, a millisecond, so who is late does
/// not sleep: there would be no more than a thousand arrivals in a second.
async fn until(intended: Duration) {
    let ahead = intended.saturating_sub(SystemClock.monotonic());
    if !ahead.is_zero() {
        tokio::time::sleep(ahead).await;
    }
}

/// Signs a request for each of the next `count` arrivals. They take devices in the same order.
async fn presign(count: usize, world: &Arc<World>, pool: &Arc<Pool>) -> Result<()> {
    let resting = pool.resting();
    ensure!(
        count <= resting,
        "presign: {count} arrivals need as many devices, there are {resting}: what a device knows must not change \
         between signing and sending"
    );
    let mut waiting = Vec::with_capacity(count);
    for _ in 0..count {
        waiting.push(Some(pool.take().await?));
    }
    let next = std::sync::atomic::AtomicUsize::new(0);
    let slots: Vec<_> = waiting.into_iter().map(Mutex::new).collect();
    let (slots, next) = (Arc::new(slots), Arc::new(next));
    let mut signers = JoinSet::new();
    for _ in 0..SIGNERS {
        let (slots, next, world) = (Arc::clone(&slots), Arc::clone(&next), Arc::clone(world));
        signers.spawn(async move {
            let mut connection = None;
            while let Some(slot) = slots.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                let taken = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
                let mut device = taken.context("each slot is taken once")?;
                let signed = device.presign(&world, &mut connection).await;
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(device);
                signed?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = signers.join_next().await {
        ended??;
    }
    let slots = Arc::into_inner(slots).context("all signers have ended")?;
    // In front of those that rest, in order.
    for slot in slots.into_iter().rev() {
        if let Some(device) = slot.into_inner().unwrap_or_else(PoisonError::into_inner) {
            pool.devices().push_front(device);
            pool.free.add_permits(1);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn arrivals_may_be_many_more_than_the_timer_has_ticks() {
        let start = SystemClock.monotonic();
        for n in 0..5_000 {
            until(start + Duration::from_micros(n)).await;
        }
        let took = SystemClock.monotonic().saturating_sub(start);
        assert!(took >= Duration::from_micros(4_999), "none is early: {took:?}");
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
}
