//! The least that durability costs: a log that was written before, one write and one fdatasync for all who wait. It keeps
//! what is in flight in memory and overwrites what is old, so it is a ceiling and no queue.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::flow::{self, BATCH, Broker, Figures};
use crate::{Result, servers};

const LOG: u64 = 64 << 20;

/// As many as the embedded queue writes at once.
const LARGEST: usize = 512;

struct Raw {
    writer: mpsc::Sender<(Vec<u8>, oneshot::Sender<()>)>,
    waiting: Mutex<u64>,
}

pub async fn round(length: Duration) -> Result<Figures> {
    let folder = servers::folder()?;
    let file = File::create(folder.path().join("log"))?;
    file.write_all_at(&vec![0; LOG as usize], 0)?;
    file.sync_all()?;
    let (writer, waiting) = mpsc::channel(4 * LARGEST);
    let thread = std::thread::spawn(move || write(&file, waiting));
    let figures = flow::load(Raw { writer, waiting: Mutex::new(0) }, None, length).await;
    thread.join().map_err(|_| "the log's thread panicked")??;
    figures
}

fn write(file: &File, mut waiting: mpsc::Receiver<(Vec<u8>, oneshot::Sender<()>)>) -> std::io::Result<()> {
    let (mut batch, mut bytes, mut at) = (Vec::new(), Vec::new(), 0);
    while waiting.blocking_recv_many(&mut batch, LARGEST) > 0 {
        batch.iter().for_each(|(message, _)| bytes.extend_from_slice(message));
        if !bytes.is_empty() {
            if at + bytes.len() as u64 > LOG {
                at = 0;
            }
            file.write_all_at(&bytes, at)?;
            file.sync_data()?;
            at += bytes.len() as u64;
            bytes.clear();
        }
        for (_, told) in batch.drain(..) {
            // Who does not wait any more need not know.
            let _ = told.send(());
        }
    }
    Ok(())
}

impl Raw {
    async fn written(&self, bytes: Vec<u8>) -> Result<()> {
        let (told, answer) = oneshot::channel();
        self.writer.send((bytes, told)).await.map_err(|_| "the log's thread ended")?;
        Ok(answer.await?)
    }
}

impl Broker for Raw {
    type Lease = ();

    async fn push(&self, _: usize) -> Result<()> {
        self.written(flow::body().into_bytes()).await?;
        *self.waiting.lock().map_err(|_| "poisoned")? += 1;
        Ok(())
    }

    /// A settlement is a record of 16 bytes for each message that goes with the next write of anybody, and waits for it.
    async fn work(&self, _: usize, done: Vec<()>) -> Result<Vec<()>> {
        if !done.is_empty() {
            self.written(vec![0; 16 * done.len()]).await?;
        }
        let mut waiting = self.waiting.lock().map_err(|_| "poisoned")?;
        let taken = (*waiting).min(BATCH as u64);
        *waiting -= taken;
        Ok(vec![(); taken as usize])
    }
}
