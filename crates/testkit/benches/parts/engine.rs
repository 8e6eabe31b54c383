//! Parts of the embedded engine: a file of its own for each, so that none finds what another left.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use keyturn_domain::ids::{DeviceId, KeyHash, MessageMark, RequestId};
use keyturn_embedded::{Database, OpenOptions};
use keyturn_ports::intake::{Intake as _, Submission};
use keyturn_ports::ledger::{Commit, Ledger as _, Loaded, Wanted};
use keyturn_ports::queue::{Leased, NewMessage, Queue as _, QueueName, Settlement};
use keyturn_testkit::clock::ManualClock;
use keyturn_testkit::conformance::sample;
use keyturn_testkit::entropy::SeededEntropy;
use tokio::runtime::{Builder, Runtime};

use super::limits::BODY;
use super::{Counted, Part};

const QUEUE: QueueName = QueueName::Requests;

/// Items of a batch.
const BATCH: u32 = 64;

pub(super) fn parts(folder: &Path) -> Vec<Part> {
    let named: [(&'static str, u32, Make); 12] = [
        ("intake: accept 1", 1, accept),
        ("intake: accept 64", BATCH, accept),
        ("queue: send 1", 1, send),
        ("queue: send 64", BATCH, send),
        ("queue: lease 1", 1, lease),
        ("queue: lease 64", BATCH, lease),
        ("queue: settle and forward 1", 1, settle),
        ("queue: settle and forward 64", BATCH, settle),
        ("ledger: load 1", 1, load),
        ("ledger: load 64", BATCH, load),
        ("ledger: commit 1", 1, commit),
        ("ledger: commit 64", BATCH, commit),
    ];
    let part = |(name, items, of): (&'static str, u32, Make)| {
        // Opened at the first call: whoever counts one part opens one file.
        let path = folder.join(format!("{}.db", name.replace([' ', ':'], "-")));
        let calls = Rc::new(RefCell::new(None::<Calls>));
        let (first, second) = (Rc::clone(&calls), calls);
        Part {
            name,
            items,
            prepare: Box::new(move || {
                let mut calls = first.borrow_mut();
                (calls.get_or_insert_with(|| of(Engine::open(&path), items)).0)();
            }),
            call: Box::new(move || (second.borrow_mut().as_mut().unwrap().1)()),
            counted: Counted::Difference,
        }
    };
    named.into_iter().map(part).collect()
}

/// Makes a part of so many items on a file.
type Make = fn(Engine, u32) -> Calls;

/// What is prepared, and what is called.
type Calls = (Box<dyn FnMut()>, Box<dyn FnMut()>);

/// An open file, and numbers for what is put into it.
struct Engine {
    runtime: Runtime,
    database: Database,
    drawn: u64,
}

impl Engine {
    fn open(path: &Path) -> Self {
        let (clock, entropy) = (Arc::new(ManualClock::default()), Arc::new(SeededEntropy::new(1)));
        let database = Database::open(OpenOptions::new(path, clock, entropy)).unwrap();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        Self { runtime, database, drawn: 0 }
    }

    fn request(&mut self) -> RequestId {
        self.drawn += 1;
        RequestId::of(&self.drawn.to_string())
    }

    fn messages(&mut self, items: u32) -> Vec<NewMessage> {
        let message = |engine: &mut Self| NewMessage {
            request: engine.request(),
            device: DeviceId::from_bytes([1; 16]),
            body: BODY.to_owned(),
        };
        (0..items).map(|_| message(self)).collect()
    }

    fn send(&mut self, messages: Vec<NewMessage>) {
        self.runtime.block_on(self.database.send(QUEUE, messages)).unwrap();
    }

    fn lease(&mut self, items: u32) -> Vec<Leased> {
        let leased = self.database.lease(QUEUE, items as usize, Duration::from_mins(1));
        let leased = self.runtime.block_on(leased).unwrap();
        assert_eq!(leased.len(), items as usize);
        leased
    }

    /// Completes what was leased, and forwards as much where `forwarded` says so.
    fn settle(&mut self, leased: Vec<Leased>, forward: Vec<(QueueName, NewMessage)>) {
        let settled = leased.into_iter().map(|one| (one.receipt, Settlement::Complete)).collect();
        self.runtime.block_on(self.database.settle(QUEUE, settled, forward)).unwrap();
    }

    /// Empties the queue that was forwarded to, so that files keep their size.
    fn drain(&mut self, queue: QueueName) {
        let leased = self.database.lease(queue, BATCH as usize, Duration::from_mins(1));
        let leased = self.runtime.block_on(leased).unwrap();
        let settled = leased.into_iter().map(|one| (one.receipt, Settlement::Complete)).collect();
        // What is done with waits for a transaction, which a lease is.
        let settling = self.database.settle(queue, settled, Vec::new());
        let leasing = self.database.lease(queue, 1, Duration::from_mins(1));
        let (settled, _) = self.runtime.block_on(async { tokio::join!(settling, leasing) });
        settled.unwrap();
    }

    fn wanted(&mut self, items: u32) -> Vec<Wanted> {
        let wanted = |engine: &mut Self| {
            let request = engine.request();
            let mut mark = [0; 16];
            mark.copy_from_slice(&request.as_bytes()[..16]);
            let key = sample::lane_key(1, 1);
            Wanted {
                device: key.device,
                lane: key.id(),
                request,
                nonce: sample::nonce(1),
                mark: (KeyHash([7; 32]), MessageMark(mark)),
                versions: [sample::version(1)].into(),
            }
        };
        (0..items).map(|_| wanted(self)).collect()
    }

    fn load(&mut self, wanted: Vec<Wanted>) -> Vec<Loaded> {
        self.runtime.block_on(self.database.load(wanted)).unwrap()
    }
}

/// Shares one value between what is prepared and what is called.
fn both<T: 'static>(
    engine: Engine,
    mut prepare: impl FnMut(&mut Engine) -> T + 'static,
    mut call: impl FnMut(&mut Engine, T) + 'static,
) -> Calls {
    let shared = Rc::new(RefCell::new((engine, None)));
    let (first, second) = (Rc::clone(&shared), shared);
    let prepare = move || {
        let (engine, ready) = &mut *first.borrow_mut();
        *ready = Some(prepare(engine));
    };
    let call = move || {
        let (engine, ready) = &mut *second.borrow_mut();
        call(engine, ready.take().unwrap());
    };
    (Box::new(prepare), Box::new(call))
}

fn accept(engine: Engine, items: u32) -> Calls {
    let submissions = move |engine: &mut Engine| {
        // What came in before is done with.
        engine.drain(QUEUE);
        let one = |message| Submission { nonce: sample::nonce(1), message };
        engine.messages(items).into_iter().map(one).collect()
    };
    both(engine, submissions, |engine, submissions| {
        engine.runtime.block_on(engine.database.accept(submissions)).unwrap();
    })
}

fn send(engine: Engine, items: u32) -> Calls {
    let messages = move |engine: &mut Engine| {
        engine.drain(QUEUE);
        engine.messages(items)
    };
    both(engine, messages, Engine::send)
}

fn lease(engine: Engine, items: u32) -> Calls {
    let sent = move |engine: &mut Engine| {
        let messages = engine.messages(items);
        engine.send(messages);
    };
    // The leased are left: a lease does not look at what others hold.
    both(engine, sent, move |engine, ()| drop(engine.lease(items)))
}

fn settle(engine: Engine, items: u32) -> Calls {
    let leased = move |engine: &mut Engine| {
        engine.drain(QueueName::Findings);
        let messages = engine.messages(items);
        engine.send(messages);
        let forward = engine.messages(items).into_iter().map(|message| (QueueName::Findings, message));
        (engine.lease(items), forward.collect())
    };
    both(engine, leased, |engine, (leased, forward)| engine.settle(leased, forward))
}

fn load(engine: Engine, items: u32) -> Calls {
    both(engine, move |engine| engine.wanted(items), |engine, wanted| drop(engine.load(wanted)))
}

/// Effects without a lane: a fact each, and the memory of the message.
fn commit(engine: Engine, items: u32) -> Calls {
    let effects = move |engine: &mut Engine| {
        let wanted = engine.wanted(items);
        let effect = |wanted: Wanted| Commit {
            request: wanted.request,
            nonce: wanted.nonce,
            mark: wanted.mark,
            lane: None,
            issued: Vec::new(),
            events: vec![sample::event(1, 1)],
            outbox: Vec::new(),
        };
        wanted.into_iter().map(effect).collect()
    };
    both(engine, effects, |engine, commits: Vec<Commit>| {
        engine.runtime.block_on(engine.database.commit(commits)).unwrap();
    })
}
