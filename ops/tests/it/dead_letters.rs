//! Dead letters as an operator meets them: looked at, planned, replayed by a command that is killed, discarded.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use keyturn_domain::ambient::{SystemClock, SystemEntropy};
use keyturn_domain::clock::Clock as _;
use keyturn_domain::entropy::Entropy;
use keyturn_domain::ids::{EventId, LaneId, RequestId};
use keyturn_domain::lane::Alarm;
use keyturn_ports::audit::{Action, NewRow};
use keyturn_ports::dead_letters::jobs::{Act, Move, NewJob};
use keyturn_ports::dead_letters::{DeadLetter, DeadLetterId};
use keyturn_ports::queue::{DeadReason, NewMessage, QueueName, Settlement};
use keyturn_schemas::alarm::AlarmRaised;
use keyturn_schemas::envelope::{Envelope, TraceParent};
use keyturn_schemas::outcome::Outcome;
use keyturn_service::config::Config;
use keyturn_service::engines::Engines;
use serde_json::Value;

use crate::deployment::{Deployment, Registration, register, text};
use crate::keys::World;

pub(crate) fn engines(deployment: &Deployment) -> Engines {
    Engines::open(&Config::load(&deployment.config()).unwrap()).unwrap()
}

/// Sends a message to a queue and gives up on it.
pub(crate) async fn bury(
    deployment: &Deployment,
    queue: QueueName,
    message: NewMessage,
    reason: DeadReason,
    error: &str,
) {
    let engines = engines(deployment);
    let lease = std::time::Duration::from_mins(1);
    engines.queue().send(queue, vec![message]).await.unwrap();
    for leased in engines.queue().lease(queue, 9, lease).await.unwrap() {
        let dead = Settlement::DeadLetter { reason, error: error.to_owned() };
        engines.queue().settle(queue, vec![(leased.receipt, dead)], Vec::new()).await.unwrap();
    }
}

/// An alarm on its way to a webhook: a message that a replay can move as it is.
pub(crate) fn alarm(device: &Registration) -> NewMessage {
    let (entropy, now): (&dyn Entropy, _) = (&SystemEntropy, SystemClock.now());
    let raised = AlarmRaised {
        event: EventId(entropy.bytes()),
        at_ms: now,
        lane: LaneId(entropy.bytes()),
        alarm: Alarm::Clone,
        webhook: Some("desk".parse().unwrap()),
    };
    let request = RequestId(entropy.bytes());
    let trace = TraceParent::of(request);
    let body = Envelope::new(request, device.id, "rotator", now, trace, raised).to_json();
    NewMessage { request, device: device.id, body }
}

pub(crate) async fn bury_alarms(deployment: &Deployment, device: &Registration, count: usize) {
    for _ in 0..count {
        bury(deployment, QueueName::Alarms, alarm(device), DeadReason::Exhausted, "503 from «desk»").await;
    }
}

fn json(deployment: &Deployment, arguments: &[&str]) -> Value {
    serde_json::from_str(&deployment.ok(&[&["--output", "json", "dead-letters"], arguments].concat()))
        .unwrap()
}

fn fails(deployment: &Deployment, arguments: &[&str], code: i32, said: &str) {
    let output = deployment.keyturn(&[&["dead-letters"], arguments].concat());
    let error = text(&output.stderr);
    assert!(output.status.code() == Some(code) && error.contains(said), "{arguments:?}: {error}");
}

/// Waiting, leased or not, and dead.
async fn alarms(deployment: &Deployment) -> (u64, u64) {
    let depth = engines(deployment).queue().depth(QueueName::Alarms).await.unwrap();
    (depth.total, depth.dead)
}

fn recorded(deployment: &Deployment, action: &str) -> usize {
    let rows = deployment.ok(&["audit", "export"]);
    rows.lines().filter(|row| row.contains(&format!("\"Action\":\"{action}\""))).count()
}

/// What is named is meant: by its number a letter goes that a replay of many leaves out, and a dry run says the same.
#[tokio::test]
async fn a_dry_run_by_number_says_what_the_replay_does() {
    let (deployment, device, other) = (Deployment::init(), register(), register());
    deployment.add(&device, "LAB-07");
    deployment.add(&other, "LAB-08");
    bury_alarms(&deployment, &device, 1).await;
    // Nobody waits for this result any more.
    let (entropy, now): (&dyn Entropy, _) = (&SystemEntropy, SystemClock.now());
    let (request, gone) = (RequestId(entropy.bytes()), other.id);
    let outcome = Outcome { rid: request, carries: None, result: None, expires_ms: now };
    let body = Envelope::new(request, gone, "rotator", now, TraceParent::of(request), outcome).to_json();
    let message = NewMessage { request, device: gone, body };
    bury(&deployment, QueueName::Outcomes, message, DeadReason::Exhausted, "503").await;
    let junk = NewMessage { body: "junk".to_owned(), ..alarm(&other) };
    bury(&deployment, QueueName::Findings, junk, DeadReason::Undecodable, "x").await;
    let many = json(&deployment, &["replay", "--where", "reason:exhausted", "--dry-run"]);
    assert_eq!((&many["matched"], &many["eligible"]), (&2.into(), &1.into()), "{many}");
    let planned = json(&deployment, &["replay", "2", "--dry-run"]);
    assert_eq!((&planned["matched"], &planned["eligible"]), (&1.into(), &1.into()), "{planned}");
    for more in [&["--dry-run"][..], &["--reason", "x"]] {
        fails(
            &deployment,
            &[&["replay", "2", "99"], more].concat(),
            3,
            "nothing was moved: 99: there is no such",
        );
        fails(&deployment, &[&["replay", "2", "3"], more].concat(), 1, "3: nothing was moved");
        fails(&deployment, &[&["discard", "2", "99"], more].concat(), 3, "nothing was discarded: 99");
    }
    let outcomes = engines(&deployment);
    assert_eq!(outcomes.queue().depth(QueueName::Outcomes).await.unwrap().dead, 1);
    assert_eq!(recorded(&deployment, "DeadLettersReplayed"), 0);
    deployment.ok(&["dead-letters", "replay", "2", "2", "--reason", "meant"]);
    let depth = outcomes.queue().depth(QueueName::Outcomes).await.unwrap();
    assert_eq!((depth.total, depth.dead), (1, 0));
    let audit = deployment.ok(&["audit", "export"]);
    let row = audit.lines().find(|row| row.contains("DeadLettersReplayed")).unwrap();
    assert!(row.contains(&format!("2 (message {request} of device {gone}, on outcomes)")), "{row}");
    let row: Value = serde_json::from_str(row).unwrap();
    assert!(row.as_object().unwrap().values().any(|value| *value == gone.to_string()), "its device: {row}");
}

#[tokio::test]
async fn a_device_is_named_as_elsewhere_and_its_page_tells_of_its_letters() {
    let (deployment, one, two) = (Deployment::init(), register(), register());
    deployment.add(&one, "LAB-07");
    deployment.add(&two, "LAB-08");
    bury_alarms(&deployment, &one, 2).await;
    bury_alarms(&deployment, &two, 1).await;
    let count = |filter: &str| {
        json(&deployment, &["list", "--each", &format!("--where={filter}")]).as_array().unwrap().len()
    };
    assert_eq!((count("device:lab-07"), count("-device:LAB-07"), count("device:LAB-07,LAB-08")), (2, 1, 3));
    fails(&deployment, &["list", "--where=-device:LAB-09"], 3, "no device has this name");
    let shown = deployment.ok(&["device", "show", "LAB-07"]);
    let expected = format!("--where device:{}", one.id);
    assert!(shown.contains("dead letters: 2, the last ") && shown.contains(&expected), "{shown}");
    let value: Value =
        serde_json::from_str(&deployment.ok(&["--output", "json", "device", "show", "LAB-08"])).unwrap();
    assert_eq!(
        (&value["dead_letters"]["count"], &value["dead_letters"]["complete"]),
        (&1.into(), &true.into())
    );
    let third = register();
    deployment.add(&third, "LAB-07");
    fails(&deployment, &["list", "--where", "device:LAB-07"], 5, &third.id.to_string());
    deployment.ok(&["device", "show", &third.id.to_string()]).lines().for_each(|line| {
        assert!(!line.contains("dead letters"), "{line}");
    });
}

#[tokio::test]
async fn they_are_grouped_filtered_planned_and_replayed_once() {
    let (deployment, device) = (Deployment::init(), register());
    deployment.add(&device, "LAB-07");
    bury_alarms(&deployment, &device, 3).await;
    let junk = NewMessage { body: "not an envelope".to_owned(), ..alarm(&device) };
    bury(&deployment, QueueName::Findings, junk, DeadReason::Undecodable, "expected value at line 1").await;

    let groups = json(&deployment, &["list"]);
    let told: Vec<_> =
        groups.as_array().unwrap().iter().map(|g| (&g["queue"], &g["count"], &g["replayable"])).collect();
    let (findings, alarms_) = (Value::from("findings"), Value::from("alarms"));
    assert_eq!(told, [(&findings, &1.into(), &0.into()), (&alarms_, &3.into(), &3.into())]);
    let each = json(&deployment, &["list", "--each", "--where", "label:lab-* reason:exhausted"]);
    assert_eq!(each.as_array().unwrap().len(), 3);
    assert_eq!(each[0]["trace_id"].as_str().unwrap().len(), 32);
    assert_eq!(json(&deployment, &["list", "--where", "group:nobody"]).as_array().unwrap().len(), 0);
    fails(&deployment, &["list", "--where", "reason:exhausted raeson:x"], 2, "at character 18: no such key");
    let shown = deployment.ok(&["dead-letters", "show", &each[0]["id"].to_string()]);
    assert!(shown.contains("trace    ") && shown.contains("503 from «desk»"), "{shown}");

    let plan = json(&deployment, &["replay", "--where", "age:<1d", "--dry-run", "--max-rate", "2"]);
    assert_eq!((&plan["matched"], &plan["eligible"], &plan["minutes"]), (&4.into(), &3.into(), &2.into()));
    assert_eq!((&plan["skipped"][0]["why"], &plan["skipped"][0]["count"]), (&"unreadable".into(), &1.into()));
    assert_eq!(alarms(&deployment).await, (0, 3), "a plan changes nothing");
    assert_eq!(recorded(&deployment, "DeadLettersReplayed"), 0);

    let name = plan["plan"].as_str().unwrap();
    bury_alarms(&deployment, &device, 1).await;
    let by_plan = ["replay", "--where", "age:<1d", "--plan", name, "--reason", "desk is back"];
    fails(&deployment, &by_plan, 5, "not those of plan");
    assert_eq!(alarms(&deployment).await, (0, 4));
    let plan = json(&deployment, &["replay", "--where", "age:<1d", "--dry-run"]);
    let by_plan = [
        "replay",
        "--where",
        "age:<1d",
        "--plan",
        plan["plan"].as_str().unwrap(),
        "--reason",
        "desk is back",
    ];
    let before = engines(&deployment).dead_letters().list(Some(QueueName::Alarms), 9).await.unwrap();
    let done = json(&deployment, &by_plan);
    assert_eq!((&done["job"]["moved"], &done["finished"]), (&4.into(), &true.into()));
    fails(&deployment, &by_plan, 5, "not those of plan");
    fails(&deployment, &["replay", "--where", "age:<1d", "--reason", "again"], 3, "left out: 1 unreadable");
    assert_eq!(alarms(&deployment).await, (4, 0), "each moved once");
    assert_eq!(recorded(&deployment, "DeadLettersReplayed"), 1 + 4);

    // The same messages, byte for byte but for the mark of a replay.
    let leased =
        engines(&deployment).queue().lease(QueueName::Alarms, 9, std::time::Duration::from_secs(9)).await;
    let mut on_queue: Vec<_> = leased.unwrap().into_iter().map(|leased| leased.message).collect();
    let marked = |letter: DeadLetter| {
        let envelope = Envelope::<AlarmRaised>::parse(&letter.message.body).unwrap();
        NewMessage { body: envelope.replayed(letter.id.0).to_json(), ..letter.message }
    };
    let mut were: Vec<_> = before.into_iter().map(marked).collect();
    on_queue.sort_by_key(|message| message.request);
    were.sort_by_key(|message| message.request);
    assert_eq!(on_queue, were);
}

#[tokio::test]
async fn a_killed_replay_goes_on_and_an_interrupted_one_says_how() {
    let (deployment, device) = (Deployment::init(), register());
    bury_alarms(&deployment, &device, 4).await;
    let words =
        ["dead-letters", "replay", "--where", "reason:exhausted", "--max-rate", "60", "--reason", "drill"];
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyturn"));
        let command = command.arg("--config").arg(deployment.config()).args(words);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let done = || json(&deployment, &["jobs"])[0]["done"].as_u64().unwrap_or_default();
    let mut running = start();
    while done() == 0 {
        assert!(running.try_wait().unwrap().is_none(), "it ended by itself");
    }
    running.kill().unwrap();
    running.wait().unwrap();
    let (waiting, dead) = alarms(&deployment).await;
    assert!(waiting >= 1 && dead >= 1 && waiting + dead == 4, "{waiting} {dead}");

    // A letter that died since is not of this job.
    bury(&deployment, QueueName::Outcomes, alarm(&device), DeadReason::Exhausted, "late").await;
    let cut = done();
    let mut running = start();
    while done() == cut {
        assert!(running.try_wait().unwrap().is_none(), "it ended by itself");
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&running), rustix::process::Signal::INT)
        .unwrap();
    let ended = running.wait_with_output().unwrap();
    let said = text(&ended.stderr);
    assert!(
        ended.status.code() == Some(130) && said.contains("KT-0420") && said.contains("--resume 1"),
        "{said}"
    );
    let finished = json(&deployment, &["replay", "--resume", "1"]);
    assert_eq!((&finished["job"]["moved"], &finished["finished"]), (&4.into(), &true.into()));
    assert_eq!(json(&deployment, &["jobs"]).as_array().unwrap().len(), 1);
    assert_eq!(alarms(&deployment).await, (4, 0), "none is lost, none is there twice");
    assert_eq!(json(&deployment, &["list"])[0]["queue"], "outcomes", "and the newcomer is left alone");
    assert_eq!(recorded(&deployment, "DeadLettersReplayed"), 1 + 4);
    assert!(deployment.ok(&["audit", "verify"]).contains("the chain is whole"));
    fails(&deployment, &["replay", "--resume", "9"], 3, "no such job");
}

#[tokio::test]
async fn a_discard_archives_first_and_wants_the_queues_name() {
    let (deployment, device) = (Deployment::init(), register());
    bury_alarms(&deployment, &device, 2).await;
    bury(&deployment, QueueName::Findings, alarm(&device), DeadReason::Untrusted, "forged").await;
    let archive = deployment.path("archive.jsonl");
    let path = archive.to_str().unwrap();
    let words = |filter, queue| {
        ["discard", "--where", filter, "--archive", path, "--yes-discard", queue, "--reason", "old"]
    };
    fails(&deployment, &["discard", "--reason", "x"], 2, "required");
    fails(&deployment, &["discard", "--where", " ", "--reason", "x"], 2, "needs --where");
    fails(&deployment, &["discard", "--where", "queue:alarms", "--reason", "x"], 2, "KT-0403 ");
    fails(&deployment, &words("queue:alarms", "findings"), 2, "not the queue's name");
    fails(&deployment, &words("age:<1d", "alarms"), 2, "several queues");
    let nowhere = [
        "discard",
        "--where",
        "queue:alarms",
        "--archive",
        "/nonexistent/a",
        "--yes-discard",
        "alarms",
        "--reason",
        "x",
    ];
    fails(&deployment, &nowhere, 1, "could not be archived, so nothing was done");
    assert!(!archive.exists());
    assert_eq!((alarms(&deployment).await, recorded(&deployment, "DeadLettersDiscarded")), ((0, 2), 0));

    let exported = deployment.ok(&["dead-letters", "export", "--where", "queue:alarms"]);
    assert_eq!(exported.lines().count(), 2);
    deployment.ok(&[&["dead-letters"], &words("queue:alarms", "alarms")[..]].concat());
    let kept = fs::read_to_string(&archive).unwrap();
    assert_eq!(kept.lines().count(), 2);
    for line in kept.lines() {
        let letter: Value = serde_json::from_str(line).unwrap();
        assert!(Envelope::<AlarmRaised>::parse(letter["body"].as_str().unwrap()).is_ok(), "{line}");
    }
    assert_eq!(fs::metadata(&archive).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!((alarms(&deployment).await, recorded(&deployment, "DeadLettersDiscarded")), ((0, 0), 3));
    assert!(!deployment.path("archive.jsonl.part").exists());
    bury_alarms(&deployment, &device, 1).await;
    fails(&deployment, &words("queue:alarms", "alarms"), 1, "not the archive of these letters");
    assert_eq!(alarms(&deployment).await, (0, 1), "an archive is never overwritten");
}

/// Killed between the archive and the job, in the middle of the job, and before the archive was whole: the same words
/// come to the same end.
#[tokio::test]
async fn a_discard_that_was_cut_off_goes_on_with_the_same_words() {
    let (deployment, device) = (Deployment::init(), register());
    bury_alarms(&deployment, &device, 3).await;
    let archive = deployment.path("archive.jsonl");
    let path = archive.to_str().unwrap();
    let words = ["--where", "queue:alarms", "--archive", path, "--yes-discard", "alarms", "--reason", "old"];
    let discard = [&["discard"], &words[..]].concat();
    // A half archive, and then a whole one without its job: what a kill leaves.
    fs::write(deployment.path("archive.jsonl.part"), "{\"id\":").unwrap();
    let letters = json(&deployment, &["list", "--each"]);
    let row = NewRow {
        at: SystemClock.now(),
        actor: "test".to_owned(),
        action: Action::DeadLettersDiscarded,
        device: None,
        reason: "old".to_owned(),
        detail: String::new(),
    };
    let letters =
        letters.as_array().unwrap().iter().map(|letter| DeadLetterId(letter["id"].as_u64().unwrap()));
    let letters: Vec<_> = letters.collect();
    let selection = "queue:alarms".to_owned();
    let new = NewJob { row, act: Act::Discard, selection, per_minute: None, letters: letters.clone() };
    let jobs = engines(&deployment).letter_jobs();
    let id = jobs.begin(new).await.unwrap();
    let away = vec![(letters[0], Move::Away)];
    jobs.step(id, SystemClock.now(), "test", away).await.unwrap();
    assert_eq!(alarms(&deployment).await, (0, 2));
    // The job is gone on with, and no second archive is wanted.
    let done = json(&deployment, &discard);
    assert_eq!((&done["job"]["moved"], &done["finished"]), (&3.into(), &true.into()));
    assert_eq!(alarms(&deployment).await, (0, 0));
    assert!(!archive.exists(), "it was begun by hand, without one");

    bury_alarms(&deployment, &device, 2).await;
    let done = json(&deployment, &discard);
    assert_eq!(done["job"]["moved"], 2);
    assert_eq!(fs::read_to_string(&archive).unwrap().lines().count(), 2, "the half one did no harm");
    let job = json(&deployment, &["jobs"])[0]["id"].to_string();
    let again = json(&deployment, &["discard", "--resume", &job]);
    assert_eq!(again["finished"], true);
}

#[tokio::test]
async fn the_index_is_compared_with_the_messages() {
    let (deployment, device) = (Deployment::init(), register());
    bury_alarms(&deployment, &device, 2).await;
    let compared = json(&deployment, &["reconcile"]);
    assert_eq!((&compared["alarms"]["indexed"], &compared["alarms"]["counted"]), (&2.into(), &2.into()));
    let database = rusqlite::Connection::open(deployment.path("data/keyturn.db")).unwrap();
    database.execute("UPDATE queue_counters SET dead = 5 WHERE name = 'alarms'", []).unwrap();
    fails(&deployment, &["reconcile"], 6, "the index has 2 letters and the queue's count says 5");
}

/// Real messages of real devices: what its device waits for no longer, what it has said since, and what is gone.
#[tokio::test(flavor = "multi_thread")]
async fn what_would_do_no_good_is_left_out_and_does_no_harm() {
    let mut world = World::start().await;
    let deployment = &world.deployment;
    // Nobody works: one device's request is taken from the queue by hand, and dies.
    let name = world.devices[0].name.clone();
    world.workers.stop.cancel();
    let agent = world.devices[0].agent();
    let asking = tokio::spawn(async move { agent.once().await });
    let engines = engines(deployment);
    let message = loop {
        let waiting =
            engines.queue().lease(QueueName::Requests, 1, std::time::Duration::from_mins(1)).await.unwrap();
        if let Some(leased) = waiting.into_iter().next() {
            break leased;
        }
        tokio::task::yield_now().await;
    };
    asking.abort();
    let dead =
        Settlement::DeadLetter { reason: DeadReason::Exhausted, error: "the vault is away".to_owned() };
    engines
        .queue()
        .settle(QueueName::Requests, vec![(message.receipt.clone(), dead)], Vec::new())
        .await
        .unwrap();
    let plan =
        |deployment: &Deployment| json(deployment, &["replay", "--where", "reason:exhausted", "--dry-run"]);
    assert_eq!(plan(deployment)["eligible"], 1, "its device still waits");

    let stranger = register();
    let gone = NewMessage { device: stranger.id, ..message.message.clone() };
    bury(deployment, QueueName::Requests, gone, DeadReason::Exhausted, "x").await;
    let skipped = plan(deployment);
    assert_eq!((&skipped["eligible"], &skipped["skipped"][0]["why"]), (&1.into(), &"device_gone".into()));

    // The device comes again, and is answered: the dead request is old news.
    keyturn_ops::Roles::new(
        keyturn_service::shell::host(Config::load(&deployment.config()).unwrap()).unwrap(),
    )
    .work()
    .unwrap();
    world.round().await;
    let deployment = &world.deployment;
    let skipped = plan(deployment);
    let reasons: Vec<_> =
        skipped["skipped"].as_array().unwrap().iter().map(|skip| skip["why"].as_str().unwrap()).collect();
    assert_eq!((&skipped["eligible"], reasons), (&0.into(), vec!["superseded", "device_gone"]));
    fails(deployment, &["reconcile"], 6, "requests: 1 rows are of messages that were heard since");
    let versions = |deployment: &Deployment| {
        let history = deployment.ok(&["--output", "json", "device", "history", &name]);
        serde_json::from_str::<Vec<Value>>(&history).unwrap().len()
    };
    let before = versions(deployment);
    // By its number it goes all the same, and makes nothing new.
    let letters = json(deployment, &["list", "--each", "--where", "error:vault"]);
    let id = letters[0]["id"].to_string();
    deployment.ok(&["dead-letters", "replay", &id, "--reason", "prove it"]);
    while engines.result_reader().result(message.message.request).await.unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(versions(deployment), before, "an old request makes no password");
    world.devices[0].invariant_settled(deployment);
    world.stop();
}

#[tokio::test]
async fn queues_are_watched_and_their_rates_told() {
    let (deployment, device) = (Deployment::init(), register());
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyturn"));
    let command = command.arg("--config").arg(deployment.config());
    let words = ["--output", "json", "queues", "--watch", "1s", "--looks", "2"];
    let mut watching = command.args(words).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(watching.stdout.take().unwrap()));
    let first: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(
        (&first["queues"][3]["total"], &first["queues"][3]["in_per_minute"]),
        (&0.into(), &Value::Null)
    );
    bury_alarms(&deployment, &device, 2).await;
    engines(&deployment).queue().send(QueueName::Alarms, vec![alarm(&device)]).await.unwrap();
    let second: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert!(watching.wait().unwrap().success());
    let row = &second["queues"][3];
    assert_eq!((&row["total"], &row["dead"], &row["sent"]), (&1.into(), &2.into(), &3.into()));
    let minutes = (second["at_ms"].as_f64().unwrap() - first["at_ms"].as_f64().unwrap()) / 60_000.0;
    let (came, went) = (row["in_per_minute"].as_f64().unwrap(), row["out_per_minute"].as_f64().unwrap());
    assert!((came * minutes - 3.0).abs() < 0.5 && (went * minutes - 2.0).abs() < 0.5, "{row}");
    assert!(deployment.ok(&["queues", "--watch", "100ms", "--looks", "1"]).contains("OUT/MIN"));
    let output = deployment.keyturn(&["queues", "--watch", "1ms"]);
    assert!(text(&output.stderr).contains("at least 100ms apart"));
}
