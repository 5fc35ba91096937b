//! The grammar of commands (RFC 1939 section 9, RFC 2449 section 4).

/// A command whose form is right; message numbers are as given, from 1.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Command<'a> {
    Capa,
    Stls,
    User(&'a str),
    Pass(&'a str),
    Auth(Option<(&'a str, Option<&'a str>)>),
    Stat,
    List(Option<u32>),
    Uidl(Option<u32>),
    Retr(u32),
    Top(u32, u64),
    Dele(u32),
    Rset,
    Noop,
    Quit,
}

/// Why a line is no command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CommandError {
    /// No such command.
    Unknown,
    /// An argument is missing, too many, or no number.
    Arguments,
}

/// Reads a command line.
pub(super) fn parse(line: &[u8]) -> Result<Command<'_>, CommandError> {
    let text = std::str::from_utf8(line).map_err(|_| CommandError::Arguments)?;
    if text.contains('\0') {
        return Err(CommandError::Arguments);
    }
    let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
    let is = |name: &str| verb.eq_ignore_ascii_case(name);
    // A password may begin or end with blanks (RFC 1939 section 7), all else may be padded.
    if is("PASS") {
        return if rest.is_empty() { Err(CommandError::Arguments) } else { Ok(Command::Pass(rest)) };
    }
    let mut words = rest.split(' ').filter(|word| !word.is_empty());
    let command = if is("RETR") {
        Command::Retr(required(&mut words)?)
    } else if is("DELE") {
        Command::Dele(required(&mut words)?)
    } else if is("TOP") {
        Command::Top(required(&mut words)?, required(&mut words)?)
    } else if is("UIDL") {
        Command::Uidl(optional(&mut words)?)
    } else if is("LIST") {
        Command::List(optional(&mut words)?)
    } else if is("STAT") {
        Command::Stat
    } else if is("USER") {
        Command::User(words.next().ok_or(CommandError::Arguments)?)
    } else if is("AUTH") {
        Command::Auth(words.next().map(|mechanism| (mechanism, words.next())))
    } else if is("CAPA") {
        Command::Capa
    } else if is("STLS") {
        Command::Stls
    } else if is("RSET") {
        Command::Rset
    } else if is("NOOP") {
        Command::Noop
    } else if is("QUIT") {
        Command::Quit
    } else {
        return Err(CommandError::Unknown);
    };
    if words.next().is_some() { Err(CommandError::Arguments) } else { Ok(command) }
}

fn number<N: std::str::FromStr>(word: &str) -> Result<N, CommandError> {
    let digits = word.bytes().all(|byte| byte.is_ascii_digit());
    word.parse().ok().filter(|_| digits).ok_or(CommandError::Arguments)
}

fn required<'a, N: std::str::FromStr>(words: &mut impl Iterator<Item = &'a str>) -> Result<N, CommandError> {
    number(words.next().ok_or(CommandError::Arguments)?)
}

fn optional<'a>(words: &mut impl Iterator<Item = &'a str>) -> Result<Option<u32>, CommandError> {
    words.next().map(number).transpose()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn commands_are_read() {
        assert_eq!(parse(b"user tim@x.example"), Ok(Command::User("tim@x.example")));
        assert_eq!(parse(b"PASS  two words "), Ok(Command::Pass(" two words ")));
        assert_eq!(parse(b"RETR 1"), Ok(Command::Retr(1)));
        assert_eq!(parse(b"TOP 2 10 "), Ok(Command::Top(2, 10)));
        assert_eq!(parse(b"LIST"), Ok(Command::List(None)));
        assert_eq!(parse(b"UIDL 3"), Ok(Command::Uidl(Some(3))));
        assert_eq!(parse(b"AUTH"), Ok(Command::Auth(None)));
        assert_eq!(parse(b"AUTH PLAIN AAA="), Ok(Command::Auth(Some(("PLAIN", Some("AAA="))))));
        for (line, error) in [
            (&b"RETR"[..], CommandError::Arguments),
            (b"RETR x", CommandError::Arguments),
            (b"RETR +1", CommandError::Arguments),
            (b"RETR 1 2", CommandError::Arguments),
            (b"RETR 99999999999", CommandError::Arguments),
            (b"TOP 1", CommandError::Arguments),
            (b"STAT now", CommandError::Arguments),
            (b"USER a\0b", CommandError::Arguments),
            (b"\xff", CommandError::Arguments),
            (b"XTND", CommandError::Unknown),
            (b"", CommandError::Unknown),
        ] {
            assert_eq!(parse(line), Err(error), "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_lines_never_panic(verb in "RETR |TOP |UIDL |AUTH |USER |", line in any::<Vec<u8>>()) {
            let _ = parse(&line);
            let _ = parse(&[verb.as_bytes(), &line].concat());
        }
    }
}
