//! Sessions over a pipe in memory, with a maildrop that the test fills.

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::fake::{Fake, fake};
use super::*;
use crate::base::id::Uid;
use crate::wire::listen::Shutdown;
use crate::wire::stream::Connection;

fn start(fake: &Fake, source: &str) -> DuplexStream {
    let (client, server_side) = tokio::io::duplex(1 << 16);
    let (stop, shutdown) = Shutdown::new();
    let connection = Connection::memory(server_side, Some(source.parse().unwrap()));
    let server = Server::new(fake.clone(), None, Limits::default());
    tokio::spawn(async move {
        let _stop = stop;
        session(server, connection, shutdown).await;
    });
    client
}

/// Sends everything at once and returns all lines after the greeting.
async fn talk_from(source: &str, fake: &Fake, input: &str) -> Vec<String> {
    let mut client = start(fake, source);
    client.write_all(input.as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    let mut output = String::new();
    client.read_to_string(&mut output).await.unwrap();
    let mut lines: Vec<String> = output.split("\r\n").map(str::to_owned).collect();
    assert_eq!(lines.pop().as_deref(), Some(""));
    assert_eq!(lines.remove(0), "+OK Posthouse ready");
    lines
}

async fn logged_in(fake: &Fake, input: &str) -> Vec<String> {
    let mut lines = talk_from("127.0.0.1", fake, &format!("USER tim\r\nPASS two words \r\n{input}")).await;
    assert_eq!(lines.remove(0), "+OK");
    assert!(lines.remove(0).starts_with("+OK "));
    lines
}

#[tokio::test]
async fn listings_and_messages() {
    let lines = logged_in(
        &fake(),
        "STAT\r\nLIST\r\nLIST 2\r\nUIDL\r\nUIDL 3\r\nRETR 1\r\nRETR 2\r\nTOP 1 0\r\nTOP 1 1\r\nQUIT\r\n",
    )
    .await;
    let expected = "+OK 3 41|+OK|1 19|2 14|3 8|.|+OK 2 14|+OK|1 0000000700000003|2 0000000700000005|\
                    3 0000000700000009|.|+OK 3 0000000700000009|+OK 19 octets|A: b||..one|two|.|\
                    +OK 14 octets|C: d||no end|.|+OK 8 octets|A: b||.|+OK 14 octets|A: b||..one|.|+OK Bye";
    assert_eq!(lines.join("|"), expected);
}

#[tokio::test]
async fn deletions_happen_at_quit_only() {
    let fake = fake();
    let lines = logged_in(
        &fake,
        "DELE 1\r\nDELE 1\r\nRETR 1\r\nLIST 1\r\nSTAT\r\nUIDL\r\nRSET\r\nSTAT\r\nDELE 2\r\n",
    )
    .await;
    let expected = "+OK Marked for deletion|-ERR No such message|-ERR No such message|-ERR No such message|\
                    +OK 2 22|+OK|2 0000000700000005|3 0000000700000009|.|+OK|+OK 3 41|+OK Marked for deletion";
    assert_eq!(lines.join("|"), expected);
    assert_eq!(fake.0.lock().unwrap().len(), 3, "the connection was closed without QUIT");
    let lines = logged_in(&fake, "DELE 2\r\nDELE 3\r\nQUIT\r\n").await;
    assert_eq!(lines.last().map(String::as_str), Some("+OK Bye"));
    let left: Vec<Uid> = fake.0.lock().unwrap().iter().map(|(uid, _)| *uid).collect();
    assert_eq!(left, [Uid(3)]);
}

#[tokio::test]
async fn wrong_numbers_and_commands_are_answered() {
    let lines =
        logged_in(&fake(), "RETR 0\r\nRETR 4\r\nTOP 1\r\nDELE x\r\nXYZ\r\nUSER a\r\nSTLS\r\nQUIT\r\n").await;
    assert_eq!(
        lines,
        [
            "-ERR No such message",
            "-ERR No such message",
            "-ERR Wrong arguments",
            "-ERR Wrong arguments",
            "-ERR Unknown command",
            "-ERR Already logged in",
            "-ERR Already logged in",
            "+OK Bye"
        ]
    );
}

#[tokio::test]
async fn logins_tell_what_is_wrong_by_code_and_are_bounded() {
    let lines = talk_from(
        "127.0.0.1",
        &fake(),
        "PASS x\r\nSTAT\r\nUSER held\r\nPASS x\r\nUSER busy\r\nPASS x\r\nAUTH PLAIN\r\n*\r\n\
         USER tim\r\nPASS x\r\nUSER nobody\r\nPASS x\r\nAUTH PLAIN !!!\r\nUSER tim\r\nPASS two words \r\n",
    )
    .await;
    assert_eq!(
        lines,
        [
            "-ERR USER comes first",
            "-ERR Log in first",
            "+OK",
            "-ERR [SYS/PERM] This account is suspended for this service",
            "+OK",
            "-ERR [IN-USE] Another session has this mailbox open",
            "+ ",
            "-ERR Authentication cancelled",
            "+OK",
            "-ERR [AUTH] Authentication failed",
            "+OK",
            "-ERR [AUTH] Authentication failed",
            "-ERR [AUTH] malformed authentication response",
            "-ERR Too many errors, closing connection"
        ]
    );
}

#[tokio::test]
async fn sasl_plain_logs_in() {
    let lines = talk_from("127.0.0.1", &fake(), "AUTH PLAIN AHRpbQB0d28gd29yZHMg\r\nSTAT\r\nQUIT\r\n").await;
    assert_eq!(lines, ["+OK 3 messages (41 octets)", "+OK 3 41", "+OK Bye"]);
}

#[tokio::test]
async fn passwords_are_not_taken_in_the_clear_from_afar() {
    let lines = talk_from("192.0.2.1", &fake(), "CAPA\r\nUSER tim\r\nPASS x\r\nAUTH PLAIN\r\nQUIT\r\n").await;
    assert!(!lines.iter().any(|line| line == "USER" || line.starts_with("SASL")));
    let refused = lines.iter().filter(|line| line.starts_with("-ERR [SYS/PERM] Logging in without TLS"));
    assert_eq!(refused.count(), 3);
    let lines = talk_from("127.0.0.1", &fake(), "CAPA\r\nQUIT\r\n").await;
    for capability in
        ["TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING", "USER", "SASL PLAIN LOGIN"]
    {
        assert!(lines.iter().any(|line| line == capability), "{capability}");
    }
}

#[tokio::test]
async fn message_that_cannot_be_read_is_a_temporary_error() {
    let fake = fake();
    let mut client = start(&fake, "127.0.0.1");
    client.write_all(b"USER tim\r\nPASS two words \r\n").await.unwrap();
    let mut reader = crate::wire::line::Reader::new();
    for _ in 0..3 {
        reader.line(&mut client, 100).await.unwrap();
    }
    fake.0.lock().unwrap().clear();
    client.write_all(b"RETR 1\r\n").await.unwrap();
    let line = reader.line(&mut client, 100).await.unwrap();
    assert!(line.text.starts_with(b"-ERR [SYS/TEMP]"), "{line:?}");
}

#[tokio::test]
async fn command_line_too_long_is_answered() {
    let long = "x".repeat(10_000);
    let lines = talk_from("127.0.0.1", &fake(), &format!("USER {long}\r\nNOOP\r\nQUIT\r\n")).await;
    assert_eq!(lines, ["-ERR Command line too long", "+OK", "+OK Bye"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_is_sent_gets_well_formed_replies(
        pieces in proptest::collection::vec(
            prop_oneof![
                proptest::sample::select(vec![
                    "USER tim\r\n", "PASS two words \r\n", "AUTH PLAIN\r\n", "AHRpbQB0d28gd29yZHMg\r\n", "*\r\n",
                    "STAT\r\n", "DELE 1\r\n", "RETR 2\r\n", "TOP 1 1\r\n", "RSET\r\n", "STLS\r\n", "NOOP\n", "\r\n",
                ])
                .prop_map(|text| text.as_bytes().to_vec()),
                proptest::collection::vec(any::<u8>(), 0..20),
            ],
            0..30,
        ),
    ) {
        let fake = fake();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let output = runtime.block_on(async {
            let mut client = start(&fake, "127.0.0.1");
            client.write_all(&pieces.concat()).await.unwrap();
            client.shutdown().await.unwrap();
            let mut output = Vec::new();
            client.read_to_end(&mut output).await.unwrap();
            output
        });
        prop_assert!(output.starts_with(b"+OK Posthouse ready\r\n"));
        prop_assert!(output.ends_with(b"\r\n"));
        prop_assert_eq!(fake.0.lock().unwrap().len(), 3, "nothing is deleted without QUIT");
    }
}
