//! Printing: tables for people, JSON for programs.

use std::io::Write as _;

use anyhow::Result;
use comfy_table::{Table, presets};
use keyturn_domain::time::UnixMillis;
use keyturn_schemas::envelope::rfc3339;
use serde::Serialize;

use crate::cli::Output;

/// Prints a line of data. A reader that has gone away (`| head`) is no error: there is nothing left to do.
pub(crate) fn line(text: std::fmt::Arguments<'_>) {
    if writeln!(std::io::stdout(), "{text}").is_err() {
        std::process::exit(0);
    }
}

/// Prints a line of data, like `println!`.
macro_rules! say {
    ($($text:tt)*) => { $crate::output::line(format_args!($($text)*)) };
}
pub(crate) use say;

/// Prints rows as a table, or `value` as JSON.
pub(crate) fn table<const N: usize>(
    output: Output,
    headings: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
    value: &impl Serialize,
) -> Result<()> {
    match output {
        Output::Json => json(value)?,
        Output::Text => {
            let mut table = plain();
            table.set_header(headings);
            for row in rows {
                table.add_row(row.map(printable));
            }
            say!("{}", table.trim_fmt());
        }
    }
    Ok(())
}

/// Prints a value as JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    say!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// A table without lines, as wide as the terminal.
pub(crate) fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}

/// An instant, to the second.
pub(crate) fn when(at: UnixMillis) -> String {
    rfc3339(UnixMillis(at.0 / 1000 * 1000)).replace(".000Z", "Z")
}

/// How long ago an instant was, roughly.
pub(crate) fn ago(at: UnixMillis, now: UnixMillis) -> String {
    let seconds = now.since(at).as_secs();
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Text that somebody else wrote, fit for a terminal.
pub(crate) fn printable(text: String) -> String {
    if !text.chars().any(char::is_control) {
        return text;
    }
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
