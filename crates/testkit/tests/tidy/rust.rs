//! Rust files, with comments, literals and tests told apart.
//!
//! This is no parser. It knows what a token is that may hold quotes, slashes or brackets, and no more.

use std::collections::BTreeSet;
use std::ops::Range;

use super::tree;

/// One Rust file of the project.
pub(crate) struct Source {
    pub(crate) path: String,
    /// As it is.
    pub(crate) text: String,
    /// Without comments and without the insides of literals. Every byte stands where it stands in `text`.
    pub(crate) code: String,
    /// Without comments. Every byte stands where it stands in `text`.
    pub(crate) uncommented: String,
    /// The parts under `#[cfg(test)]`.
    tests: Vec<Range<usize>>,
}

impl Source {
    fn read(path: String) -> Self {
        let text = tree::read(&path);
        let code = keep(&text, &[Kind::Code]);
        let uncommented = keep(&text, &[Kind::Code, Kind::Literal]);
        let tests = test_items(&code);
        Self { path, text, code, uncommented, tests }
    }

    /// The file without what is under `#[cfg(test)]`: blanked, so that every byte stays where it is.
    pub(crate) fn without_tests(mut self) -> Self {
        for part in &self.tests {
            for view in [&mut self.code, &mut self.uncommented] {
                let blanked = blank(&view[part.clone()]);
                view.replace_range(part.clone(), &blanked);
            }
        }
        self
    }

    /// How many lines it has, tests not counted.
    pub(crate) fn lines(&self) -> usize {
        let in_tests: usize = self.tests.iter().map(|part| self.text[part.clone()].lines().count()).sum();
        self.text.lines().count() - in_tests
    }

    /// Every word of the code that begins so.
    pub(crate) fn words(&self, beginning: &str) -> BTreeSet<&str> {
        let words = self.code.split(|c: char| !is_word(c));
        words.filter(|word| word.starts_with(beginning)).collect()
    }

    /// `path:line` of a place in the file.
    pub(crate) fn place(&self, byte: usize) -> String {
        format!("{}:{}", self.path, self.text[..byte].matches('\n').count() + 1)
    }

    /// Where the modules that this file declares under `#[cfg(test)]` have their files, without `.rs`.
    fn test_modules(&self) -> impl Iterator<Item = String> {
        let (folder, name) = self.path.rsplit_once('/').unwrap_or(("", &self.path));
        let folder = match name.trim_end_matches(".rs") {
            "lib" | "main" => folder.to_owned(),
            stem => format!("{folder}/{stem}"),
        };
        let items = self.tests.iter().map(|part| &self.code[part.clone()]);
        items.filter_map(move |item| {
            let (_, module) = item.strip_suffix(';')?.rsplit_once("mod ")?;
            Some(format!("{folder}/{module}"))
        })
    }
}

/// Every Rust file, tests and all.
pub(crate) fn all() -> Vec<Source> {
    tree::files(".rs").into_iter().map(Source::read).collect()
}

/// Every Rust file that goes into a program: no `tests` or `benches` folder, no module that is there for tests only,
/// nothing of the crate that is there for tests only; and what is left without its `#[cfg(test)]` items.
pub(crate) fn shipped() -> Vec<Source> {
    let all = all();
    let modules: BTreeSet<String> = all.iter().flat_map(Source::test_modules).collect();
    let is_test = |path: &str| {
        path.starts_with("crates/testkit/")
            || path.split('/').any(|part| part == "tests" || part == "benches")
            || modules.iter().any(|module| {
                path.strip_prefix(module.as_str()).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
            })
    };
    all.into_iter().filter(|source| !is_test(&source.path)).map(Source::without_tests).collect()
}

pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

/// The text with everything blanked that is not of these kinds.
fn keep(text: &str, kinds: &[Kind]) -> String {
    let mut kept = String::with_capacity(text.len());
    while kept.len() < text.len() {
        let at = kept.len();
        let (kind, length) = piece(&text[at..], text[..at].ends_with(is_word));
        let piece = &text[at..at + length];
        kept.push_str(&if kinds.contains(&kind) { piece.to_owned() } else { blank(piece) });
    }
    kept
}

/// As many bytes of spaces. Lines stay lines.
fn blank(text: &str) -> String {
    text.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect()
}

/// What the text begins with, and how many bytes of it belong to that.
fn piece(text: &str, in_word: bool) -> (Kind, usize) {
    if text.starts_with("//") {
        return (Kind::Comment, text.find('\n').unwrap_or(text.len()));
    }
    if text.starts_with("/*") {
        return (Kind::Comment, block_comment(text));
    }
    let raw = text.trim_start_matches(['b', 'c']);
    if let Some(hashes) = raw.strip_prefix('r').filter(|_| !in_word && text.len() - raw.len() <= 1) {
        let fence = &hashes[..hashes.len() - hashes.trim_start_matches('#').len()];
        if let Some(body) = hashes[fence.len()..].strip_prefix('"') {
            let close = format!("\"{fence}");
            let inside = body.find(&close).map_or(body.len(), |end| end + close.len());
            return (Kind::Literal, text.len() - body.len() + inside);
        }
    }
    if text.starts_with('"') {
        return (Kind::Literal, quoted(text, '"'));
    }
    let mut following = text.chars().skip(1);
    match (text.starts_with('\''), following.next(), following.next()) {
        (true, Some('\\'), _) | (true, Some(_), Some('\'')) => (Kind::Literal, quoted(text, '\'')),
        // A lifetime, or anything else.
        _ => (Kind::Code, text.chars().next().map_or(0, char::len_utf8)),
    }
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The items under `#[cfg(test)]`, each from its attribute to the `;` or `}` that ends it.
fn test_items(code: &str) -> Vec<Range<usize>> {
    let mut items: Vec<Range<usize>> = Vec::new();
    for (start, _) in code.match_indices("#[cfg(test)]") {
        if items.last().is_some_and(|before| before.contains(&start)) {
            continue;
        }
        let mut depth = 0_usize;
        let end = code[start..].char_indices().find_map(|(at, c)| {
            match c {
                '{' | '(' | '[' => depth += 1,
                '}' | ')' | ']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            (depth == 0 && matches!(c, ';' | '}')).then_some(start + at + 1)
        });
        items.push(start..end.unwrap_or(code.len()));
    }
    items
}

#[test]
fn comments_literals_and_tests_are_told_apart() {
    let text = r##"a("//", 'x', '"', b'\'', r#"" /*"#); // "c
/* /* "d */ 'e */ fn f<'a>(g: &'a [u8; 2]) {}
#[cfg(test)] fn h(_: [u8; 1]) { i("}"); } fn j() {}
#[cfg(test)] mod k; "é" l"##;
    let code = keep(text, &[Kind::Code]);
    let uncommented = keep(text, &[Kind::Code, Kind::Literal]);
    assert_eq!((code.len(), uncommented.len()), (text.len(), text.len()));
    let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(
        squeezed(&code),
        "a( , , , b , ); fn f<'a>(g: &'a [u8; 2]) {} #[cfg(test)] fn h(_: [u8; 1]) { i( ); } fn j() {} \
         #[cfg(test)] mod k; l"
    );
    assert_eq!(
        squeezed(&uncommented).split(" fn").next().unwrap(),
        r##"a("//", 'x', '"', b'\'', r#"" /*"#);"##
    );
    let source = Source {
        path: "x/y.rs".to_owned(),
        text: text.to_owned(),
        tests: test_items(&code),
        code,
        uncommented,
    };
    assert_eq!(source.test_modules().collect::<Vec<_>>(), ["x/y/k"]);
    assert_eq!(source.words("l").into_iter().collect::<Vec<_>>(), ["l"]);
    let shipped = source.without_tests();
    assert!(shipped.code.contains("fn j()") && !shipped.code.contains("fn h("), "{}", shipped.code);
}
