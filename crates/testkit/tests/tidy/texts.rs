//! Links, and what no file may say.

use std::collections::BTreeSet;
use std::path::Path;

use super::{none, tree};

#[test]
fn every_relative_link_leads_somewhere() {
    let mut broken = Vec::new();
    for path in tree::files(".md") {
        for target in links(&prose(&tree::read(&path))) {
            if !resolves(&path, &target) {
                broken.push(format!("{path}: {target}"));
            }
        }
    }
    none("links that lead nowhere", broken);
}

/// Paths of one machine and the hosts that packages come from have no place in a file that is read elsewhere. Lock
/// files are cargo's, and name where each package came from.
#[test]
fn no_file_names_a_machine() {
    let mut found = Vec::new();
    for path in tree::files("").into_iter().filter(|path| !path.ends_with("Cargo.lock")) {
        let text = tree::read(&path);
        for (number, line) in text.lines().enumerate() {
            let named = NOT_TO_BE_NAMED.iter().filter(|name| stands_alone(line, name));
            found.extend(named.map(|name| format!("{path}:{}: {name}", number + 1)));
        }
    }
    none("machines named in files", found);
}

/// In halves, or this file would name them.
const NOT_TO_BE_NAMED: [&str; 7] = [
    concat!("/wo", "rk/"),
    concat!("crates", ".io"),
    concat!("py", "pi.org"),
    concat!("python", "hosted.org"),
    concat!("npm", "js.org"),
    concat!("npm", "js.com"),
    concat!("deb.", "debian.org"),
];

/// Whether the line has this, not as the end of a longer word or path.
fn stands_alone(line: &str, name: &str) -> bool {
    let path = name.starts_with('/');
    let longer = |before: char| before.is_alphanumeric() || "_-".contains(before) || (path && before == '.');
    line.match_indices(name).any(|(at, _)| !line[..at].ends_with(longer))
}

/// Markdown without code: neither fenced blocks nor `spans`.
fn prose(text: &str) -> String {
    let mut fenced = false;
    let mut kept = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            kept.extend(line.split('`').step_by(2));
            kept.push('\n');
        }
    }
    kept
}

/// The targets of `[text](target)` and `[name]: target`.
fn links(prose: &str) -> Vec<String> {
    let inline = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    let named = prose.lines().filter(|line| line.starts_with('[')).filter_map(|line| line.split_once("]: "));
    let targets = inline.chain(named.map(|(_, target)| target));
    targets.filter_map(|target| target.split_whitespace().next()).map(str::to_owned).collect()
}

fn resolves(from: &str, target: &str) -> bool {
    let elsewhere = ["https://", "http://", "mailto:"];
    if elsewhere.iter().any(|scheme| target.starts_with(scheme)) {
        return true;
    }
    let (file, heading) = target.split_once('#').unwrap_or((target, ""));
    let from = tree::root().join(from);
    let path = if file.is_empty() { from } else { from.parent().unwrap_or(Path::new("")).join(file) };
    let Ok(path) = path.canonicalize() else { return false };
    let inside = path.starts_with(tree::root()) && !file.starts_with('/');
    inside && (heading.is_empty() || headings(&path).contains(heading))
}

/// The names that headings get as link targets.
fn headings(path: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut names = BTreeSet::new();
    let mut fenced = false;
    for line in text.lines() {
        fenced ^= line.starts_with("```");
        let title = line.trim_start_matches('#');
        if fenced || title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let kept = title.trim().to_lowercase().replace(' ', "-");
        let name: String = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect();
        let twice = (1..).map(|n| format!("{name}-{n}"));
        let free = std::iter::once(name.clone()).chain(twice).find(|name| !names.contains(name));
        names.extend(free);
    }
    names
}
