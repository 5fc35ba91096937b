//! Sessions over a pipe in memory, with a delivery service that the test commands.

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::fake::Fake;
use super::*;
use crate::wire::listen::Shutdown;
use crate::wire::stream::Connection;

fn limits() -> Limits {
    Limits { message_octets_max: 1000, recipients_max: 3, errors_max: 20, ..Limits::default() }
}

fn start(dialect: Dialect, fake: &Fake, limits: Limits) -> (DuplexStream, tokio::sync::watch::Sender<bool>) {
    let (client, server_side) = tokio::io::duplex(1 << 16);
    let server = Server::new(fake.clone(), "mx.x.example".into(), None, limits);
    let (stop, shutdown) = Shutdown::new();
    let connection = Connection::memory(server_side, Some("192.0.2.1".parse().unwrap()));
    tokio::spawn(session(server, dialect, connection, shutdown));
    (client, stop)
}

/// Sends everything at once and returns the replies, ids masked, without the greeting and the capabilities.
async fn talk_with(dialect: Dialect, fake: &Fake, limits: Limits, input: impl AsRef<[u8]>) -> Vec<String> {
    let (client, _stop) = start(dialect, fake, limits);
    let (mut read, mut write) = tokio::io::split(client);
    let input = input.as_ref().to_vec();
    let writer = tokio::spawn(async move {
        let _ = write.write_all(&input).await;
        let _ = write.shutdown().await;
    });
    let mut output = String::new();
    read.read_to_string(&mut output).await.unwrap();
    writer.await.unwrap();
    assert!(output.ends_with("\r\n"), "{output:?}");
    let mut lines: Vec<String> = output.split("\r\n").map(str::to_owned).collect();
    lines.pop();
    assert!(lines.remove(0).starts_with("220 mx.x.example "));
    lines
        .into_iter()
        .filter(|line| !line.starts_with("250-") && line != "250 CHUNKING")
        .map(|line| match line.rsplit_once(" as ") {
            Some((before, id)) if id.len() == 12 => before.to_owned(),
            _ => line,
        })
        .collect()
}

async fn lmtp(fake: &Fake, input: impl AsRef<[u8]>) -> Vec<String> {
    talk_with(Dialect::Lmtp, fake, limits(), input).await
}

async fn smtp(fake: &Fake, input: impl AsRef<[u8]>) -> Vec<String> {
    talk_with(Dialect::Smtp, fake, limits(), input).await
}

/// Code and enhanced code of each reply.
fn codes(lines: &[String]) -> Vec<&str> {
    let codes = |line: &'_ String| {
        let mut spaces = line.match_indices(' ').map(|(at, _)| at);
        let (code, enhanced) = (spaces.next().unwrap_or(line.len()), spaces.next().unwrap_or(line.len()));
        let is_enhanced = line.get(code + 1..enhanced).is_some_and(|text| text.split('.').count() == 3);
        if is_enhanced && enhanced - code <= 7 { enhanced } else { code }
    };
    lines.iter().filter_map(|line| line.get(..codes(line))).collect()
}

#[tokio::test]
async fn lmtp_answers_for_each_recipient() {
    let fake = Fake::default();
    let replies = lmtp(
        &fake,
        "LHLO mta.example\r\nMAIL FROM:<s@y.example> SIZE=20\r\nRCPT TO:<a@x.example>\r\n\
         RCPT TO:<nobody@x.example>\r\nRCPT TO:<late@x.example>\r\nRCPT TO:<a@other.example>\r\n\
         RCPT TO:<held@x.example>\r\nRCPT TO:<full@x.example>\r\n\
         DATA\r\nSubject: hi\r\n\r\n..dot\r\n.\r\nQUIT\r\n",
    )
    .await;
    assert_eq!(
        codes(&replies),
        [
            "250 2.1.0",
            "250 2.1.5",
            "550 5.1.1",
            "250 2.1.5",
            "550 5.1.2",
            "450 4.2.1",
            "452 4.2.2",
            "354",
            "250 2.0.0",
            "452 4.2.2",
            "221 2.0.0"
        ]
    );
    assert_eq!(replies[8], "250 2.0.0 <a@x.example> stored");
    assert_eq!(replies[9], "452 4.2.2 Over quota: customer limit");
    let kept = fake.0.lock().unwrap().clone();
    let message = b"Subject: hi\r\n\r\n.dot\r\n".to_vec();
    assert_eq!(kept, [("LMTP", "s@y.example".into(), vec!["a@x.example".into()], message)]);
}

#[tokio::test]
async fn smtp_stores_for_all_or_for_none() {
    let fake = Fake::default();
    let replies = smtp(
        &fake,
        "EHLO c.example\r\nMAIL FROM:<>\r\nRCPT TO:<a@x.example>\r\nRCPT TO:<late@x.example>\r\nDATA\r\nx\r\n.\r\n\
         MAIL FROM:<>\r\nRCPT TO:<late@x.example>\r\nDATA\r\nx\r\n.\r\n\
         MAIL FROM:<>\r\nRCPT TO:<a@x.example>\r\nRCPT TO:<loop@x.example>\r\nDATA\r\nx\r\n.\r\n\
         MAIL FROM:<>\r\nRCPT TO:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n",
    )
    .await;
    let answers: Vec<&str> =
        codes(&replies).into_iter().filter(|code| !code.starts_with("250 2.1") && *code != "354").collect();
    assert_eq!(answers, ["452 4.3.0", "452 4.2.2", "554 5.4.6", "250 2.0.0", "221 2.0.0"]);
    let kept = fake.0.lock().unwrap();
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].0, "ESMTP");
    assert_eq!(kept[0].2, ["a@x.example", "b@x.example"]);
}

#[tokio::test]
async fn smtp_never_relays() {
    let replies = smtp(
        &Fake::default(),
        "HELO c.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@other.example>\r\nDATA\r\nQUIT\r\n",
    )
    .await;
    assert_eq!(codes(&replies), ["250", "250 2.1.0", "550 5.7.1", "503 5.5.1", "221 2.0.0"]);
}

#[tokio::test]
async fn commands_out_of_sequence_are_refused_and_the_session_goes_on() {
    let replies = smtp(
        &Fake::default(),
        "MAIL FROM:<>\r\nRCPT TO:<a@x.example>\r\nDATA\r\nBDAT 3\r\nabcEHLO c\r\nRCPT TO:<a@x.example>\r\n\
         LHLO c\r\nSTARTTLS\r\nMAIL FROM:<>\r\nMAIL FROM:<>\r\nDATA\r\nRSET\r\nRCPT TO:<a@x.example>\r\n\
         VRFY a\r\nEXPN a\r\nHELP\r\nNOOP x\r\nFOO\r\nAUTH PLAIN AAAA\r\nQUIT\r\n",
    )
    .await;
    assert_eq!(
        codes(&replies),
        [
            "503 5.5.1",
            "503 5.5.1",
            "503 5.5.1",
            "503 5.5.1",
            "503 5.5.1",
            "500 5.5.1",
            "502 5.5.1",
            "250 2.1.0",
            "503 5.5.1",
            "503 5.5.1",
            "250 2.0.0",
            "503 5.5.1",
            "252 2.5.2",
            "502 5.5.1",
            "214 2.0.0",
            "250 2.0.0",
            "500 5.5.1",
            "502 5.5.1",
            "221 2.0.0"
        ]
    );
    let replies = lmtp(&Fake::default(), "EHLO c\r\nHELO c\r\nQUIT\r\n").await;
    assert_eq!(codes(&replies), ["500 5.5.1", "500 5.5.1", "221 2.0.0"]);
}

#[tokio::test]
async fn message_with_a_bare_line_end_is_refused_after_its_true_end() {
    let fake = Fake::default();
    let begin = "EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@x.example>\r\nDATA\r\nhello";
    let end = "MAIL FROM:<evil@x.example>\r\nRCPT TO:<a@x.example>\r\nDATA\r\nsmuggled\r\n.\r\nQUIT\r\n";
    for sequence in ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r\n.\r\r\n", "\0\r\n"] {
        let replies = smtp(&fake, format!("{begin}{sequence}{end}")).await;
        assert_eq!(codes(&replies)[2..], ["354", "550 5.6.0", "221 2.0.0"], "{sequence:?}");
    }
    assert!(fake.0.lock().unwrap().is_empty());
    let replies = lmtp(
        &fake,
        "LHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\na\nb\r\n.\r\nQUIT\r\n",
    )
    .await;
    assert_eq!(codes(&replies)[3..], ["354", "550 5.6.0", "550 5.6.0", "221 2.0.0"]);
}

#[tokio::test]
async fn size_is_checked_at_mail_and_after_data() {
    let fake = Fake::default();
    let line = "x".repeat(98);
    let message = |lines: usize| format!("{line}\r\n").repeat(lines);
    let input = format!(
        "EHLO c\r\nMAIL FROM:<> SIZE=1001\r\nMAIL FROM:<> SIZE=1000\r\nRCPT TO:<small@x.example>\r\n\
         RCPT TO:<a@x.example>\r\nDATA\r\n{}.\r\nMAIL FROM:<>\r\nRCPT TO:<a@x.example>\r\nDATA\r\n{}.\r\nQUIT\r\n",
        message(10),
        message(11)
    );
    let replies = smtp(&fake, input).await;
    assert_eq!(
        codes(&replies),
        [
            "552 5.3.4",
            "250 2.1.0",
            "552 5.3.4",
            "250 2.1.5",
            "354",
            "250 2.0.0",
            "250 2.1.0",
            "250 2.1.5",
            "354",
            "552 5.3.4",
            "221 2.0.0"
        ]
    );
    assert_eq!(fake.0.lock().unwrap().len(), 1);
    let replies =
        smtp(&fake, format!("EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@x.example>\r\nDATA\r\n{}", message(100)))
            .await;
    assert_eq!(codes(&replies)[2..], ["354", "552 5.3.4"], "a message without end is cut off");
}

#[tokio::test]
async fn chunks_are_put_together_and_refused_ones_forget_the_transaction() {
    let fake = Fake::default();
    let replies = lmtp(
        &fake,
        "LHLO c\r\nMAIL FROM:<s@y.example>\r\nRCPT TO:<a@x.example>\r\nRCPT TO:<late@x.example>\r\n\
         BDAT 10\r\n.\r\nQUIT\r\nxRCPT TO:<b@x.example>\r\nDATA\r\nBDAT 3 LAST\r\ny\r\n\
         MAIL FROM:<>\r\nRCPT TO:<a@x.example>\r\nBDAT 4\r\na\nb\nBDAT 2 LAST\r\n\r\n\
         MAIL FROM:<>\r\nRCPT TO:<a@x.example>\r\nBDAT 3\r\nab\rBDAT 2 LAST\r\n\nx\
         MAIL FROM:<>\r\nRCPT TO:<a@x.example>\r\nBDAT 0 LAST\r\nQUIT\r\n",
    )
    .await;
    assert_eq!(
        codes(&replies),
        [
            "250 2.1.0",
            "250 2.1.5",
            "250 2.1.5",
            "250 2.0.0",
            "503 5.5.1",
            "503 5.5.1",
            "250 2.0.0",
            "452 4.2.2",
            "250 2.1.0",
            "250 2.1.5",
            "550 5.6.0",
            "503 5.5.1",
            "250 2.1.0",
            "250 2.1.5",
            "250 2.0.0",
            "250 2.0.0",
            "250 2.1.0",
            "250 2.1.5",
            "250 2.0.0",
            "221 2.0.0"
        ]
    );
    let kept: Vec<Vec<u8>> = fake.0.lock().unwrap().iter().map(|kept| kept.3.clone()).collect();
    assert_eq!(kept, [&b".\r\nQUIT\r\nxy\r\n"[..], b"ab\r\nx", b""]);
}

#[tokio::test]
async fn replies_go_out_before_the_octets_of_a_chunk_are_waited_for() {
    let (mut client, _stop) = start(Dialect::Lmtp, &Fake::default(), limits());
    let mut reader = crate::wire::line::Reader::new();
    reader.line(&mut client, 1000).await.unwrap();
    client.write_all(b"NOOP\r\nBDAT 5\r\n").await.unwrap();
    assert_eq!(reader.line(&mut client, 1000).await.unwrap().text, b"250 2.0.0 OK");
    client.write_all(b"hello").await.unwrap();
    assert!(reader.line(&mut client, 1000).await.unwrap().text.starts_with(b"503 5.5.1 "));
}

#[tokio::test]
async fn recipients_and_errors_are_bounded() {
    let fake = Fake::default();
    let many = "RCPT TO:<a@x.example>\r\n".repeat(4);
    let replies = lmtp(&fake, format!("LHLO c\r\nMAIL FROM:<>\r\n{many}QUIT\r\n")).await;
    assert_eq!(codes(&replies)[1..], ["250 2.1.5", "250 2.1.5", "250 2.1.5", "452 4.5.3", "221 2.0.0"]);

    let guesses = "RCPT TO:<nobody@x.example>\r\n".repeat(50);
    let replies = smtp(&fake, format!("EHLO c\r\nMAIL FROM:<>\r\n{guesses}")).await;
    assert_eq!(codes(&replies).last(), Some(&"421 4.7.0"));
    assert_eq!(replies.len(), 1 + 21 + 1);
    let replies = lmtp(&fake, format!("LHLO c\r\nMAIL FROM:<>\r\n{guesses}QUIT\r\n")).await;
    assert_eq!(codes(&replies).last(), Some(&"221 2.0.0"));

    let guesses = "RCPT TO:<nobody@x.example>\r\n".repeat(15);
    let message = format!("MAIL FROM:<>\r\n{guesses}RCPT TO:<a@x.example>\r\nDATA\r\nx\r\n.\r\n");
    let replies = smtp(&fake, format!("EHLO c\r\n{message}{message}QUIT\r\n")).await;
    assert_eq!(codes(&replies).last(), Some(&"221 2.0.0"), "a message that is taken ends the count");
}

#[tokio::test]
async fn memory_for_messages_is_shared_and_its_lack_is_temporary() {
    let fake = Fake::default();
    let limits = Limits { in_flight_octets_max: 1024, ..limits() };
    let input = "LHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@x.example>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n";
    let replies = talk_with(Dialect::Lmtp, &fake, limits, input).await;
    assert_eq!(codes(&replies)[2..], ["354", "452 4.3.1", "221 2.0.0"]);
}

#[tokio::test]
async fn command_line_too_long_is_answered_and_an_endless_one_closes() {
    let long = "x".repeat(5000);
    let replies = smtp(&Fake::default(), format!("NOOP {long}\r\nNOOP\r\nQUIT\r\n")).await;
    assert_eq!(codes(&replies), ["500 5.5.2", "250 2.0.0", "221 2.0.0"]);
    let replies = smtp(&Fake::default(), vec![b'x'; 3 << 20]).await;
    assert_eq!(codes(&replies), ["500 5.5.2"]);
}

#[tokio::test]
async fn addresses_beyond_ascii_need_smtputf8() {
    let fake = Fake::default();
    let replies = smtp(
        &fake,
        "EHLO c\r\nMAIL FROM:<jörg@y.example>\r\nMAIL FROM:<s@y.example>\r\nRCPT TO:<jörg@x.example>\r\nRSET\r\n\
         MAIL FROM:<jörg@y.example> SMTPUTF8\r\nRCPT TO:<jörg@x.example>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n",
    )
    .await;
    assert_eq!(
        codes(&replies),
        [
            "553 5.6.7",
            "250 2.1.0",
            "553 5.6.7",
            "250 2.0.0",
            "250 2.1.0",
            "250 2.1.5",
            "354",
            "250 2.0.0",
            "221 2.0.0"
        ]
    );
    assert_eq!(fake.0.lock().unwrap()[0].0, "UTF8SMTP");
}

#[tokio::test]
async fn browser_is_sent_away() {
    let replies = smtp(&Fake::default(), "GET / HTTP/1.1\r\nMAIL FROM:<>\r\n").await;
    assert_eq!(codes(&replies), ["421 4.7.0"]);
}

#[tokio::test]
async fn idle_session_is_told_of_shutdown() {
    let (mut client, stop) = start(Dialect::Smtp, &Fake::default(), limits());
    client.write_all(b"EHLO c\r\n").await.unwrap();
    let mut output = vec![0; 64];
    assert!(client.read(&mut output).await.unwrap() > 0);
    stop.send(true).unwrap();
    let mut rest = String::new();
    client.read_to_string(&mut rest).await.unwrap();
    assert!(rest.ends_with("421 4.3.2 Shutting down, try again later\r\n"), "{rest}");
}

#[tokio::test]
async fn silent_client_is_sent_away() {
    let limits = Limits { command_timeout: Duration::from_millis(20), ..limits() };
    let (mut client, _stop) = start(Dialect::Smtp, &Fake::default(), limits);
    let mut output = String::new();
    client.read_to_string(&mut output).await.unwrap();
    assert!(output.ends_with("421 4.4.2 Timeout, closing connection\r\n"), "{output}");
}

#[tokio::test]
async fn connection_lost_in_the_middle_of_a_message_stores_nothing() {
    let fake = Fake::default();
    for input in [
        "LHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@x.example>\r\nDATA\r\nhalf\r\n.\r",
        "LHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@x.example>\r\nBDAT 10 LAST\r\nhalf",
    ] {
        lmtp(&fake, input).await;
    }
    assert!(fake.0.lock().unwrap().is_empty());
}

/// Pieces of sessions, right and wrong, in any order.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        proptest::sample::select(vec![
            "LHLO c\r\n",
            "EHLO c\r\n",
            "MAIL FROM:<>\r\n",
            "MAIL FROM:<a@x.example> SIZE=10\r\n",
            "RCPT TO:<a@x.example>\r\n",
            "RCPT TO:<late@x.example>\r\n",
            "RCPT TO:<nobody@x.example>\r\n",
            "DATA\r\n",
            "hello\r\n",
            ".\r\n",
            "BDAT 5\r\nab\r\nc",
            "BDAT 3 LAST\r\nx\r\n",
            "BDAT 4\r\n",
            "RSET\r\n",
            "NOOP\n",
            "STARTTLS\r\n",
            "VRFY x\r\n",
            "\r\n",
            "\0",
            "\r",
            "\n",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        proptest::collection::vec(any::<u8>(), 0..20),
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_is_sent_gets_well_formed_replies(input in soup(), is_lmtp in any::<bool>()) {
        let dialect = if is_lmtp { Dialect::Lmtp } else { Dialect::Smtp };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let replies = runtime.block_on(talk_with(dialect, &Fake::default(), limits(), input));
        for reply in replies {
            let code = reply.get(..3).and_then(|code| code.parse::<u16>().ok());
            prop_assert!(code.is_some_and(|code| (200..600).contains(&code)), "{}", reply);
            prop_assert_eq!(reply.get(3..4), Some(" "));
        }
    }
}
