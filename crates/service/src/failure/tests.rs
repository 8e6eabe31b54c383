use std::collections::BTreeSet;
use std::io;

use keyturn_ports::{Error, Kind};
use serde_json::Value;

use super::*;
use crate::engines::OpenError;
use crate::shell::StartError;

const INDEX: &str = include_str!("../../../../docs/errors/README.md");
const OPERATE: &str = include_str!("../../../../docs/OPERATE.md");

#[test]
fn every_code_has_a_page_of_its_form_and_a_row() {
    for code in Code::ALL {
        let (name, page) = (code.code(), code.page());
        assert!(page.starts_with(&format!("# {name} {}\n\n**Who sees it.**", code.title())), "{page}");
        let parts: Vec<&str> = page.lines().filter(|line| line.starts_with("## ")).collect();
        assert_eq!(parts, ["## What it means", "## How to find the cause", "## The mend"], "{name}");
        let parts = page.split("\n## ").skip(1).map(|part| part.split_once("\n\n").unwrap().1.trim());
        assert!(parts.clone().all(|part| part.len() > 20), "{name}");
        let row = format!("| [{name}]({name}.md) | {} | {} | ", code.title(), code.exit());
        assert!(INDEX.contains(&row), "docs/errors/README.md has no row «{row}…»");
        assert!(code.mend().ends_with('.') && code.mend().len() > 10, "{name}");
    }
    let names: BTreeSet<&str> = Code::ALL.iter().map(|code| code.code()).collect();
    assert_eq!(names.len(), Code::ALL.len(), "two codes are called the same");
}

#[test]
fn the_table_of_exit_codes_is_that_of_the_codes() {
    let (_, table) = OPERATE.split_once("## Exit codes").unwrap();
    let told: BTreeSet<u8> =
        table.lines().filter_map(|line| line.split('|').nth(1)?.trim().parse().ok()).collect();
    let known: BTreeSet<u8> = Code::ALL.iter().map(|code| code.exit()).chain([0]).collect();
    assert_eq!(told, known);
}

#[test]
fn a_page_is_found_however_its_code_is_written() {
    for written in ["KT-0404", "kt-0404", "0404", "404", " KT-0404 "] {
        assert_eq!(pages::find(written).map(|(code, _)| code), Some("KT-0404"), "{written}");
    }
    for none in ["", "KT-", "KT-9999", "44444", "404x", "-404", "KT-0404/../x"] {
        assert_eq!(pages::find(none), None, "{none}");
    }
    let all: Vec<&str> = pages::all().map(|(code, _)| code).collect();
    assert!(all.is_sorted() && all.len() > Code::ALL.len(), "{all:?}");
}

#[test]
fn a_failure_says_code_message_causes_mend_and_page() {
    let failure = Failure::of(Code::FileUnread, &io::Error::other("the disk is\u{1b}[2J gone"))
        .within("list.txt: cannot be read");
    assert_eq!(
        failure.text(),
        "KT-0414 list.txt: cannot be read: the disk is\u{fffd}[2J gone\n  See that the name is right and that this user \
         may read the file. (`keyturn explain KT-0414`)"
    );
    let told: Value = serde_json::from_str(&failure.json()).unwrap();
    assert_eq!(told["code"], "KT-0414");
    assert_eq!(told["title"], "A file cannot be read");
    assert_eq!(told["message"], "list.txt: cannot be read");
    assert_eq!(told["causes"], serde_json::json!(["the disk is\u{fffd}[2J gone"]));
    assert_eq!(told["mend"], Code::FileUnread.mend());
    assert_eq!(told["exit"], 1);
    assert!(!failure.json().contains('\n'));
}

#[test]
fn nothing_is_said_twice() {
    let error = Error::new(Kind::Denied, "opening", "KT-0302: not all there")
        .caused_by(io::Error::other("not all there"));
    let failure = Failure::new(Code::StateNotThere, "").caused_by(Some(&error));
    assert_eq!(failure.to_string().matches("not all there").count(), 1, "{failure}");
    assert!(!failure.to_string().contains("KT-"), "{failure}");
}

#[test]
fn what_an_engine_says_decides_the_exit_code() {
    for (kind, code, exit) in [
        (Kind::Unavailable, Code::EngineAway, 7),
        (Kind::Denied, Code::EngineDenied, 4),
        (Kind::Corrupt, Code::DataDamaged, 1),
        (Kind::Full, Code::DiskFull, 1),
    ] {
        let error = || Error::new(kind, "reading", "no");
        let opened = Failure::from(StartError::Open(OpenError::Queues(error())));
        for failure in [Failure::from(error()), opened, Failure::from(error()).within("the command")] {
            assert_eq!((failure.code(), failure.code().exit()), (code, exit));
        }
    }
}

/// What only a machine in trouble meets, by the mapping; ops/tests/it/errors.rs has the others by the programs themselves.
#[test]
fn errors_of_machines_in_trouble_have_their_codes() {
    use std::path::PathBuf;

    use keyturn_embedded::OpenError as FileError;
    use keyturn_postgres::OpenError as ServerError;

    use crate::config::ConfigError;
    use crate::migration::Problem;

    let path = || PathBuf::from("keyturn.db");
    let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
    let place = || "database k at db".to_owned();
    let told: [(Failure, Code); 14] = [
        (ConfigError::Unreadable { file: path(), source: denied() }.into(), Code::ConfigUnreadable),
        (FileError::Unwritable { path: path(), source: denied() }.into_failure(), Code::DatabaseUnwritable),
        (FileError::Locked { path: path() }.into_failure(), Code::DatabaseBusy),
        (FileError::Full { path: path() }.into_failure(), Code::DiskFull),
        (FileError::Corrupt { path: path(), detail: "page 7".to_owned() }.into_failure(), Code::DataDamaged),
        (FileError::Gone { path: path(), to: place() }.into_failure(), Code::StateLeft),
        (FileError::Threads { path: path(), source: denied() }.into_failure(), Code::System),
        (
            ServerError::Untrusted { place: place(), detail: "x".to_owned() }.into_failure(),
            Code::EngineUntrusted,
        ),
        (ServerError::NotThere { place: place() }.into_failure(), Code::StateNotThere),
        (ServerError::Newer { place: place(), found: 9, oldest: 9 }.into_failure(), Code::DatabaseNewer),
        (Problem::Occupied { place: place(), by: "audit" }.into(), Code::MoveTargetTaken),
        (Problem::NothingToUndo { path: path() }.into(), Code::MoveRefused),
        (Problem::AuditBroken { side: "the file", seq: 1 }.into(), Code::AuditBroken),
        (StartError::System(denied()).into(), Code::System),
    ];
    for (failure, code) in told {
        assert_eq!(failure.code(), code, "{failure}");
        let text = failure.text();
        assert!(text.starts_with(code.code()) && text.contains(code.mend()), "{text}");
        assert_eq!(text.matches(code.code()).count(), 2, "before the text and in front of the page: {text}");
    }
}

/// As a process meets it: on the way through the errors around it.
trait Opening: Sized {
    fn into_failure(self) -> Failure;
}

impl<E> Opening for E
where
    OpenError: From<E>,
{
    fn into_failure(self) -> Failure {
        StartError::from(OpenError::from(self)).into()
    }
}

/// What has no error of its own is given its code where it happens, in `ops`.
#[test]
fn codes_that_commands_give_themselves_end_as_they_should() {
    for (code, exit) in
        [(Code::VersionMissing, 1), (Code::NotReplayable, 1), (Code::DemoFailed, 1), (Code::Defect, 1)]
    {
        let failure = Failure::new(code, "it");
        assert_eq!(failure.code().exit(), exit);
        assert!(failure.text().starts_with(&format!("{} it\n  {}", code.code(), code.mend())));
    }
}
