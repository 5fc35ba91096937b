//! Asks the daemon: one HTTP request over the admin socket for each operation of the registry.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::failure::{Exit, Failure};
use super::login::{Login, Named, Proof, bearer};
use crate::base::id::public_id;
use crate::base::secret::read_file;
use crate::service::registry::{Method, Operation, operation};

/// Where the socket is looked for, in this order, when nobody names it.
const SOCKETS: [&str; 2] = ["posthouse-data/admin.sock", "/run/posthouse/admin.sock"];
/// Largest answer taken, in octets.
const ANSWER_OCTETS_MAX: usize = 256 << 20;
/// Longest line of a stream, in octets.
const LINE_OCTETS_MAX: usize = 64 << 20;
/// What those may have met with who are not let in with a token or a password.
const NOT_LET_IN: &str = "tokens end with their time, their owner and the owner's password; administrators may be \
                          disabled, suspended, or outside of their login window";
/// The media type of streams.
const NDJSON: &str = "application/x-ndjson";

/// The header for a code of the second factor.
const SECOND_FACTOR: header::HeaderName = header::HeaderName::from_static("second-factor");

/// The word of an answer that is about the second factor.
fn second_factor(answer: &Value) -> Option<&str> {
    answer.get("code").and_then(Value::as_str).filter(|code| code.starts_with("second_factor_"))
}

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
    identity: Identity,
    runtime: Runtime,
}

/// As whom the daemon is asked.
pub(super) enum Identity {
    /// As whom the kernel says.
    Peer,
    /// As the owner of this token.
    Token(SecretString),
    /// As somebody with a password.
    Login(Login),
}

impl Client {
    pub(super) fn new(
        socket: Option<PathBuf>,
        token_file: Option<&Path>,
        login: Option<Named>,
    ) -> Result<Self, Failure> {
        let socket = socket.unwrap_or_else(find_socket);
        let identity = match (login, token_file) {
            (Some(named), _) => Identity::Login(Login::new(named, &socket)?),
            (None, Some(file)) => {
                let token = read_file(file);
                Identity::Token(token.map_err(|error| Failure::usage(format!("the token: {error}")))?)
            }
            (None, None) => Identity::Peer,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::new(Exit::Other, error.to_string()))?;
        Ok(Self { socket, identity, runtime })
    }

    /// Runs an operation; with `dry_run` only its checks.
    pub(super) fn run(&self, call: &Call, dry_run: bool) -> Result<Value, Failure> {
        let Some(declared) = operation(call.operation) else {
            let message = format!("this program does not know the operation {}", call.operation);
            return Err(Failure::new(Exit::Other, message));
        };
        let (mut status, mut answer) = self.exchange(declared, call, dry_run, self.proof(call)?)?;
        if status == 401
            && second_factor(&answer).is_none()
            && let Identity::Login(login) = &self.identity
            && login.forget()
        {
            // The token of before has ended; the password gets a new one.
            (status, answer) = self.exchange(declared, call, dry_run, self.proof(call)?)?;
        }
        if (200..300).contains(&status) {
            return Ok(answer);
        }
        let failure = Failure::problem(call.operation, status, &answer);
        // Who has said who they are knows how to.
        let is_named =
            status == 401 && second_factor(&answer).is_none() && !matches!(self.identity, Identity::Peer);
        Err(if is_named { failure.hint(NOT_LET_IN) } else { failure })
    }

    /// Runs the operation for which a one-time code was made, as whoever holds it.
    pub(super) fn redeem(&self, code: &SecretString, call: &Call, dry_run: bool) -> Result<Value, Failure> {
        let Some(declared) = operation(call.operation) else {
            let message = format!("this program does not know the operation {}", call.operation);
            return Err(Failure::new(Exit::Other, message));
        };
        let (status, answer) = self.exchange(declared, call, dry_run, Some(bearer(code)))?;
        let is_done = (200..300).contains(&status);
        if is_done { Ok(answer) } else { Err(Failure::problem(call.operation, status, &answer)) }
    }

    /// Asks; once more with a code of the second factor where one is asked for.
    fn exchange(
        &self,
        declared: &Operation,
        call: &Call,
        dry_run: bool,
        proof: Option<SecretString>,
    ) -> Result<(u16, Value), Failure> {
        let (status, answer) = self.ask_once(self.request(declared, call, dry_run, proof.clone())?)?;
        let Identity::Login(login) = &self.identity else { return Ok((status, answer)) };
        if second_factor(&answer) != Some("second_factor_required") {
            return Ok((status, answer));
        }
        let mut request = self.request(declared, call, dry_run, proof)?;
        let code = header::HeaderValue::from_str(login.code()?.expose_secret().trim());
        let mut code = code.map_err(|_| Failure::usage("this is no code"))?;
        code.set_sensitive(true);
        request.headers_mut().insert(SECOND_FACTOR, code);
        self.ask_once(request)
    }

    fn ask_once(&self, request: Request<Full<Bytes>>) -> Result<(u16, Value), Failure> {
        let (status, octets) = self.runtime.block_on(self.send(request))?;
        Ok((status, serde_json::from_slice(&octets).map_err(Failure::broken)?))
    }

    /// The header that says who asks for this operation; a login gets its token first.
    fn proof(&self, wanted: &Call) -> Result<Option<SecretString>, Failure> {
        let login = match &self.identity {
            Identity::Peer => return Ok(None),
            Identity::Token(token) => return Ok(Some(bearer(token))),
            Identity::Login(login) => login,
        };
        if let Proof::Header(header) = login.proof(wanted)? {
            return Ok(Some(header));
        }
        let (call, header) = login.exchange()?;
        let declared = operation(call.operation).ok_or_else(|| Failure::usage("there are no tokens"))?;
        let (status, answer) = self.exchange(declared, &call, false, Some(header))?;
        match answer.get("token").and_then(Value::as_str) {
            Some(token) if (200..300).contains(&status) => login.keep(token)?,
            _ => return Err(Failure::problem(call.operation, status, &answer)),
        }
        match login.proof(wanted)? {
            Proof::Header(header) => Ok(Some(header)),
            Proof::Missing => Ok(None),
        }
    }

    /// From now on Ctrl-C does not end the program but what waits for it.
    pub(super) fn interrupts(&self) -> Result<Signal, Failure> {
        let _inside = self.runtime.enter();
        signal(SignalKind::interrupt()).map_err(|error| Failure::new(Exit::Other, error.to_string()))
    }

    /// Waits; false when somebody has pressed Ctrl-C.
    pub(super) fn pause(&self, interrupts: &mut Signal, duration: Duration) -> bool {
        self.runtime.block_on(async {
            tokio::select! {
                _ = interrupts.recv() => false,
                () = tokio::time::sleep(duration) => true,
            }
        })
    }

    /// Follows an object that can be watched; `each` gets it whenever it has changed.
    pub(super) fn watch(
        &self,
        call: &Call,
        interrupts: &mut Signal,
        mut each: impl FnMut(&Value) -> Result<(), Failure>,
    ) -> Result<Watched, Failure> {
        let declared = operation(call.operation).filter(|declared| declared.method == Method::Get);
        let Some(declared) = declared else {
            return Err(Failure::new(Exit::Other, format!("{} cannot be watched", call.operation)));
        };
        let mut request = self.request(declared, call, false, self.proof(call)?)?;
        request.headers_mut().insert(header::ACCEPT, header::HeaderValue::from_static(NDJSON));
        self.runtime.block_on(async {
            let mut lines = match self.open_lines(request).await? {
                Ok(lines) => lines,
                Err((status, octets)) => {
                    let answer: Value = serde_json::from_slice(&octets).map_err(Failure::broken)?;
                    return Err(Failure::problem(call.operation, status, &answer));
                }
            };
            loop {
                let line = tokio::select! {
                    line = lines.next() => line,
                    _ = interrupts.recv() => return Ok(Watched::Left),
                };
                let line = match line {
                    Ok(line) => line,
                    Err(failure) => return Ok(Watched::Broken(failure)),
                };
                let mut object: Value = serde_json::from_slice(&line).map_err(Failure::broken)?;
                if let Some(last) = object.get_mut("end") {
                    return Ok(Watched::Ended(last.take()));
                }
                // A job that has failed has such a member too, and an id beside it.
                if let Some(problem) = object.get("error").filter(|_| object.get("id").is_none()) {
                    let failure = Failure::problem(call.operation, 500, problem);
                    return match problem.get("retryable").and_then(Value::as_bool) {
                        Some(true) => Ok(Watched::Broken(failure)),
                        _ => Err(failure),
                    };
                }
                each(&object)?;
            }
        })
    }

    fn request(
        &self,
        declared: &Operation,
        call: &Call,
        dry_run: bool,
        proof: Option<SecretString>,
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
        if let Some(proof) = &proof {
            request = request.header(header::AUTHORIZATION, proof.expose_secret());
        }
        let is_wrong = |error| Failure::usage(format!("this cannot be sent: {error}"));
        request.body(Full::new(body)).map_err(is_wrong)
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<(u16, Bytes), Failure> {
        let (response, connection) = self.ask(request).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_OCTETS_MAX).collect().await;
        let octets = body.map_err(Failure::broken)?.to_bytes();
        drop(connection);
        Ok((status, octets))
    }

    async fn ask(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(Response<Incoming>, Conversation), Failure> {
        let stream = UnixStream::connect(&self.socket).await;
        let stream = stream.map_err(|error| Failure::unreachable(&self.socket, &error))?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(Failure::broken)?;
        let connection = Conversation(tokio::spawn(async move { drop(connection.await) }));
        let response = sender.send_request(request).await.map_err(Failure::broken)?;
        Ok((response, connection))
    }

    /// The lines of an answer; an answer that is no stream as it is.
    async fn open_lines(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Result<Lines, (u16, Bytes)>, Failure> {
        let (response, connection) = self.ask(request).await?;
        let status = response.status().as_u16();
        if (200..300).contains(&status) {
            let (body, waiting) = (response.into_body(), Vec::new());
            return Ok(Ok(Lines { body, waiting, _connection: connection }));
        }
        let body = Limited::new(response.into_body(), ANSWER_OCTETS_MAX).collect().await;
        Ok(Err((status, body.map_err(Failure::broken)?.to_bytes())))
    }
}

/// How watching ended.
pub(super) enum Watched {
    /// The object's last state.
    Ended(Value),
    /// Whoever watches has left.
    Left,
    /// The stream broke off, which says nothing about the object.
    Broken(Failure),
}

/// The task that speaks HTTP; it ends with this.
struct Conversation(tokio::task::JoinHandle<()>);

impl Drop for Conversation {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The lines of a stream.
struct Lines {
    body: Incoming,
    /// What has come and is no whole line yet.
    waiting: Vec<u8>,
    _connection: Conversation,
}

impl Lines {
    /// The next line. A stream ends with a line that says so, so that there always is one.
    async fn next(&mut self) -> Result<Vec<u8>, Failure> {
        loop {
            if let Some(end) = self.waiting.iter().position(|octet| *octet == b'\n') {
                let rest = self.waiting.split_off(end + 1);
                return Ok(std::mem::replace(&mut self.waiting, rest));
            }
            if self.waiting.len() > LINE_OCTETS_MAX {
                return Err(Failure::broken("a line is too long"));
            }
            let frame = self.body.frame().await.ok_or_else(|| Failure::broken("it broke off"))?;
            if let Ok(data) = frame.map_err(Failure::broken)?.into_data() {
                self.waiting.extend_from_slice(&data);
            }
        }
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
