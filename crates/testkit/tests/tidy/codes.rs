//! Error codes: each has a page, and each page a code.

use std::collections::BTreeSet;

use super::{none, rust, tree};

/// Where every page is compiled into programs, and where the codes of operators' errors are.
const PAGES: &str = "crates/service/src/failure/pages.rs";
const TABLE: &str = "crates/service/src/failure/code.rs";

/// The index of the pages.
const INDEX: &str = "docs/errors/README.md";

/// Where an error may be one without a code: the demo, which gives it one when it ends.
const WITHOUT_CODES: &str = "ops/src/demo";

/// Where an exit code may be made: from a failure, from a code, or from neither.
const EXITS: [&str; 4] =
    ["ops/src/failure.rs", "ops/src/lib.rs", "ops/src/output.rs", "ops/src/cli/mistakes.rs"];

#[test]
fn every_code_has_a_page_and_every_page_a_code() {
    let shipped = rust::shipped();
    // The list of pages names every page, and issues nothing.
    let issuing = shipped.iter().filter(|source| source.path != PAGES);
    let issued = issuing.flat_map(|source| codes(&source.uncommented));
    let promised = ["docs/PROTOCOL.md", "schemas/openapi.json"].map(tree::read);
    let known: BTreeSet<String> = issued.chain(promised.iter().flat_map(|text| codes(text))).collect();
    let pages = tree::files(".md").into_iter().filter_map(|path| {
        let name = path.strip_prefix("docs/errors/")?.strip_suffix(".md")?;
        (name != "README").then(|| name.to_owned())
    });
    let pages: BTreeSet<String> = pages.collect();
    let without_page = known.difference(&pages).map(|code| format!("{code} has no page"));
    let without_code = pages.difference(&known).map(|page| format!("{page} has a page and is nowhere used"));
    none("codes and docs/errors", without_page.chain(without_code));
}

#[test]
fn every_page_has_a_row_and_is_in_the_program() {
    let index = tree::read(INDEX);
    let compiled: BTreeSet<String> =
        [PAGES, TABLE].iter().flat_map(|file| codes(&tree::read(file)).collect::<Vec<_>>()).collect();
    let mut wrong = Vec::new();
    for path in tree::files(".md") {
        let Some(code) = path.strip_prefix("docs/errors/").and_then(|name| name.strip_suffix(".md")) else {
            continue;
        };
        if code == "README" {
            continue;
        }
        let text = tree::read(&path);
        let title = text.lines().next().unwrap().trim_start_matches(&format!("# {code} "));
        if !index.contains(&format!("| [{code}]({code}.md) | {title} | ")) {
            wrong.push(format!("{path}: {INDEX} has no row with its title"));
        }
        let parts: Vec<&str> = text.lines().filter(|line| line.starts_with("## ")).collect();
        if parts != ["## What it means", "## How to find the cause", "## The mend"]
            || !text.contains("**Who sees it.**")
        {
            wrong.push(format!("{path}: it is not of the form of the others"));
        }
        if !compiled.contains(code) {
            wrong.push(format!("{path}: `keyturn explain` does not have it"));
        }
    }
    none("pages of errors", wrong);
}

#[test]
fn every_code_of_the_table_is_given_to_something() {
    let shipped = rust::shipped();
    let used: BTreeSet<&str> =
        shipped.iter().filter(|source| source.path != TABLE).flat_map(|source| given(&source.code)).collect();
    let table = tree::read(TABLE);
    let lines = table.lines().filter(|line| line.contains(" \"KT-"));
    let known: BTreeSet<&str> = lines.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(known.len() > 40, "{TABLE} is not read as it stands");
    none("codes that nothing has", known.difference(&used).map(|code| (*code).to_owned()));
}

/// By its number as a program says it, or by its name against the mapping.
#[test]
fn every_code_of_the_table_has_a_test() {
    let shipped: BTreeSet<String> = rust::shipped().into_iter().map(|source| source.path).collect();
    let tests: Vec<_> = rust::all().into_iter().filter(|source| !shipped.contains(&source.path)).collect();
    let met: BTreeSet<String> = tests.iter().flat_map(|source| codes(&source.uncommented)).collect();
    let named: BTreeSet<&str> = tests.iter().flat_map(|source| given(&source.code)).collect();
    let table = tree::read(TABLE);
    let lines = table.lines().filter(|line| line.contains(" \"KT-"));
    let untested = lines.filter(|line| {
        let name = line.split_whitespace().next().unwrap();
        !named.contains(name) && !codes(line).any(|code| met.contains(&code))
    });
    none("codes without a test", untested.map(str::to_owned));
}

/// What follows `Code::`, or `Self::` where codes are made.
fn given(code: &str) -> impl Iterator<Item = &str> {
    let after = |word: &'static str| code.match_indices(word).map(move |(at, word)| &code[at + word.len()..]);
    let names = after("Code::").chain(after("=> Self::"));
    names.map(|rest| rest.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default())
}

#[test]
fn commands_cannot_end_without_a_code() {
    let mut wrong = Vec::new();
    for source in rust::shipped().iter().filter(|source| source.path.starts_with("ops/src/")) {
        let is_demo = source.path.starts_with(WITHOUT_CODES);
        for word in ["anyhow", "bail!", "ensure!"].into_iter().filter(|_| !is_demo) {
            let hits = source.code.match_indices(word);
            wrong.extend(hits.map(|(at, word)| format!("{}: {word}: use crate::failure", source.place(at))));
        }
        for word in
            ["ExitCode::", "process::exit"].into_iter().filter(|_| !EXITS.contains(&source.path.as_str()))
        {
            let hits = source.code.match_indices(word);
            wrong.extend(hits.map(|(at, word)| format!("{}: {word}: return a Failure", source.place(at))));
        }
    }
    none("ways out of a command without a code", wrong);
}

#[test]
fn every_word_of_the_agent_is_explained() {
    let mut words = BTreeSet::new();
    for source in rust::shipped().iter().filter(|source| source.path.starts_with("agent/src/")) {
        let text = &source.uncommented;
        for (at, _) in text.match_indices("fn code(&self)") {
            let body = &text[at..];
            let body = &body[..body.find("\n    }").unwrap()];
            let arms = body.split("=> \"").skip(1).filter_map(|rest| rest.split_once('"'));
            words.extend(arms.map(|(word, _)| word.to_owned()));
        }
        let said = text.match_indices("code=").map(|(at, word)| &text[at + word.len()..]);
        let said = said
            .map(|rest| rest.split(|c: char| !c.is_ascii_lowercase() && c != '_').next().unwrap_or_default());
        words.extend(said.filter(|word| !word.is_empty()).map(str::to_owned));
    }
    assert!(words.contains("rotated") && words.contains("no_progress") && words.len() > 20, "{words:?}");
    let manual = tree::read("docs/AGENT.md");
    let (_, part) = manual.split_once("\n## How a run ends\n").unwrap();
    let part = part.split("\n## ").next().unwrap();
    let items = part.split("\n- **`").skip(1).map(|item| item.split_once("`**").unwrap());
    let mended = items
        .clone()
        .filter(|(_, text)| !text.contains("*Mend:*"))
        .map(|(word, _)| format!("{word}: no mend"));
    let mut wrong: Vec<String> = mended.collect();
    let explained: BTreeSet<String> = items.map(|(word, _)| word.to_owned()).collect();
    wrong.extend(words.difference(&explained).map(|word| format!("{word} is not explained")));
    wrong.extend(explained.difference(&words).map(|word| format!("{word} is nobody's word")));
    none("the agent's words and docs/AGENT.md", wrong);
}

/// Every `KT-` with four digits.
fn codes(text: &str) -> impl Iterator<Item = String> {
    text.match_indices("KT-").filter_map(|(at, _)| {
        let code = text.get(at..at + 7)?;
        code[3..].bytes().all(|byte| byte.is_ascii_digit()).then(|| code.to_owned())
    })
}
