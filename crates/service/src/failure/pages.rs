//! The pages of all codes, as they are in docs/errors, for `keyturn explain`: it works where nothing else does.

use super::Code;

/// A page of a code that is nobody's exit.
macro_rules! pages {
    ($($code:literal)*) => {
        [$(($code, include_str!(concat!("../../../../docs/errors/", $code, ".md"))),)*]
    };
}

/// What devices are told, and what the logs tell of them.
const REFUSALS: [(&str, &str); 24] = pages! {
    "KT-0101" "KT-0102" "KT-0103" "KT-0104" "KT-0105" "KT-0106" "KT-0107" "KT-0108" "KT-0109" "KT-0110" "KT-0111"
    "KT-0112" "KT-0113" "KT-0201" "KT-0202" "KT-0203" "KT-0204" "KT-0205" "KT-0206" "KT-0207" "KT-0208" "KT-0209"
    "KT-0210" "KT-0211"
};

/// Every code with its page, in order.
pub fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    REFUSALS.into_iter().chain(Code::ALL.iter().map(|code| (code.code(), code.page())))
}

/// The page of a code. Upper case does not matter, and neither do `KT-` and zeros in front.
pub fn find(code: &str) -> Option<(&'static str, &'static str)> {
    let upper = code.trim().to_ascii_uppercase();
    let number = upper.strip_prefix("KT-").unwrap_or(&upper);
    let plain = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let wanted = plain.then(|| format!("KT-{number:0>4}"))?;
    all().find(|(known, _)| *known == wanted)
}

/// What a page says its code is called.
pub fn title(page: &'static str) -> &'static str {
    let heading = page.lines().next().unwrap_or_default().trim_start_matches("# ");
    heading.split_once(' ').map_or(heading, |(_, title)| title)
}
