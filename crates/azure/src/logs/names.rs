//! The parts of an address that come from the configuration: nothing else fits into a path.

use std::fmt;
use std::str::FromStr;

/// The immutable id of a data collection rule: `dcr-` and 32 hexadecimal digits in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleId(String);

/// A text that is no such id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "\"{0}\" is no immutable id of a data collection rule: dcr- and 32 hexadecimal digits, as `az monitor \
     data-collection rule show --query immutableId` tells it"
)]
pub struct NotARule(String);

impl FromStr for RuleId {
    type Err = NotARule;

    fn from_str(text: &str) -> Result<Self, NotARule> {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let fits = |digits: &str| digits.len() == 32 && digits.bytes().all(digit);
        if text.strip_prefix("dcr-").is_some_and(fits) {
            return Ok(Self(text.to_owned()));
        }
        Err(NotARule(text.chars().take(64).collect()))
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a stream that a data collection rule declares: `Custom-` and 1 to 100 letters, digits and `_`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamName(String);

/// A text that is no such name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("\"{0}\" is no name of a stream like Custom-CloudLAPSAudit_CL: Custom- and letters, digits and _")]
pub struct NotAStream(String);

impl FromStr for StreamName {
    type Err = NotAStream;

    fn from_str(text: &str) -> Result<Self, NotAStream> {
        let fits = |name: &str| {
            (1..=100).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        if text.strip_prefix("Custom-").is_some_and(fits) {
            return Ok(Self(text.to_owned()));
        }
        Err(NotAStream(text.chars().take(128).collect()))
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{RuleId, StreamName};

    #[test]
    fn nothing_that_leads_elsewhere_is_a_name() {
        assert!("dcr-00000000000000000000000000000abc".parse::<RuleId>().is_ok());
        assert!("Custom-CloudLAPSAudit_CL".parse::<StreamName>().is_ok());
        for wrong in
            ["", "dcr-", "dcr-0000000000000000000000000000000G", "dcr-../../../../../../../../../../../x"]
        {
            assert!(wrong.parse::<RuleId>().is_err(), "{wrong}");
        }
        for wrong in ["", "Custom-", "Custom-a/b", "Custom-a?b", "Microsoft-Syslog", "Custom-é"] {
            assert!(wrong.parse::<StreamName>().is_err(), "{wrong}");
        }
    }
}
