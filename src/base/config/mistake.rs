//! Mistakes in a configuration file: where, what, and what may have been meant.

use std::fmt;
use std::path::PathBuf;

/// One mistake. Lines and columns count from 1; columns are characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ConfigMistake {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl fmt::Display for ConfigMistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

/// Why there is no configuration.
#[derive(Debug)]
pub enum ConfigError {
    /// The file cannot be read.
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: std::io::Error,
    },
    /// It has mistakes.
    Mistakes {
        /// The file.
        path: PathBuf,
        /// All of them.
        mistakes: Vec<ConfigMistake>,
    },
}

/// One line for each mistake: `FILE:LINE:COLUMN: message`.
impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, error } => write!(f, "{}: {error}", path.display()),
            Self::Mistakes { path, mistakes } => {
                for (index, mistake) in mistakes.iter().enumerate() {
                    let separator = if index == 0 { "" } else { "\n" };
                    write!(f, "{separator}{}:{mistake}", path.display())?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File { error, .. } => Some(error),
            Self::Mistakes { .. } => None,
        }
    }
}

/// Line and column of an octet of `text`.
pub(super) fn place(text: &str, octet: usize) -> (usize, usize) {
    let before = text.get(..octet).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.matches('\n').count() + 1;
    let column = before.get(line_start..).map_or(0, |line| line.chars().count()) + 1;
    (line, column)
}

/// The one of `known` that `word` is most likely a misspelling of.
pub(crate) fn similar<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    // A third of the letters wrong is no misspelling any more; short words may have one.
    let distance_max = (word.chars().count() / 3).max(1);
    let best = known.iter().map(|candidate| (distance(word, candidate), *candidate)).min()?;
    (best.0 <= distance_max).then_some(best.1)
}

/// The number of letters to insert, delete, change or swap with their neighbour (Damerau's distance, restricted).
fn distance(one: &str, two: &str) -> usize {
    /// Keys are short; what is longer is no misspelling of one.
    const LETTERS_MAX: usize = 64;
    let one: Vec<char> = one.chars().take(LETTERS_MAX).collect();
    let two: Vec<char> = two.chars().take(LETTERS_MAX).collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=two.len()).collect();
    let mut previous = None;
    for (row, a) in one.iter().enumerate() {
        let mut line = vec![row + 1];
        for (column, b) in two.iter().enumerate() {
            let at = |line: &[usize], index: usize| line.get(index).copied().unwrap_or(usize::MAX / 2);
            let mut cost = at(&last, column) + usize::from(a != b);
            cost = cost.min(at(&last, column + 1) + 1).min(at(&line, column) + 1);
            let left = column.checked_sub(1).and_then(|left| two.get(left));
            if previous == Some(b) && left == Some(a) {
                cost = cost.min(at(&before, column - 1) + 1);
            }
            line.push(cost);
        }
        before = std::mem::replace(&mut last, line);
        previous = Some(a);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_words_find_their_like() {
        let known = ["lmtp", "smtp", "imap", "imaps", "pop3", "message_octets_max"];
        assert_eq!(similar("impa", &known), Some("imap"));
        assert_eq!(similar("lmpt", &known), Some("lmtp"));
        assert_eq!(similar("message_octet_max", &known), Some("message_octets_max"));
        assert_eq!(similar("managesieve", &known), None);
        assert_eq!(distance("ca", "abc"), 3);
        assert_eq!(distance("", "abc"), 3);
    }

    #[test]
    fn places_count_lines_and_characters() {
        assert_eq!(place("a\nä b", 5), (2, 3));
        assert_eq!(place("", 0), (1, 1));
        assert_eq!(place("abc", 99), (1, 4));
    }
}
