//! An S3 server in this process, on a free port of 127.0.0.1: counts requests, and does wrong when told to.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE};
use hyper::service::{Service, service_fn};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use s3s::service::{S3Service, S3ServiceBuilder};

/// The bucket that is there.
pub const BUCKET: &str = "mail";
/// The access key that is let in.
pub const ACCESS_KEY: &str = "posthouse-test";
/// Its secret.
pub const SECRET_KEY: &str = "not-so-secret";

/// What the server does instead of its work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Closes the connection without an answer.
    Outage,
    /// Never answers.
    Silence,
    /// Answers this much later.
    Slow(Duration),
    /// Answers with this status and S3's code for it: 500, 503 (`SlowDown`), 403 (`AccessDenied`).
    Status(u16),
    /// GET: closes the connection after half of the content.
    Reset,
    /// GET: answers with half of what was asked for, as if that were all.
    Truncated,
    /// GET: a flipped bit in the middle of the content.
    Flipped,
    /// GET: a range as if it were the whole object.
    WholeObject,
    /// PUT: answers as if the object were stored.
    NotStored,
}

impl Fault {
    fn concerns(self, method: &Method) -> bool {
        match self {
            Self::Reset | Self::Truncated | Self::Flipped | Self::WholeObject => method == Method::GET,
            Self::NotStored => method == Method::PUT,
            Self::Outage | Self::Silence | Self::Slow(_) | Self::Status(_) => true,
        }
    }
}

/// Where a request is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// It has come, and nothing was done.
    Before,
    /// It was done, and is not answered.
    After,
}

/// Requests so far, by method, also those that went wrong.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Requests {
    /// Objects and parts sent.
    pub put: u64,
    /// Uploads in parts begun and completed.
    pub post: u64,
    /// Reads.
    pub get: u64,
    /// Looks.
    pub head: u64,
    /// Deletions.
    pub delete: u64,
}

#[derive(Default)]
struct State {
    requests: Requests,
    /// For every request, or for so many.
    fault: Option<(Fault, u64)>,
    hold: Option<Hold>,
}

/// A request that gets no answer.
struct Hold {
    method: Method,
    moment: Moment,
    /// Requests of the method that come before it.
    passed: u64,
    /// Who waits for it.
    told: mpsc::Sender<()>,
}

/// A configuration file's only mail store, with a bucket, and with more of its keys.
pub fn store_configuration(endpoint: &str, bucket: &str, offload: &str, more: &str) -> String {
    format!(
        "[[store]]\nname = \"main\"\n{more}\n[store.offload]\nendpoint = \"{endpoint}\"\nbucket = \"{bucket}\"\n\
         access_key = \"{ACCESS_KEY}\"\nsecret_key = \"{SECRET_KEY}\"\n{offload}\n"
    )
}

/// A running server with one empty bucket; ends with this value.
pub struct S3Server {
    address: SocketAddr,
    dir: tempfile::TempDir,
    state: Arc<Mutex<State>>,
    runtime: Option<tokio::runtime::Runtime>,
}

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

impl S3Server {
    /// Starts one.
    #[track_caller]
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("posthouse-s3").tempdir().expect("temporary directory");
        std::fs::create_dir(dir.path().join(BUCKET)).expect("make the bucket");
        let files = s3s_fs::FileSystem::new(dir.path()).expect("open the folder of the buckets");
        let mut service = S3ServiceBuilder::new(files);
        service.set_auth(s3s::auth::SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = service.build();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("start a runtime");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind a free port");
        listener.set_nonblocking(true).expect("make the listener non-blocking");
        let address = listener.local_addr().expect("own address");
        let state = Arc::new(Mutex::new(State::default()));
        runtime.spawn(serve(listener, service, Arc::clone(&state)));
        Self { address, dir, state, runtime: Some(runtime) }
    }

    /// `http://127.0.0.1:PORT`
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The folder with the bucket's objects; their keys are their paths.
    pub fn bucket_folder(&self) -> PathBuf {
        self.dir.path().join(BUCKET)
    }

    /// Requests so far.
    pub fn requests(&self) -> Requests {
        self.state().requests
    }

    /// From now on every request that it concerns goes wrong in this way.
    pub fn fault(&self, fault: Fault) {
        self.fault_times(fault, u64::MAX);
    }

    /// The next `times` requests that it concerns go wrong in this way.
    pub fn fault_times(&self, fault: Fault, times: u64) {
        self.state().fault = Some((fault, times));
    }

    /// Holds the next request of a method for good; gives what tells when it is held.
    pub fn hold(&self, method: Method, moment: Moment) -> mpsc::Receiver<()> {
        self.hold_after(0, method, moment)
    }

    /// Lets `passed` requests of a method pass and holds the next.
    pub fn hold_after(&self, passed: u64, method: Method, moment: Moment) -> mpsc::Receiver<()> {
        let (told, is_held) = mpsc::channel();
        self.state().hold = Some(Hold { method, moment, passed, told });
        is_held
    }

    /// From now on everything goes right.
    pub fn heal(&self) {
        let mut state = self.state();
        (state.fault, state.hold) = (None, None);
    }

    /// A configuration file's only mail store, which has this bucket, with more of its keys.
    pub fn store_configuration(&self, offload: &str, more: &str) -> String {
        store_configuration(&self.endpoint(), BUCKET, offload, more)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds the state")
    }

    /// Files of objects below `folder` of the bucket, for tests that damage them.
    pub fn objects(&self, folder: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.bucket_folder().join(folder)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path: PathBuf = entry.path();
                if path.is_dir() { folders.push(path) } else { found.push(path) }
            }
        }
        found.sort();
        found
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        // Also from within another runtime, where waiting is not allowed.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn serve(listener: std::net::TcpListener, service: S3Service, state: Arc<Mutex<State>>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("take the listener over");
    while let Ok((socket, _)) = listener.accept().await {
        let (service, state) = (service.clone(), Arc::clone(&state));
        tokio::spawn(async move {
            let handle = service_fn(move |request| answer(request, service.clone(), Arc::clone(&state)));
            // A client that goes away is none of the server's business.
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(socket), handle)
                .await
                .ok();
        });
    }
}

/// Counts a request, and says what shall go wrong with it.
fn note(method: &Method, state: &Mutex<State>) -> Option<Fault> {
    let mut state = state.lock().expect("no test panics while it holds the state");
    let requests = &mut state.requests;
    let counter = match method.as_str() {
        "PUT" => &mut requests.put,
        "POST" => &mut requests.post,
        "GET" => &mut requests.get,
        "HEAD" => &mut requests.head,
        _ => &mut requests.delete,
    };
    *counter += 1;
    let (fault, times) = state.fault.filter(|(fault, times)| *times > 0 && fault.concerns(method))?;
    state.fault = Some((fault, times - 1));
    Some(fault)
}

/// Whether a request is held, and who is to be told.
fn held(method: &Method, state: &Mutex<State>) -> Option<(Moment, mpsc::Sender<()>)> {
    let mut state = state.lock().expect("no test panics while it holds the state");
    let hold = state.hold.as_mut().filter(|hold| hold.method == *method)?;
    if hold.passed > 0 {
        hold.passed -= 1;
        return None;
    }
    state.hold.take().map(|hold| (hold.moment, hold.told))
}

async fn answer(
    request: Request<Incoming>,
    service: S3Service,
    state: Arc<Mutex<State>>,
) -> std::io::Result<Response<Body>> {
    let fault = note(request.method(), &state);
    if let Some((moment, told)) = held(request.method(), &state) {
        if moment == Moment::After {
            let answered = Service::call(&service, request).await;
            if let Ok(response) = answered {
                response.into_body().collect().await.ok();
            }
        }
        told.send(()).ok();
        std::future::pending::<()>().await;
        return Err(std::io::Error::other("held"));
    }
    match fault {
        Some(Fault::Outage) => return Err(std::io::Error::other("outage")),
        Some(Fault::Silence) => std::future::pending().await,
        Some(Fault::Slow(pause)) => tokio::time::sleep(pause).await,
        Some(Fault::Status(status)) => {
            request.into_body().collect().await.ok();
            return Ok(refusal(status));
        }
        Some(Fault::NotStored) => {
            request.into_body().collect().await.map_err(std::io::Error::other)?;
            return Ok(Response::builder()
                .header("etag", "\"x\"")
                .body(whole(Bytes::new()))
                .expect("response"));
        }
        Some(Fault::WholeObject | Fault::Reset | Fault::Truncated | Fault::Flipped) | None => {}
    }
    let response = Service::call(&service, request)
        .await
        .map_err(|error| std::io::Error::other(format!("{error:?}")))?;
    let (mut head, body) = response.into_parts();
    if fault == Some(Fault::WholeObject) {
        head.status = StatusCode::OK;
        head.headers.remove(CONTENT_RANGE);
    }
    if !matches!(fault, Some(Fault::Reset | Fault::Truncated | Fault::Flipped)) {
        let body = body.map_err(|error| std::io::Error::other(error.to_string()));
        return Ok(Response::from_parts(head, body.boxed_unsync()));
    }
    let content = body.collect().await.map_err(|error| std::io::Error::other(error.to_string()))?.to_bytes();
    let half = content.slice(..content.len() / 2);
    let body = match fault {
        Some(Fault::Reset) => {
            let pieces = [Ok(Frame::data(half)), Err(std::io::Error::other("reset"))];
            StreamBody::new(stream::iter(pieces)).boxed_unsync()
        }
        Some(Fault::Truncated) => {
            head.headers.insert(CONTENT_LENGTH, half.len().into());
            whole(half)
        }
        _ => {
            let mut content = content.to_vec();
            let middle = content.len() / 2;
            if let Some(octet) = content.get_mut(middle) {
                *octet ^= 1;
            }
            whole(content.into())
        }
    };
    Ok(Response::from_parts(head, body))
}

fn whole(content: Bytes) -> Body {
    Full::new(content).map_err(|never| match never {}).boxed_unsync()
}

fn refusal(status: u16) -> Response<Body> {
    let code = match status {
        403 => "AccessDenied",
        503 => "SlowDown",
        _ => "InternalError",
    };
    let content =
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>told to</Message></Error>");
    let response = Response::builder().status(status).header("content-type", "application/xml");
    response.body(whole(content.into())).expect("response")
}
