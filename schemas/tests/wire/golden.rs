//! Files that are generated, committed, and compared.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// A folder of this crate.
pub(crate) fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Compares a file with what it should hold, or writes it when asked to.
pub(crate) fn compare(path: &Path, value: &Value) {
    let mut sorted = value.clone();
    sorted.sort_all_objects();
    let text = serde_json::to_string_pretty(&sorted).unwrap() + "\n";
    if blessing() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &text).unwrap();
    }
    let found = fs::read_to_string(path).unwrap_or_default();
    assert!(
        found == text,
        "{} is out of date: run KEYTURN_BLESS=1 cargo test -p keyturn-schemas",
        path.display()
    );
}

/// Compares a folder's JSON files with what they should hold; there may be no others.
pub(crate) fn compare_folder<'a>(
    folder: &Path,
    suffix: &str,
    files: impl IntoIterator<Item = (&'a str, Value)>,
) {
    let mut expected = BTreeSet::new();
    for (name, value) in files {
        compare(&folder.join(format!("{name}{suffix}")), &value);
        assert!(expected.insert(format!("{name}{suffix}")), "{name} is there twice");
    }
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let found: BTreeSet<String> =
        names.filter(|name| Path::new(name).extension().is_some_and(|e| e == "json")).collect();
    assert_eq!(found, expected, "files without a source in {}", folder.display());
}

fn blessing() -> bool {
    std::env::var_os("KEYTURN_BLESS").is_some()
}
