//! What is said wrongly on the command line, in words that say what may stand there.

use std::ffi::OsStr;
use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, Command, Error};
use keyturn_service::failure::{Code, Failure, pages};

/// What the standard library says of texts that are no values, and what is said instead.
const RAW: [(&str, &str); 7] = [
    ("invalid digit found in string", "it is no whole number; write digits alone, like 20"),
    ("cannot parse integer from empty string", "there is nothing; write a whole number, like 20"),
    ("number too large to fit in target type", "the number is too large"),
    ("number too small to fit in target type", "the number is too small"),
    ("number would be zero for non-zero type", "it must be at least 1"),
    ("invalid socket address syntax", "it is no address with a port; write one like 127.0.0.1:8443"),
    ("invalid IP address syntax", "it is no IP address; write one like 127.0.0.1"),
];

/// Tells what was said wrongly, or what was asked for with --help. Returns what the program ends with.
pub(super) fn tell(error: &Error) -> ExitCode {
    let asked = [ErrorKind::DisplayHelp, ErrorKind::DisplayVersion];
    let is_help = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if asked.contains(&error.kind()) || is_help {
        // A reader that has gone away is nothing to tell of.
        drop(error.print());
        return ExitCode::from(if is_help { Code::Usage.exit() } else { 0 });
    }
    if wants_json() {
        let text = said(&error.render().to_string());
        let (text, _) = text.split_once("\n\n").unwrap_or((&text, ""));
        let failure = Failure::new(Code::Usage, text.trim_start_matches("error: "));
        eprintln!("{}", failure.json());
        return ExitCode::from(Code::Usage.exit());
    }
    let rendered = error.render();
    let text =
        if std::io::stderr().is_terminal() { rendered.ansi().to_string() } else { rendered.to_string() };
    let code = Code::Usage.code();
    eprintln!("{}\n{code}: `keyturn explain {code}`", said(&text).trim_end());
    ExitCode::from(Code::Usage.exit())
}

fn said(text: &str) -> String {
    RAW.iter().fold(text.to_owned(), |text, (raw, words)| text.replace(raw, words))
}

/// Whether --output says JSON. What could not be read as a whole may still have that in it.
fn wants_json() -> bool {
    let arguments: Vec<_> = std::env::args_os().collect();
    let apart = arguments
        .windows(2)
        .any(|two| matches!(two, [option, value] if option == "--output" && value == "json"));
    apart || arguments.iter().any(|argument| argument == "--output=json")
}

/// Takes any text for a code, and tells shells which there are: that there is no such code is told like everything else
/// that is not there.
#[derive(Clone)]
pub(super) struct AnyCode;

impl TypedValueParser for AnyCode {
    type Value = String;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<String, Error> {
        StringValueParser::new().parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(pages::all().map(|(code, page)| PossibleValue::new(code).help(pages::title(page)))))
    }
}
