//! Reads Rust far enough to find the paths that a file names: comments, strings and characters are skipped, `use`
//! trees are taken apart, `super` and `self` are resolved from the file's place.

use std::path::Path;

/// A path such as `["crate", "service", "login"]`, and the line where it stands.
#[derive(Debug, PartialEq, Eq)]
pub struct Named {
    pub segments: Vec<String>,
    pub line: usize,
}

#[derive(Debug, PartialEq, Eq)]
struct Token {
    text: String,
    line: usize,
}

/// All paths of two segments or more in `source`, absolute where they start with `crate`, `self` or `super`.
pub fn named(source: &str, file: &Path) -> Vec<Named> {
    let tokens = tokens(source);
    let here = module_of(file);
    let mut found = Vec::new();
    let mut index = 0;
    while index < tokens.len() {
        let starts_path = is_word(&tokens[index])
            && tokens.get(index + 1).is_some_and(|token| token.text == "::")
            && (index == 0 || tokens[index - 1].text != "::");
        if starts_path {
            index = expand(&tokens, index, &[], &here, &mut found);
        } else {
            index += 1;
        }
    }
    found
}

/// Takes the path or `use` tree at `index` apart; gives the index behind it.
fn expand(
    tokens: &[Token],
    mut index: usize,
    prefix: &[String],
    here: &[String],
    found: &mut Vec<Named>,
) -> usize {
    let mut segments = prefix.to_vec();
    let line = tokens[index].line;
    while let Some(token) = tokens.get(index) {
        if token.text == "{" {
            index += 1;
            while tokens.get(index).is_some_and(|token| token.text != "}") {
                if tokens[index].text == "," {
                    index += 1;
                } else {
                    index = expand(tokens, index, &segments, here, found);
                }
            }
            return index + 1;
        }
        if !is_word(token) && token.text != "*" {
            // Not a `use` tree after all, such as a turbofish; what came before is the path.
            break;
        }
        segments.push(token.text.clone());
        index += 1;
        if tokens.get(index).is_some_and(|token| token.text == "as") {
            index += 2;
        }
        if tokens.get(index).is_none_or(|token| token.text != "::") {
            break;
        }
        index += 1;
    }
    found.push(Named { segments: absolute(&segments, here), line });
    // A token that belongs to no path is stepped over, so that a caller's loop always moves on.
    if tokens.get(index).is_some_and(|token| !matches!(token.text.as_str(), "," | "}") && !prefix.is_empty())
    {
        index += 1;
    }
    index
}

fn absolute(segments: &[String], here: &[String]) -> Vec<String> {
    let supers = segments.iter().take_while(|segment| *segment == "super").count();
    let start = match segments.first().map(String::as_str) {
        Some("super") => here.len().saturating_sub(supers),
        Some("self") => here.len(),
        _ => return segments.to_vec(),
    };
    let mut path = vec!["crate".to_owned()];
    path.extend_from_slice(&here[..start]);
    path.extend(segments.iter().skip(supers.max(1)).cloned());
    path
}

/// The module that a file below `src` is, without `crate`.
pub fn module_of(file: &Path) -> Vec<String> {
    let mut segments: Vec<String> = file
        .with_extension("")
        .components()
        .skip(1)
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .collect();
    if segments.last().is_some_and(|last| last == "mod" || last == "lib" || last == "main") {
        segments.pop();
    }
    segments
}

fn is_word(token: &Token) -> bool {
    token.text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Words, `::`, and single other characters; no comments, strings, characters, lifetimes.
fn tokens(source: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let taken = skipped(rest).unwrap_or_else(|| {
            let word = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
            let length = match word {
                0 if rest.starts_with("::") => 2,
                0 => first.len_utf8(),
                word => word,
            };
            if !first.is_whitespace() {
                tokens.push(Token { text: rest[..length].to_owned(), line });
            }
            length
        });
        line += rest[..taken].matches('\n').count();
        rest = &rest[taken..];
    }
    tokens
}

/// The length of the comment, string, character or lifetime at the start of `rest`.
fn skipped(rest: &str) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(rest.find("*/").map_or(rest.len(), |end| end + 2));
    }
    let prefix = ["br", "cr", "r", "b", "c"].into_iter().find(|prefix| {
        let behind = rest.strip_prefix(prefix).unwrap_or("");
        behind.trim_start_matches('#').starts_with('"') && (prefix.ends_with('r') || behind.starts_with('"'))
    });
    if let Some(prefix) = prefix.filter(|prefix| prefix.ends_with('r')) {
        let hashes = rest[prefix.len()..].chars().take_while(|&c| c == '#').count();
        let open = prefix.len() + hashes + 1;
        let close = format!("\"{}", "#".repeat(hashes));
        return Some(rest[open..].find(&close).map_or(rest.len(), |end| open + end + close.len()));
    }
    let quote = prefix.map_or(0, str::len);
    if rest[quote..].starts_with('"') {
        return Some(quote + closed(&rest[quote..], '"'));
    }
    if rest.starts_with('\'') || rest.starts_with("b'") {
        let quote = rest.find('\'').unwrap_or(0);
        let mut behind = rest[quote + 1..].chars();
        let (first, second) = (behind.next(), behind.next());
        let is_character = first == Some('\\') || second == Some('\'');
        return Some(if is_character { quote + closed(&rest[quote..], '\'') } else { quote + 1 });
    }
    None
}

/// The length of a quoted thing with backslash escapes.
fn closed(quoted: &str, quote: char) -> usize {
    let mut escaped = false;
    for (index, c) in quoted.char_indices().skip(1) {
        if !escaped && c == quote {
            return index + 1;
        }
        escaped = !escaped && c == '\\';
    }
    quoted.len()
}

#[test]
fn paths_are_found_in_use_trees_and_expressions_but_not_in_text() {
    let source = r##"
        // use crate::comment::Gone;
        use crate::{base::id::Uid, service::{self, login::Login as L}, wire::*};
        use super::super::pop3::Session;
        fn f<'a>(x: &'a str) -> Vec::<u8> {
            let _ = ("crate::string::Gone", r#"crate::raw"::Gone"#, '"', b'\'', '\\');
            crate::storage::StorageError::Full
        }
    "##;
    let paths: Vec<String> =
        named(source, Path::new("src/imap/fetch.rs")).iter().map(|named| named.segments.join("::")).collect();
    assert_eq!(
        paths,
        [
            "crate::base::id::Uid",
            "crate::service::self",
            "crate::service::login::Login",
            "crate::wire::*",
            "crate::pop3::Session",
            "Vec",
            "crate::storage::StorageError::Full",
        ]
    );
}
