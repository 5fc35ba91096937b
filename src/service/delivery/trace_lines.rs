//! The trace lines in front of a delivered message (RFC 5321 section 4.4).

use crate::base::address::Address;
use crate::base::clock::Timestamp;
use crate::service::delivery::Transmission;

/// The Received line with its final line end. `recipient` is named only when there is just one.
pub(super) fn received(
    transmission: &Transmission,
    host_name: &str,
    at: Timestamp,
    recipient: Option<&Address>,
) -> String {
    let from = match transmission.source {
        Some(address) => format!("{} ([{address}])", printable(&transmission.greeting)),
        None => printable(&transmission.greeting),
    };
    let tls = transmission.tls.as_deref().map(|tls| format!(" ({})", printable(tls))).unwrap_or_default();
    let recipient = recipient.map(|address| format!(" for <{address}>")).unwrap_or_default();
    let (protocol, id) = (transmission.protocol, &transmission.id);
    format!(
        "Received: from {from}\r\n\tby {host_name} with {protocol} id {id}{tls}{recipient};\r\n\t{}\r\n",
        date(at)
    )
}

/// All trace lines of one copy.
pub(super) fn prefix(sender: &str, mailbox: &Address, received: &str) -> Vec<u8> {
    format!("Return-Path: <{}>\r\nDelivered-To: {mailbox}\r\n{received}", printable(sender)).into_bytes()
}

/// What a client said of itself, without anything that could end the line.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(255).collect()
}

/// Date and time as in a Date field (RFC 5322 section 3.3), in UTC.
pub(in crate::service) fn date(at: Timestamp) -> String {
    let t = at.utc();
    let day = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    let month = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    format!(
        "{}, {} {} {} {:02}:{:02}:{:02} +0000",
        day.get(usize::from(t.weekday().number_days_from_monday())).unwrap_or(&"Mon"),
        t.day(),
        month.get(usize::from(u8::from(t.month())) - 1).unwrap_or(&"Jan"),
        t.year(),
        t.hour(),
        t.minute(),
        t.second()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_lines_name_path_mailbox_and_hop_and_cannot_be_injected_into() {
        let transmission = Transmission {
            protocol: "ESMTPS",
            greeting: "mx.example\r\nX-Evil: 1".to_owned(),
            source: Some([192, 0, 2, 1].into()),
            tls: Some("TLSv1.3".to_owned()),
            id: "k2".to_owned(),
        };
        let mailbox: Address = "anna@a.example".parse().unwrap();
        let at = Timestamp::parse_rfc3339("2026-11-22T09:08:07Z").unwrap();
        let lines =
            prefix("bob@b.example", &mailbox, &received(&transmission, "mail.a.example", at, Some(&mailbox)));
        assert_eq!(
            String::from_utf8(lines).unwrap(),
            "Return-Path: <bob@b.example>\r\nDelivered-To: anna@a.example\r\n\
             Received: from mx.exampleX-Evil: 1 ([192.0.2.1])\r\n\tby mail.a.example with ESMTPS id k2 (TLSv1.3) \
             for <anna@a.example>;\r\n\tSun, 22 Nov 2026 09:08:07 +0000\r\n"
        );
    }
}
