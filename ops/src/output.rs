//! Printing: tables for people, JSON for programs.

use std::borrow::Cow;
use std::io::{IsTerminal as _, Write as _};

use comfy_table::{Table, presets};
use keyturn_domain::time::UnixMillis;
use keyturn_schemas::envelope::rfc3339;
use keyturn_service::terminal::is_obeyed;
pub(crate) use keyturn_service::terminal::printable;
use serde::Serialize;

use crate::cli::Output;
use crate::failure::{Code, Failure, OrFail as _, Result};

/// How many characters of what somebody typed are repeated.
const QUOTED: usize = 80;

/// Prints a line of data. A reader that has gone away (`| head`) is no error: there is nothing left to do. Anything
/// else is one, such as a full disk under an export, and must not pass for a whole answer.
pub(crate) fn line(text: std::fmt::Arguments<'_>) {
    let Err(error) = writeln!(std::io::stdout(), "{text}") else { return };
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    let broken =
        Failure::of(Code::OutputBroken, &error).within("the output could not be written, and is not whole");
    let _told = broken.report("keyturn");
    std::process::exit(broken.code().exit().into());
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
    say!("{}", escaped(&serde_json::to_string_pretty(value).or_defect()?));
    Ok(())
}

/// Prints a value as a line of JSON.
pub(crate) fn json_line(value: &impl Serialize) -> Result<()> {
    say!("{}", escaped(&serde_json::to_string(value).or_defect()?));
    Ok(())
}

/// JSON that says the same, without the characters that JSON lets stand and a terminal obeys, such as U+009B.
fn escaped(json: &str) -> Cow<'_, str> {
    let obeyed = |c: char| c != '\n' && is_obeyed(c);
    if !json.contains(obeyed) {
        return Cow::Borrowed(json);
    }
    // All of them are below U+10000. They stand in strings only: what surrounds those is ours.
    let shown = |c| if obeyed(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    Cow::Owned(json.chars().map(shown).collect::<Vec<_>>().concat())
}

/// Whether the output goes to a terminal that obeys escape codes: one that says it is dumb prints them.
pub(crate) fn is_obeyed_by_stdout() -> bool {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    std::io::stdout().is_terminal() && !dumb
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

/// How many of something whose name takes an s: `1 dead letter`, `2 dead letters`.
pub(crate) fn count(number: impl TryInto<u64>, one: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

/// The same with its verb: `1 dead letter is`, `2 dead letters are`.
pub(crate) fn are(number: impl TryInto<u64>, one: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    format!("{} {}", count(number, one), if number == 1 { "is" } else { "are" })
}

/// What somebody typed, as an error repeats it: short, and fit for a terminal.
pub(crate) fn quoted(text: &str) -> String {
    let mut short: String = text.chars().take(QUOTED).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("«{}»", printable(short))
}

#[cfg(test)]
mod tests {
    use super::{are, count};

    #[test]
    fn one_is_not_many() {
        let told: Vec<String> = (0_u64..3).map(|number| count(number, "dead letter")).collect();
        assert_eq!(told, ["0 dead letters", "1 dead letter", "2 dead letters"]);
        assert_eq!(
            (are(1_usize, "key"), are(2_u32, "key")),
            ("1 key is".to_owned(), "2 keys are".to_owned())
        );
    }
}
