//! Asks the daemon: one HTTP request over the admin socket for each operation of the registry.

use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

use super::failure::{Exit, Failure};
use crate::base::id::public_id;
use crate::base::secret::read_file;
use crate::service::registry::{Method, Operation, operation};

/// Where the socket is looked for, in this order, when nobody names it.
const SOCKETS: [&str; 2] = ["posthouse-data/admin.sock", "/run/posthouse/admin.sock"];
/// Largest answer taken, in octets.
const ANSWER_OCTETS_MAX: usize = 256 << 20;

/// An operation with its fields.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub operation: &'static str,
    pub fields: Map<String, Value>,
}

impl Call {
    pub(super) fn new(operation: &'static str) -> Self {
        Self { operation, fields: Map::new() }
    }

    /// Sets a field.
    pub(super) fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.fields.insert(field.to_owned(), value.into());
        self
    }

    /// Sets a field that was given.
    pub(super) fn maybe(self, field: &str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.with(field, value),
            None => self,
        }
    }

    /// Sets a truth value that is true.
    pub(super) fn flag(self, field: &str, value: bool) -> Self {
        if value { self.with(field, true) } else { self }
    }
}

/// A way to the daemon.
pub(super) struct Client {
    socket: PathBuf,
    token: Option<SecretString>,
    runtime: Runtime,
}

impl Client {
    pub(super) fn new(socket: Option<PathBuf>, token_file: Option<&Path>) -> Result<Self, Failure> {
        let token = token_file.map(read_file).transpose();
        let token = token.map_err(|error| Failure::usage(format!("the token: {error}")))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::new(Exit::Other, error.to_string()))?;
        Ok(Self { socket: socket.unwrap_or_else(find_socket), token, runtime })
    }

    /// Runs an operation; with `dry_run` only its checks.
    pub(super) fn run(&self, call: &Call, dry_run: bool) -> Result<Value, Failure> {
        let Some(declared) = operation(call.operation) else {
            let message = format!("this program does not know the operation {}", call.operation);
            return Err(Failure::new(Exit::Other, message));
        };
        let request = self.request(declared, call, dry_run)?;
        let (status, octets) = self.runtime.block_on(self.send(request))?;
        let answer: Value = serde_json::from_slice(&octets).map_err(Failure::broken)?;
        if (200..300).contains(&status) {
            Ok(answer)
        } else {
            Err(Failure::problem(call.operation, status, &answer))
        }
    }

    fn request(
        &self,
        declared: &Operation,
        call: &Call,
        dry_run: bool,
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let mut fields = call.fields.clone();
        let mut path = String::new();
        for part in declared.path.split('/').skip(1) {
            path.push('/');
            match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
                Some(name) => {
                    let value =
                        fields.remove(name).ok_or_else(|| Failure::usage(format!("{name} is missing")))?;
                    path.push_str(&encode(&plain(&value)));
                }
                None => path.push_str(part),
            }
        }
        let mut query: Vec<String> = Vec::new();
        let mut body = Bytes::new();
        if matches!(declared.method, Method::Get | Method::Delete) {
            let pair =
                |(name, value): (&String, &Value)| format!("{}={}", encode(name), encode(&plain(value)));
            query.extend(fields.iter().map(pair));
        } else {
            body = Value::Object(fields).to_string().into();
        }
        if dry_run {
            query.push("dry_run=true".to_owned());
        }
        if !query.is_empty() {
            path.push('?');
            path.push_str(&query.join("&"));
        }
        let mut request = Request::builder()
            .method(method_name(declared.method))
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::USER_AGENT, concat!("posthouse/", env!("CARGO_PKG_VERSION")));
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if declared.method == Method::Post {
            // The daemon does once what it is asked once, even if the answer is lost.
            request = request.header("idempotency-key", public_id());
        }
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.expose_secret()));
        }
        let is_wrong = |error| Failure::usage(format!("this cannot be sent: {error}"));
        request.body(Full::new(body)).map_err(is_wrong)
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<(u16, Bytes), Failure> {
        let stream = UnixStream::connect(&self.socket).await;
        let stream = stream.map_err(|error| Failure::unreachable(&self.socket, &error))?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(Failure::broken)?;
        let connection = tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(Failure::broken)?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_OCTETS_MAX).collect().await;
        let octets = body.map_err(Failure::broken)?.to_bytes();
        connection.abort();
        Ok((status, octets))
    }
}

/// The first socket that exists; the usual one if none does, so that an error names it.
fn find_socket() -> PathBuf {
    let found = SOCKETS.iter().find(|path| Path::new(path).exists());
    let [first, _] = SOCKETS;
    PathBuf::from(found.unwrap_or(&first))
}

const fn method_name(method: Method) -> &'static str {
    match method {
        Method::Get => "GET",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Patch => "PATCH",
        Method::Delete => "DELETE",
    }
}

/// A value as it stands in a path or query.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(elements) => elements.iter().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// Percent-encodes all but the unreserved characters of RFC 3986 section 2.3.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for octet in text.bytes() {
        if octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(octet));
        } else {
            encoded.push_str(&format!("%{octet:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_but_unreserved_characters_is_encoded() {
        assert_eq!(encode("gov/health"), "gov%2Fhealth");
        assert_eq!(encode("a+b@x.test"), "a%2Bb%40x.test");
        assert_eq!(encode("ä ~"), "%C3%A4%20~");
    }
}
