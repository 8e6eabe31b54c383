//! The files of the project.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders that hold nothing of the project: what is built, what is fetched, and the demo's deployments.
const NOT_OURS: [&str; 4] = [".git", "target", "node_modules", "keyturn-data"];

/// The folder with the workspace's manifest.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Every file whose name ends so, by its path from the root with `/` between its parts, sorted.
pub(crate) fn files(ending: &str) -> Vec<String> {
    let root = root();
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            let name = entry.file_name().into_string().unwrap();
            // In a worktree .git is a file, which says where the repository is.
            if NOT_OURS.contains(&name.as_str()) {
                continue;
            }
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() && name.ends_with(ending) {
                let parts = path.strip_prefix(&root).unwrap().iter().map(|part| part.to_str().unwrap());
                found.push(parts.collect::<Vec<_>>().join("/"));
            }
        }
    }
    found.sort();
    found
}

/// What a file holds. Bytes that are not UTF-8 become replacement characters.
pub(crate) fn read(path: &str) -> String {
    String::from_utf8_lossy(&fs::read(root().join(path)).unwrap()).into_owned()
}
