//! ENVELOPE (RFC 3501 section 7.4.2).

use super::respond::nstring;
use crate::service::mailstore::summary::{Envelope, EnvelopeAddress};

/// Writes an envelope.
pub fn envelope(out: &mut Vec<u8>, envelope: &Envelope) {
    out.push(b'(');
    nstring(out, envelope.date.as_deref());
    out.push(b' ');
    nstring(out, envelope.subject.as_deref());
    for list in
        [&envelope.from, &envelope.sender, &envelope.reply_to, &envelope.to, &envelope.cc, &envelope.bcc]
    {
        out.push(b' ');
        addresses(out, list);
    }
    out.push(b' ');
    nstring(out, envelope.in_reply_to.as_deref());
    out.push(b' ');
    nstring(out, envelope.message_id.as_deref());
    out.push(b')');
}

fn addresses(out: &mut Vec<u8>, list: &[EnvelopeAddress]) {
    if list.is_empty() {
        out.extend_from_slice(b"NIL");
        return;
    }
    out.push(b'(');
    for address in list {
        out.push(b'(');
        nstring(out, address.name.as_deref());
        // The source route (adl) is obsolete and never kept.
        out.extend_from_slice(b" NIL ");
        nstring(out, address.mailbox.as_deref());
        out.push(b' ');
        nstring(out, address.host.as_deref());
        out.push(b')');
    }
    out.push(b')');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::mailstore::summary::summarize;

    fn written(header: &str) -> String {
        let mut out = Vec::new();
        envelope(&mut out, &summarize(header.as_bytes()).envelope);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn example_of_rfc_3501() {
        // RFC 3501 section 8.
        let header = "Date: Wed, 17 Jul 1996 02:23:25 -0700 (PDT)\r\nFrom: Terry Gray <gray@cac.washington.edu>\r\n\
            Subject: IMAP4rev1 WG mtg summary and minutes\r\nTo: imap@cac.washington.edu\r\n\
            cc: minutes@CNRI.Reston.VA.US, John Klensin <KLENSIN@MIT.EDU>\r\n\
            Message-Id: <B27397-0100000@cac.washington.edu>\r\n\r\n";
        let gray = r#"(("Terry Gray" NIL "gray" "cac.washington.edu"))"#;
        assert_eq!(
            written(header),
            format!(
                "(\"Wed, 17 Jul 1996 02:23:25 -0700 (PDT)\" \"IMAP4rev1 WG mtg summary and minutes\" {gray} {gray} \
                 {gray} ((NIL NIL \"imap\" \"cac.washington.edu\")) ((NIL NIL \"minutes\" \"CNRI.Reston.VA.US\")\
                 (\"John Klensin\" NIL \"KLENSIN\" \"MIT.EDU\")) NIL NIL \"<B27397-0100000@cac.washington.edu>\")"
            )
        );
    }

    #[test]
    fn nothing_is_nil_and_groups_are_marked() {
        assert_eq!(written("\r\n"), "(NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL)");
        let text = written("To: team: a@b.example;, c@d.example\r\n\r\n");
        assert!(
            text.contains(
                r#"((NIL NIL "team" NIL)(NIL NIL "a" "b.example")(NIL NIL NIL NIL)(NIL NIL "c" "d.example"))"#
            ),
            "{text}"
        );
    }
}
