//! Fuzz targets of this room, and the pipe over which the protocols' targets talk to their sessions.

use std::future::Future;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::ExposeSecret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};

use super::line::{LineError, Reader};
use super::listen::Shutdown;
use super::proxy::read_header;
use super::sasl::{Exchange, MECHANISMS, Step};
use super::stream::Connection;

thread_local! {
    static RUNTIME: Runtime = runtime();
}

#[allow(clippy::expect_used, reason = "a target that cannot run must not pass for one that found nothing")]
fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("runtime")
}

/// Runs a future to its end on this thread.
pub fn block_on<F: Future>(future: F) -> F::Output {
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// Sends `input` to a session through a pipe that holds `pipe_octets`, closes it, and returns all that the session
/// answered until it ended.
pub fn talk<F>(input: &[u8], pipe_octets: usize, session: impl FnOnce(Connection, Shutdown) -> F) -> Vec<u8>
where
    F: Future<Output = ()>,
{
    let (client, server) = tokio::io::duplex(pipe_octets);
    let (stop, shutdown) = Shutdown::new();
    let source = std::net::Ipv4Addr::new(192, 0, 2, 1).into();
    let session = session(Connection::memory(server, Some(source)), shutdown);
    let (mut read, mut write) = tokio::io::split(client);
    let send = async {
        // The session may have ended before it read everything.
        let _ = write.write_all(input).await;
        let _ = write.shutdown().await;
    };
    let receive = async {
        let mut output = Vec::new();
        let _ = read.read_to_end(&mut output).await;
        output
    };
    let ((), (), output) = block_on(async { tokio::join!(session, send, receive) });
    drop(stop);
    output
}

/// Lines, literals and skips, in an order that the input says: the reader takes every octet once and in order,
/// however few arrive at a time.
pub fn lines(input: &[u8]) {
    let Some((&first, rest)) = input.split_first() else { return };
    let whole = block_on(read_all(first, rest, 1 << 16));
    let cut = block_on(read_all(first, rest, usize::from(first) % 13 + 1));
    assert_eq!(whole, cut);
}

/// What a reader takes from `input`: lines, every third thing a literal.
async fn read_all(seed: u8, input: &[u8], pipe_octets: usize) -> Vec<Vec<u8>> {
    let (mut client, mut server) = tokio::io::duplex(pipe_octets);
    let send = async move {
        let _ = client.write_all(input).await;
    };
    let receive = async move {
        let (mut reader, mut taken) = (Reader::new(), Vec::new());
        let octets_max = usize::from(seed) + 1;
        for turn in 0_usize.. {
            if turn % 3 == 2 {
                let mut literal = Vec::new();
                if reader.exact(&mut server, turn % 17, &mut literal).await.is_err() {
                    break;
                }
                assert_eq!(literal.len(), turn % 17);
                taken.push(literal);
                continue;
            }
            match reader.line(&mut server, octets_max).await {
                Ok(line) => {
                    assert!(line.text.len() < octets_max && !line.text.contains(&b'\n'));
                    taken.push(line.text.to_vec());
                }
                Err(LineError::TooLong) => {
                    if reader.discard_line(&mut server, 4096).await.is_err() {
                        break;
                    }
                }
                Err(LineError::Closed | LineError::Truncated | LineError::Io(_)) => break,
            }
        }
        taken
    };
    tokio::join!(send, receive).1
}

/// A PROXY header is taken with its own octets and not one more.
pub fn proxy(input: &[u8]) {
    let mut rest = input;
    let Ok(header) = block_on(read_header(&mut rest)) else { return };
    let mut exact = input.get(..input.len() - rest.len()).unwrap_or_default();
    assert_eq!(block_on(read_header(&mut exact)).ok(), Some(header));
    assert!(exact.is_empty());
}

/// Every mechanism, with and without initial response, with the input's lines as they are and in base 64.
pub fn sasl(input: &[u8]) {
    let plain: Vec<Vec<u8>> = input.split(|octet| *octet == b'\n').take(8).map(<[u8]>::to_vec).collect();
    let encoded: Vec<Vec<u8>> = plain.iter().map(|line| STANDARD.encode(line).into_bytes()).collect();
    for mechanism in MECHANISMS {
        for responses in [&plain, &encoded] {
            for acting in [false, true] {
                exchange((mechanism, acting), None, responses.iter());
                let mut rest = responses.iter();
                exchange((mechanism, acting), rest.next().map(Vec::as_slice), rest);
            }
        }
    }
    let mechanism = String::from_utf8_lossy(input);
    let known = MECHANISMS.iter().any(|known| known.eq_ignore_ascii_case(&mechanism));
    assert_eq!(Exchange::start(&mechanism, None).is_ok(), known);
}

fn exchange<'r>(
    (mechanism, acting): (&str, bool),
    initial: Option<&[u8]>,
    responses: impl Iterator<Item = &'r Vec<u8>>,
) {
    let begin = if acting { Exchange::start_acting } else { Exchange::start };
    let Ok((mut exchange, mut step)) = begin(mechanism, initial) else { return };
    for response in responses {
        if let Step::Done(credentials) = &step {
            assert!(!credentials.username.is_empty());
            assert!(!credentials.password.expose_secret().is_empty());
            let other = credentials.acts_as.as_deref();
            assert!(other.is_none_or(|other| acting && !other.eq_ignore_ascii_case(&credentials.username)));
            assert!(exchange.respond(response).is_err(), "an exchange that is done goes on");
            return;
        }
        match exchange.respond(response) {
            Ok(next) => step = next,
            Err(_) => return,
        }
    }
}
