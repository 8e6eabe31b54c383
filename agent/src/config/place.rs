//! Where in the file something is wrong.

use std::fmt::Display;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;

use super::{Error, cannot_read};
use keyturn_domain::span::Span;

/// The file that is read.
pub(super) struct Source<'a> {
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
}

impl Source<'_> {
    /// An error of the parser.
    pub(super) fn syntax(&self, error: &toml::de::Error) -> Error {
        let message = error.message().trim_end().replace('\n', "; ");
        self.error(error.span().map_or(0, |span| span.start), &message)
    }

    /// An error about a value.
    pub(super) fn at<T>(&self, value: &Spanned<T>, message: &dyn Display) -> Error {
        self.error(value.span().start, message)
    }

    /// What `check` makes of a value.
    pub(super) fn check<T, U, E: Display>(
        &self,
        value: &Spanned<T>,
        check: impl FnOnce(&T) -> Result<U, E>,
    ) -> Result<U, Error> {
        check(value.as_ref()).map_err(|error| self.at(value, &error))
    }

    /// The content of the file a value names.
    pub(super) fn read(&self, path: &Spanned<PathBuf>) -> Result<Vec<u8>, Error> {
        self.check(path, |path| fs::read(path).map_err(|error| cannot_read(path, &error)))
    }

    /// A length of time between two bounds.
    pub(super) fn within(
        &self,
        span: Option<&Spanned<Span>>,
        default: Duration,
        bounds: RangeInclusive<Duration>,
    ) -> Result<Duration, Error> {
        let Some(span) = span else { return Ok(default) };
        self.check(span, |Span(length)| {
            let (least, most) = (Span(*bounds.start()), Span(*bounds.end()));
            if bounds.contains(length) { Ok(*length) } else { Err(format!("must be from {least} to {most}")) }
        })
    }

    pub(super) fn error(&self, offset: usize, message: &dyn Display) -> Error {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let key = self.key(line).map_or_else(String::new, |key| format!("{key}: "));
        Error::Setting { place: format!("{}:{line}", self.path.display()), key, message: message.to_string() }
    }

    /// The key on a line, with the section it is in.
    fn key(&self, line: usize) -> Option<String> {
        let text = self.text.lines().nth(line - 1)?.trim();
        if let Some(section) = section(text) {
            return Some(format!("[{section}]"));
        }
        let key = text.split_once('=')?.0.trim();
        let section = self.text.lines().take(line).filter_map(|line| section(line.trim())).last();
        Some(section.map_or_else(|| key.to_owned(), |section| format!("{section}.{key}")))
    }
}

fn section(line: &str) -> Option<&str> {
    line.strip_prefix('[')?.split(']').next()
}
