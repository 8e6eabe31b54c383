//! Error codes: each has a page, and each page a code.

use std::collections::BTreeSet;

use super::{none, rust, tree};

#[test]
fn every_code_has_a_page_and_every_page_a_code() {
    let shipped = rust::shipped();
    let issued = shipped.iter().flat_map(|source| codes(&source.uncommented));
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

/// Every `KT-` with four digits.
fn codes(text: &str) -> impl Iterator<Item = String> {
    text.match_indices("KT-").filter_map(|(at, _)| {
        let code = text.get(at..at + 7)?;
        code[3..].bytes().all(|byte| byte.is_ascii_digit()).then(|| code.to_owned())
    })
}
