//! The grammar of commands (RFC 5321 section 4.1.1, RFC 2033 section 4, RFC 3030 section 2).

use super::reply::Reply;

/// Longest path inside its brackets: 64 octets of local part, `@`, 255 of domain, and room for quoting.
const PATH_OCTETS_MAX: usize = 512;

/// A command whose form is right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Command<'a> {
    Ehlo(&'a str),
    Helo(&'a str),
    Lhlo(&'a str),
    Mail(MailFrom<'a>),
    Rcpt(&'a str),
    Data,
    Bdat { octets: u64, last: bool },
    StartTls,
    Rset,
    Noop,
    Help,
    Vrfy,
    Quit,
}

/// MAIL FROM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct MailFrom<'a> {
    /// The reverse path without brackets and source route; empty for bounces.
    pub path: &'a str,
    /// SIZE, 0 if not given.
    pub octets: u64,
    /// Whether SMTPUTF8 was given.
    pub utf8: bool,
}

/// Verbs of HTTP: a browser is being made to speak to us, and its next lines may look like commands.
const HTTP_VERBS: [&str; 6] = ["GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT"];

/// Reads a command line.
///
/// # Errors
/// The reply that says what is wrong.
pub(super) fn parse(line: &[u8]) -> Result<Command<'_>, Reply> {
    let text = std::str::from_utf8(line).map_err(|_| Reply::SYNTAX)?;
    if text.chars().any(char::is_control) {
        return Err(Reply::SYNTAX);
    }
    let text = text.trim_end_matches(' ');
    let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
    let rest = rest.trim_start_matches(' ');
    let is = |name: &str| verb.eq_ignore_ascii_case(name);
    let alone = |command| if rest.is_empty() { Ok(command) } else { Err(Reply::ARGUMENT_UNEXPECTED) };
    if is("MAIL") {
        mail(rest)
    } else if is("RCPT") {
        rcpt(rest)
    } else if is("DATA") {
        alone(Command::Data)
    } else if is("BDAT") {
        bdat(rest)
    } else if is("LHLO") {
        greeting(rest).map(Command::Lhlo)
    } else if is("EHLO") {
        greeting(rest).map(Command::Ehlo)
    } else if is("HELO") {
        greeting(rest).map(Command::Helo)
    } else if is("RSET") {
        alone(Command::Rset)
    } else if is("QUIT") {
        alone(Command::Quit)
    } else if is("STARTTLS") {
        alone(Command::StartTls)
    } else if is("NOOP") {
        Ok(Command::Noop)
    } else if is("HELP") {
        Ok(Command::Help)
    } else if is("VRFY") {
        if rest.is_empty() { Err(Reply::ARGUMENT_MISSING) } else { Ok(Command::Vrfy) }
    } else if is("EXPN") || is("TURN") || is("ETRN") || is("AUTH") || is("BURL") {
        Err(Reply::NOT_IMPLEMENTED)
    } else if HTTP_VERBS.iter().any(|name| is(name)) {
        Err(Reply::NOT_A_MAIL_CLIENT)
    } else {
        Err(Reply::UNKNOWN)
    }
}

/// The client's name or address literal; kept short, checked by nobody (RFC 5321 section 4.1.4).
fn greeting(rest: &str) -> Result<&str, Reply> {
    match rest.split(' ').next() {
        Some(name) if !name.is_empty() && name.len() <= 255 => Ok(name),
        _ => Err(Reply::GREETING_ARGUMENT),
    }
}

/// `FROM:<path> [SP parameters]`.
fn mail(rest: &str) -> Result<Command<'_>, Reply> {
    let (path, parameters) = after_keyword(rest, "FROM:").and_then(path).ok_or(Reply::SENDER_SYNTAX)?;
    let mut mail = MailFrom { path, octets: 0, utf8: false };
    let mut seen: Vec<&str> = Vec::new();
    for parameter in parameters.split(' ').filter(|parameter| !parameter.is_empty()) {
        let (keyword, value) = match parameter.split_once('=') {
            Some((keyword, value)) => (keyword, Some(value)),
            None => (parameter, None),
        };
        // RFC 5321 section 4.1.1.11 gives each parameter one meaning; twice could only contradict itself.
        if seen.iter().any(|other| other.eq_ignore_ascii_case(keyword)) {
            return Err(Reply::PARAMETER_REPEATED);
        }
        if keyword.eq_ignore_ascii_case("SIZE") {
            mail.octets = value.and_then(number).ok_or(Reply::PARAMETER_VALUE)?;
        } else if keyword.eq_ignore_ascii_case("BODY") {
            let known =
                |value: &str| ["7BIT", "8BITMIME"].iter().any(|name| name.eq_ignore_ascii_case(value));
            value.filter(|value| known(value)).ok_or(Reply::PARAMETER_VALUE)?;
        } else if keyword.eq_ignore_ascii_case("SMTPUTF8") && value.is_none() {
            mail.utf8 = true;
        } else {
            return Err(Reply::PARAMETER_UNKNOWN);
        }
        // Only the three that are known come here, so this stays short.
        seen.push(keyword);
    }
    // RFC 6531 section 3.4: without SMTPUTF8 addresses are ASCII.
    if !mail.utf8 && !path.is_ascii() {
        return Err(Reply::ADDRESS_NOT_ASCII);
    }
    Ok(Command::Mail(mail))
}

/// `TO:<path>`; no extension of ours has parameters here.
fn rcpt(rest: &str) -> Result<Command<'_>, Reply> {
    let (path, parameters) = after_keyword(rest, "TO:").and_then(path).ok_or(Reply::RECIPIENT_SYNTAX)?;
    if path.is_empty() {
        return Err(Reply::RECIPIENT_SYNTAX);
    }
    if !parameters.trim_matches(' ').is_empty() {
        return Err(Reply::PARAMETER_UNKNOWN);
    }
    Ok(Command::Rcpt(path))
}

/// `chunk-size [SP LAST]`.
fn bdat(rest: &str) -> Result<Command<'_>, Reply> {
    let (octets, end) = rest.split_once(' ').unwrap_or((rest, ""));
    let end = end.trim_matches(' ');
    let octets = number(octets).ok_or(Reply::BDAT_SYNTAX)?;
    match end {
        "" => Ok(Command::Bdat { octets, last: false }),
        end if end.eq_ignore_ascii_case("LAST") => Ok(Command::Bdat { octets, last: true }),
        _ => Err(Reply::BDAT_SYNTAX),
    }
}

/// Decimal digits, at most 20 of them (RFC 1870 section 6.1); what does not fit in 64 bits is simply too large.
fn number(text: &str) -> Option<u64> {
    let digits = (1..=20).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

fn after_keyword<'a>(text: &'a str, keyword: &str) -> Option<&'a str> {
    let (start, rest) = text.split_at_checked(keyword.len())?;
    // Blanks after the colon are against the grammar and common.
    start.eq_ignore_ascii_case(keyword).then(|| rest.trim_start_matches(' '))
}

/// A path, in brackets or bare, and what follows it. The obsolete source route is dropped (RFC 5321 appendix C).
fn path(text: &str) -> Option<(&str, &str)> {
    let (inside, rest) = match text.strip_prefix('<') {
        Some(after) => {
            let end = closing_bracket(after)?;
            let (inside, rest) = after.split_at_checked(end)?;
            (inside, rest.strip_prefix('>')?)
        }
        None => {
            let end = text.find(' ').unwrap_or(text.len());
            text.split_at_checked(end).filter(|(inside, _)| !inside.is_empty())?
        }
    };
    if !rest.is_empty() && !rest.starts_with(' ') {
        return None;
    }
    let mailbox = match inside.strip_prefix('@') {
        Some(route) => route.split_once(':')?.1,
        None => inside,
    };
    let well_formed = mailbox.len() <= PATH_OCTETS_MAX && (mailbox.is_empty() || is_mailbox(mailbox));
    well_formed.then_some((mailbox, rest))
}

/// Where the path ends: the first `>` outside a quoted string.
fn closing_bracket(text: &str) -> Option<usize> {
    let mut quoted = false;
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// `local-part [@domain]`: nothing outside a quoted string that would end or split an address.
fn is_mailbox(text: &str) -> bool {
    let mut quoted = false;
    let mut escaped = false;
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ' ' | '<' | '>' | '(' | ')' | ',' | ';' | '\\' if !quoted => return false,
            _ => {}
        }
    }
    !quoted && !text.starts_with('@') && !text.ends_with('@')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mail_from(path: &str, octets: u64, utf8: bool) -> Result<Command<'_>, Reply> {
        Ok(Command::Mail(MailFrom { path, octets, utf8 }))
    }

    #[test]
    fn mail_takes_paths_and_parameters() {
        assert_eq!(parse(b"MAIL FROM:<a@x.example>"), mail_from("a@x.example", 0, false));
        assert_eq!(parse(b"mail from:<> size=1000 "), mail_from("", 1000, false));
        assert_eq!(parse(b"MAIL FROM: <a@x.example> BODY=8BITMIME"), mail_from("a@x.example", 0, false));
        assert_eq!(parse(b"MAIL FROM:a@x.example SIZE=5"), mail_from("a@x.example", 5, false));
        assert_eq!(
            parse(b"MAIL FROM:<@r.example,@s.example:a@x.example>"),
            mail_from("a@x.example", 0, false)
        );
        assert_eq!(
            parse(b"MAIL FROM:<\"a > \\\" b\"@x.example>"),
            mail_from("\"a > \\\" b\"@x.example", 0, false)
        );
        assert_eq!(
            parse("MAIL FROM:<jörg@x.example> SMTPUTF8".as_bytes()),
            mail_from("jörg@x.example", 0, true)
        );
        assert_eq!(parse(b"MAIL FROM:<a@x> SIZE=99999999999999999999"), mail_from("a@x", u64::MAX, false));
    }

    #[test]
    fn mail_that_is_wrong_says_how() {
        let error = |line: &str| parse(line.as_bytes()).unwrap_err();
        assert_eq!(error("MAIL"), Reply::SENDER_SYNTAX);
        assert_eq!(error("MAIL FROM:"), Reply::SENDER_SYNTAX);
        assert_eq!(error("MAIL FROM:<a@x"), Reply::SENDER_SYNTAX);
        assert_eq!(error("MAIL FROM:<a b@x>"), Reply::SENDER_SYNTAX);
        assert_eq!(error("MAIL FROM:<a@x>SIZE=1"), Reply::SENDER_SYNTAX);
        assert_eq!(error("MAIL FROM:<a@x><b@x>"), Reply::SENDER_SYNTAX);
        assert_eq!(error("MAIL TO:<a@x>"), Reply::SENDER_SYNTAX);
        assert_eq!(error("MAIL FROM:<a@x> SIZE="), Reply::PARAMETER_VALUE);
        assert_eq!(error("MAIL FROM:<a@x> SIZE=-1"), Reply::PARAMETER_VALUE);
        assert_eq!(error("MAIL FROM:<a@x> BODY=BINARYMIME"), Reply::PARAMETER_VALUE);
        assert_eq!(error("MAIL FROM:<a@x> RET=FULL"), Reply::PARAMETER_UNKNOWN);
        for twice in [
            "MAIL FROM:<a@x> SIZE=1 SIZE=2",
            "MAIL FROM:<a@x> SIZE=1 size=1",
            "MAIL FROM:<a@x> BODY=7BIT SIZE=1 BODY=8BITMIME",
            "MAIL FROM:<a@x> SMTPUTF8 SMTPUTF8",
        ] {
            assert_eq!(error(twice), Reply::PARAMETER_REPEATED, "{twice}");
        }
        assert_eq!(error("MAIL FROM:<jörg@x.example>"), Reply::ADDRESS_NOT_ASCII);
        assert_eq!(error(&format!("MAIL FROM:<{}@x>", "a".repeat(600))), Reply::SENDER_SYNTAX);
    }

    #[test]
    fn other_commands() {
        assert_eq!(parse(b"RCPT TO:<postmaster>"), Ok(Command::Rcpt("postmaster")));
        assert_eq!(parse(b"RCPT TO:<>"), Err(Reply::RECIPIENT_SYNTAX));
        assert_eq!(parse(b"RCPT TO:<a@x> NOTIFY=NEVER"), Err(Reply::PARAMETER_UNKNOWN));
        assert_eq!(parse(b"BDAT 10"), Ok(Command::Bdat { octets: 10, last: false }));
        assert_eq!(parse(b"bdat 0 last"), Ok(Command::Bdat { octets: 0, last: true }));
        assert_eq!(parse(b"BDAT"), Err(Reply::BDAT_SYNTAX));
        assert_eq!(parse(b"BDAT 10 FIRST"), Err(Reply::BDAT_SYNTAX));
        assert_eq!(parse(b"DATA now"), Err(Reply::ARGUMENT_UNEXPECTED));
        assert_eq!(parse(b"EHLO"), Err(Reply::GREETING_ARGUMENT));
        assert_eq!(parse(b"EHLO [127.0.0.1]"), Ok(Command::Ehlo("[127.0.0.1]")));
        assert_eq!(parse(b"NOOP anything"), Ok(Command::Noop));
        assert_eq!(parse(b"GET / HTTP/1.1"), Err(Reply::NOT_A_MAIL_CLIENT));
        assert_eq!(parse(b"XYZZY"), Err(Reply::UNKNOWN));
        assert_eq!(parse(b""), Err(Reply::UNKNOWN));
        assert_eq!(parse(b"NOOP \x00"), Err(Reply::SYNTAX));
        assert_eq!(parse(b"NOOP \xff"), Err(Reply::SYNTAX));
    }

    proptest! {
        #[test]
        fn arbitrary_lines_never_panic(
            verb in "MAIL FROM:|RCPT TO:|BDAT |EHLO |",
            text in "[<>@\" \\\\:,=a-zö0-9]{0,80}",
            octets in any::<Vec<u8>>(),
        ) {
            let _ = parse(&octets);
            let _ = parse(format!("{verb}{text}").as_bytes());
        }

        #[test]
        fn accepted_paths_cannot_break_a_header_line(text in "\\PC{0,60}") {
            if let Ok(Command::Mail(mail)) = parse(format!("MAIL FROM:{text} SMTPUTF8").as_bytes()) {
                prop_assert!(!mail.path.chars().any(char::is_control));
            }
        }
    }
}
