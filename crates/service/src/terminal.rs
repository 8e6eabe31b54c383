//! Text that somebody else wrote, on a terminal.

/// Whether a terminal acts on a character instead of showing it: controls, and marks that are invisible or turn the
/// direction of what follows.
pub fn is_obeyed(c: char) -> bool {
    let invisible =
        matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    c.is_control() || invisible
}

/// Text that somebody else wrote, fit for a terminal.
pub fn printable(text: String) -> String {
    if !text.contains(is_obeyed) {
        return text;
    }
    text.chars().map(|c| if is_obeyed(c) { '\u{fffd}' } else { c }).collect()
}
