//! Messages as POP3 sends them: dot-stuffed, cut for TOP, ended by CRLF (RFC 1939 section 3).

use memchr::memchr_iter;

/// Puts a dot before each line of `octets` that begins with one, and appends all to `into`. `at_line_start` says
/// whether the octets begin a line; the answer says it for those that follow.
///
/// A dot after a bare LF is stuffed too: many clients end a line there, and for them an unstuffed `.` would end the
/// message early and turn the rest of it into answers.
pub(super) fn stuff(octets: &[u8], at_line_start: bool, into: &mut Vec<u8>) -> bool {
    let Some(&last) = octets.last() else { return at_line_start };
    if at_line_start && octets.starts_with(b".") {
        into.push(b'.');
    }
    let mut rest = octets;
    let mut taken = 0;
    for lf in memchr_iter(b'\n', octets) {
        if octets.get(lf + 1) == Some(&b'.')
            && let Some((line, after)) = rest.split_at_checked(lf + 1 - taken)
        {
            into.extend_from_slice(line);
            into.push(b'.');
            taken = lf + 1;
            rest = after;
        }
    }
    into.extend_from_slice(rest);
    last == b'\n'
}

/// How many octets of `message` TOP sends: the header, the blank line, and `lines` lines of the body.
pub(super) fn top_octets(message: &[u8], header_octets: usize, lines: u64) -> usize {
    let header_octets = header_octets.min(message.len());
    let Some(last) = lines.checked_sub(1) else { return header_octets };
    let body = message.get(header_octets..).unwrap_or_default();
    let nth = usize::try_from(last).ok().and_then(|last| memchr_iter(b'\n', body).nth(last));
    nth.map_or(message.len(), |lf| header_octets + lf + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stuffed(message: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        stuff(message, true, &mut out);
        out
    }

    #[test]
    fn dots_at_line_starts_are_doubled() {
        assert_eq!(stuffed(b".a\r\n..\r\nb.\r\n\n.\r\n"), b"..a\r\n...\r\nb.\r\n\n..\r\n");
        assert_eq!(stuffed(b""), b"");
    }

    #[test]
    fn top_cuts_after_the_lines_asked_for() {
        let message = b"A: b\r\n\r\none\r\ntwo\r\nthree";
        let top = |lines| &message[..top_octets(message, 8, lines)];
        assert_eq!(top(0), b"A: b\r\n\r\n");
        assert_eq!(top(1), b"A: b\r\n\r\none\r\n");
        assert_eq!(top(2), b"A: b\r\n\r\none\r\ntwo\r\n");
        assert_eq!(top(3), message);
        assert_eq!(top(u64::MAX), message);
        assert_eq!(top_octets(b"short", 100, 0), 5);
    }

    proptest! {
        #[test]
        fn stuffing_in_pieces_gives_what_an_lf_client_takes_back(
            message in "[.a\r\n]{0,60}",
            cut in any::<usize>(),
        ) {
            let message = message.as_bytes();
            let (first, second) = message.split_at(cut % (message.len() + 1));
            let mut out = Vec::new();
            let start = stuff(first, true, &mut out);
            stuff(second, start, &mut out);
            prop_assert_eq!(&out, &stuffed(message));
            let back: Vec<u8> = out
                .split_inclusive(|&byte| byte == b'\n')
                .flat_map(|line| line.strip_prefix(b".").unwrap_or(line))
                .copied()
                .collect();
            prop_assert_eq!(back, message);
        }
    }
}
