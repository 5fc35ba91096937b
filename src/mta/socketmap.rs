//! Look-ups for Postfix: socketmap_table(5), requests and replies as netstrings.
//!
//! | map | key | answer |
//! |---|---|---|
//! | `domains` | domain | `OK` when its mail is taken here |
//! | `recipients` | address | `OK` when it exists, whatever its state |
//! | `access` | address | a reply in the form of access(5) while it takes no mail, else `NOTFOUND` |
//! | `senders` | address | `OK` and the logins that may send with it |

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::base::address::Address;
use crate::service::delivery::{Delivery, DeliveryRefusal};
use crate::wire::line::Reader;
use crate::wire::listen::Shutdown;
use crate::wire::stream::Connection;

/// Longest request, in octets: a map's name and an address, with much room.
const REQUEST_OCTETS_MAX: usize = 4096;
/// Longest answer, in octets; Postfix takes 100,000 (socketmap_table(5)).
const ANSWER_OCTETS_MAX: usize = 32 * 1024;
/// Postfix keeps a connection while it has work; it opens another when it finds one closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// What the maps are made from; tests put their own in its place.
pub trait Directory: Send + Sync + 'static {
    /// See [`Delivery::is_local_domain`].
    fn is_local_domain(&self, domain: &str) -> impl Future<Output = Result<bool, DeliveryRefusal>> + Send;

    /// See [`Delivery::recipient_state`].
    fn recipient_state(&self, address: &str) -> impl Future<Output = Result<(), DeliveryRefusal>> + Send;

    /// See [`Delivery::sender_logins`].
    fn sender_logins(
        &self,
        address: &str,
    ) -> impl Future<Output = Result<Vec<Address>, DeliveryRefusal>> + Send;
}

impl Directory for Delivery {
    async fn is_local_domain(&self, domain: &str) -> Result<bool, DeliveryRefusal> {
        Delivery::is_local_domain(self, domain).await
    }

    async fn recipient_state(&self, address: &str) -> Result<(), DeliveryRefusal> {
        Delivery::recipient_state(self, address).await
    }

    async fn sender_logins(&self, address: &str) -> Result<Vec<Address>, DeliveryRefusal> {
        Delivery::sender_logins(self, address).await
    }
}

/// Why a session stops: the client closed, broke the protocol, or was silent.
struct Stop;

/// Serves one connection to its end. A client that says nothing for `first_timeout` after it came is sent away.
pub async fn session<D: Directory>(
    directory: Arc<D>,
    first_timeout: Duration,
    mut connection: Connection,
    shutdown: Shutdown,
) {
    let mut idle_timeout = first_timeout.min(IDLE_TIMEOUT);
    let mut reader = Reader::new();
    loop {
        let request = tokio::select! {
            biased;
            request = timeout(idle_timeout, netstring(&mut reader, &mut connection)) => request,
            () = shutdown.requested() => return,
        };
        let Ok(Ok(request)) = request else { return };
        idle_timeout = IDLE_TIMEOUT;
        let answer = answer(&*directory, &request).await;
        let reply = format!("{}:{answer},", answer.len());
        let written = timeout(IDLE_TIMEOUT, async {
            connection.write_all(reply.as_bytes()).await?;
            connection.flush().await
        });
        if !matches!(written.await, Ok(Ok(()))) {
            return;
        }
    }
}

/// `length ":" octets ","`. Cancelled only when the session ends.
async fn netstring(reader: &mut Reader, connection: &mut Connection) -> Result<Vec<u8>, Stop> {
    let mut length = 0_usize;
    let mut digits = 0;
    loop {
        let octet = *reader.chunk(connection).await.map_err(|_| Stop)?.first().ok_or(Stop)?;
        reader.consume(1);
        match octet {
            b'0'..=b'9' if digits < 6 => length = length * 10 + usize::from(octet - b'0'),
            b':' if digits > 0 => break,
            _ => return Err(Stop),
        }
        digits += 1;
    }
    if length > REQUEST_OCTETS_MAX {
        return Err(Stop);
    }
    let mut request = Vec::with_capacity(length + 1);
    reader.exact(connection, length + 1, &mut request).await.map_err(|_| Stop)?;
    match request.pop() {
        Some(b',') => Ok(request),
        _ => Err(Stop),
    }
}

/// `map SP key`, and the answer to it.
async fn answer<D: Directory>(directory: &D, request: &[u8]) -> String {
    let Some((map, key)) = std::str::from_utf8(request).ok().and_then(|text| text.split_once(' ')) else {
        return "PERM expected a map and a key".to_owned();
    };
    let answer = match map {
        "domains" => domain(directory, key).await,
        "recipients" => recipient(directory, key).await,
        "access" => access(directory, key).await,
        "senders" => senders(directory, key).await,
        _ => return "PERM unknown map; there are domains, recipients, access and senders".to_owned(),
    };
    match answer {
        Ok(Some(data)) => format!("OK {data}"),
        Ok(None) => "NOTFOUND ".to_owned(),
        Err(refusal) => format!("TEMP {refusal}"),
    }
}

/// Something, nothing, or no answer for now.
type Answer = Result<Option<String>, DeliveryRefusal>;

async fn domain<D: Directory>(directory: &D, key: &str) -> Answer {
    Ok(directory.is_local_domain(key).await?.then(|| key.to_owned()))
}

/// Postfix also asks for `@domain`, which no recipient is.
fn is_address(key: &str) -> bool {
    key.split_once('@').is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty())
}

async fn recipient<D: Directory>(directory: &D, key: &str) -> Answer {
    if !is_address(key) {
        return Ok(None);
    }
    match directory.recipient_state(key).await {
        Err(DeliveryRefusal::NotLocal | DeliveryRefusal::UnknownMailbox) => Ok(None),
        Err(refusal @ (DeliveryRefusal::Unavailable | DeliveryRefusal::Misdirected(_))) => Err(refusal),
        // It exists; whether it takes mail now is a matter of `access`, and of LMTP.
        Ok(()) | Err(_) => Ok(Some(key.to_owned())),
    }
}

async fn access<D: Directory>(directory: &D, key: &str) -> Answer {
    if !is_address(key) {
        return Ok(None);
    }
    match directory.recipient_state(key).await {
        Ok(()) | Err(DeliveryRefusal::NotLocal) => Ok(None),
        Err(refusal @ DeliveryRefusal::Unavailable) => Err(refusal),
        Err(refusal) => {
            let code = match refusal {
                DeliveryRefusal::UnknownMailbox => "550 5.1.1",
                DeliveryRefusal::Suspended => "450 4.2.1",
                DeliveryRefusal::OverQuota(_) => "452 4.2.2",
                DeliveryRefusal::Full(_) => "552 5.2.2",
                DeliveryRefusal::Misdirected(_) => "451 4.3.5",
                _ => "451 4.3.0",
            };
            Ok(Some(format!("{code} {refusal}")))
        }
    }
}

async fn senders<D: Directory>(directory: &D, key: &str) -> Answer {
    if !is_address(key) {
        return Ok(None);
    }
    let logins = directory.sender_logins(key).await?;
    let mut list = String::new();
    for login in logins {
        let login = login.to_string();
        if list.len() + login.len() >= ANSWER_OCTETS_MAX {
            tracing::warn!("an alias has more mailboxes than Postfix can be told of as senders");
            break;
        }
        if !list.is_empty() {
            list.push(',');
        }
        list.push_str(&login);
    }
    Ok((!list.is_empty()).then_some(list))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::mta::fake::Fake;

    async fn talk(input: &str) -> String {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let (_stop, shutdown) = Shutdown::new();
        let served =
            tokio::spawn(session(Arc::new(Fake), IDLE_TIMEOUT, Connection::memory(server, None), shutdown));
        client.write_all(input.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let mut output = String::new();
        client.read_to_string(&mut output).await.unwrap();
        served.await.unwrap();
        output
    }

    async fn ask(request: &str) -> String {
        let output = talk(&format!("{}:{request},", request.len())).await;
        let (length, rest) = output.split_once(':').unwrap();
        let answer = rest.strip_suffix(',').unwrap();
        assert_eq!(length.parse(), Ok(answer.len()));
        answer.to_owned()
    }

    #[tokio::test]
    async fn maps_answer_what_postfix_asks() {
        for (request, answer) in [
            ("domains x.example", "OK x.example"),
            ("domains other.example", "NOTFOUND "),
            ("domains down.example", "TEMP temporarily unavailable"),
            ("recipients tim@x.example", "OK tim@x.example"),
            ("recipients full@x.example", "OK full@x.example"),
            ("recipients nobody@x.example", "NOTFOUND "),
            ("recipients @x.example", "NOTFOUND "),
            ("recipients tim@down.example", "TEMP temporarily unavailable"),
            ("access tim@x.example", "NOTFOUND "),
            ("access full@x.example", "OK 452 4.2.2 over quota: mailbox limit"),
            ("access held@x.example", "OK 450 4.2.1 this mailbox does not take mail at present"),
            ("access nobody@x.example", "OK 550 5.1.1 no such mailbox here"),
            ("access x.example", "NOTFOUND "),
            ("access a@other.example", "NOTFOUND "),
            ("senders info@x.example", "OK tim@x.example,bo@x.example"),
            ("senders bo@x.example", "NOTFOUND "),
        ] {
            assert_eq!(ask(request).await, answer, "{request}");
        }
        assert!(ask("other key").await.starts_with("PERM "));
        assert!(ask("domains").await.starts_with("PERM "));
    }

    #[tokio::test]
    async fn several_requests_share_a_connection() {
        let request = "17:domains x.example,";
        assert_eq!(talk(&request.repeat(3)).await, "12:OK x.example,".repeat(3));
    }

    #[tokio::test]
    async fn what_is_no_netstring_closes_the_connection() {
        for input in [
            "",
            "GET / HTTP/1.1\r\n",
            "17:domains x.example;",
            ":x,",
            "1000000:x",
            "99999:domains ",
            "5:abc",
            "-1:x,",
        ] {
            assert_eq!(talk(input).await, "", "{input}");
        }
    }
}
