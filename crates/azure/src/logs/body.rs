//! Bodies of calls: JSON arrays, as large as they may be.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;

/// How many of the first rows fit into an array of so many bytes; at least one, if there is one, since who cannot send a
/// row that is too large should be told by the service.
pub(super) fn fitting(rows: &[String], bytes: usize) -> usize {
    // Two brackets; each row brings a comma but the first.
    let mut size = 1_usize;
    let fits = |row: &&String| {
        size = size.saturating_add(row.len()).saturating_add(1);
        size <= bytes
    };
    rows.iter().take_while(fits).count().max(rows.len().min(1))
}

/// The array of these rows.
pub(super) fn array(rows: &[String]) -> String {
    format!("[{}]", rows.join(","))
}

/// What is sent, and what its encoding is called. Compressing into memory does not fail; if it did, what is plain serves.
pub(super) fn encoded(text: &str, compress: bool) -> (Vec<u8>, Option<&'static str>) {
    let squeezed = || {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).ok()?;
        encoder.finish().ok()
    };
    match compress.then(squeezed).flatten() {
        Some(bytes) => (bytes, Some("gzip")),
        None => (text.as_bytes().to_vec(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::{array, fitting};

    #[test]
    fn as_many_rows_as_fit() {
        let rows: Vec<String> = ["{\"a\":1}", "{}", "{\"b\":22}"].map(str::to_owned).to_vec();
        for most in 0..40 {
            let count = fitting(&rows, most);
            let size = |count: usize| array(&rows[..count]).len();
            assert!(size(count) <= most || count == 1, "{count} rows in {most} bytes");
            assert!(
                count == rows.len() || size(count + 1) > most,
                "{most} bytes hold more than {count} rows"
            );
        }
        assert_eq!(fitting(&[], 100), 0);
    }
}
