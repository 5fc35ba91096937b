//! A bucket of an S3 server, through Amazon's client: single requests, their time limits, and what their answers mean.
//!
//! The client's own retries, checksums and watch over slow streams are off: some servers know no trailing checksums
//! (every one knows Content-MD5), and retries are the same for all places ([`super::calls`]).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Config, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, StorageClass};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream::{self, StreamExt};
use secrecy::ExposeSecret;
use tokio::time::Instant;

use super::answer::{check_range, meaning};
use super::error::{RemoteError, Result};
use super::key::ObjectKey;
use super::outgoing::Outgoing;
use super::settings::RemoteSettings;
use super::store::{Answer, Attempt, Content, ObjectHead, ObjectStore, PartSizes, Progress, Range};
use crate::base::secret::Secret;

/// Objects up to this size are one request. Packs are smaller, so that each costs one.
const WHOLE_OCTETS_MAX: u64 = 128 << 20;
/// The least size of a part; an interrupted upload repeats that much.
const PART_OCTETS_MIN: u64 = 32 << 20;
/// S3 takes no more parts.
const PARTS_MAX: u64 = 10_000;
/// Servers take their time to put parts together: so many times as long as for other answers.
const COMPLETE_TIMEOUT_FACTOR: u32 = 8;
/// Keys that were refused are read again, in case they were renewed, but not more often than this.
const REFUSED_INTERVAL: Duration = Duration::from_secs(10);

/// A bucket.
pub(super) struct Bucket {
    settings: RemoteSettings,
    sizes: PartSizes,
    client: Mutex<Option<Made>>,
}

/// The client with the secrets that were read when it was made.
struct Made {
    client: Client,
    at: Instant,
}

impl Bucket {
    /// Nothing is connected or read yet.
    pub(super) fn new(settings: RemoteSettings) -> Self {
        let sizes = PartSizes {
            whole_octets_max: WHOLE_OCTETS_MAX,
            part_octets_min: PART_OCTETS_MIN,
            parts_max: PARTS_MAX,
        };
        Self { settings, sizes, client: Mutex::default() }
    }

    #[cfg(test)]
    pub(super) fn with_parts(self, sizes: PartSizes) -> Self {
        Self { sizes, ..self }
    }

    async fn client(&self) -> Result<Client> {
        let made = self.made().as_ref().map(|made| made.client.clone());
        if let Some(client) = made {
            return Ok(client);
        }
        // Reads the system's certificates and files with secrets.
        let settings = self.settings.clone();
        let client = tokio::task::spawn_blocking(move || connect(&settings)).await;
        let interrupted = |_| RemoteError::Unavailable("the client could not be made".to_owned());
        let client = client.map_err(interrupted)??;
        *self.made() = Some(Made { client: client.clone(), at: Instant::now() });
        Ok(client)
    }

    fn made(&self) -> std::sync::MutexGuard<'_, Option<Made>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The meaning of a failed request. Refused keys are read again with the next one.
    fn failed<E, R>(
        &self,
        what: &str,
        key: &ObjectKey,
        error: aws_sdk_s3::error::SdkError<E, R>,
    ) -> RemoteError
    where
        E: aws_sdk_s3::error::ProvideErrorMetadata + std::error::Error + 'static,
        R: super::answer::Status + std::fmt::Debug,
        aws_sdk_s3::error::SdkError<E, R>: std::error::Error,
    {
        let error = meaning(what, &format!("{}/{key}", self.settings), &error);
        if matches!(error, RemoteError::Denied(_)) {
            let mut made = self.made();
            if made.as_ref().is_some_and(|made| made.at.elapsed() >= REFUSED_INTERVAL) {
                *made = None;
            }
        }
        error
    }

    fn key(&self, key: &ObjectKey) -> String {
        let prefix = &self.settings.prefix;
        if prefix.is_empty() { key.to_string() } else { format!("{prefix}/{key}") }
    }

    /// Packs have the class of the settings; what is small and soon replaced costs less in the bucket's own.
    fn storage_class(&self, key: &ObjectKey) -> Option<StorageClass> {
        self.settings.storage_class.as_deref().filter(|_| key.is_pack()).map(StorageClass::from)
    }

    /// Waits for a request without content.
    async fn timed<T>(&self, what: &str, request: impl Future<Output = T>) -> Result<T> {
        let limit = self.settings.response_timeout();
        tokio::time::timeout(limit, request).await.map_err(|_| RemoteError::timeout(what, limit))
    }

    /// Waits for a request with content as long as it moves.
    async fn sent<T>(&self, progress: &Progress, request: impl Future<Output = T>) -> Result<T> {
        progress.watch("an upload", self.settings.response_timeout(), request).await
    }

    async fn put(&self, key: &ObjectKey, content: &Content) -> Result<Option<String>> {
        let (body, progress) = outgoing(content);
        let request = self.client().await?.put_object();
        let request = request.bucket(&self.settings.bucket).key(self.key(key)).content_md5(md5(content));
        let request =
            request.content_length(length(content.octets)?).set_storage_class(self.storage_class(key));
        let answer = self.sent(&progress, request.body(body).send()).await?;
        let answer = answer.map_err(|error| self.failed("put", key, error))?;
        Ok(answer.e_tag().map(bare))
    }

    async fn begin(&self, key: &ObjectKey) -> Result<String> {
        let request = self.client().await?.create_multipart_upload();
        let request = request.bucket(&self.settings.bucket).key(self.key(key));
        let request = request.set_storage_class(self.storage_class(key)).send();
        let answer = self.timed("the beginning of an upload", request).await?;
        let answer = answer.map_err(|error| self.failed("begin", key, error))?;
        let upload = answer.upload_id().map(str::to_owned);
        upload.ok_or_else(|| RemoteError::Unavailable(format!("the upload of {key} was given no name")))
    }

    async fn put_part(
        &self,
        key: &ObjectKey,
        upload: &str,
        number: i32,
        content: &Content,
    ) -> Result<String> {
        let (body, progress) = outgoing(content);
        let request = self.client().await?.upload_part();
        let request = request.bucket(&self.settings.bucket).key(self.key(key)).upload_id(upload);
        let request = request.part_number(number).content_md5(md5(content));
        let request = request.content_length(length(content.octets)?).body(body).send();
        let answer = self.sent(&progress, request).await?;
        let answer = answer.map_err(|error| self.failed("put a part of", key, error))?;
        let tag = answer.e_tag().map(str::to_owned);
        tag.ok_or_else(|| RemoteError::Unavailable(format!("part {number} of {key} was given no tag")))
    }

    async fn complete(&self, key: &ObjectKey, upload: &str, parts: &[String]) -> Result<Option<String>> {
        let part = |(number, tag)| CompletedPart::builder().part_number(number).e_tag(tag).build();
        let parts = (1..).zip(parts).map(part).collect();
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let request = self.client().await?.complete_multipart_upload();
        let request = request.bucket(&self.settings.bucket).key(self.key(key)).upload_id(upload);
        let limit = self.settings.response_timeout() * COMPLETE_TIMEOUT_FACTOR;
        let answer = tokio::time::timeout(limit, request.multipart_upload(parts).send()).await;
        let answer = answer.map_err(|_| RemoteError::timeout("the completion of an upload", limit))?;
        let answer = answer.map_err(|error| self.failed("complete", key, error))?;
        Ok(answer.e_tag().map(bare))
    }

    async fn abort(&self, key: &ObjectKey, upload: &str) -> Result<()> {
        let request = self.client().await?.abort_multipart_upload();
        let request = request.bucket(&self.settings.bucket).key(self.key(key)).upload_id(upload).send();
        match self.timed("giving up an upload", request).await? {
            Ok(_) => Ok(()),
            Err(error) => match self.failed("abort", key, error) {
                RemoteError::NotFound(_) => Ok(()),
                error => Err(error),
            },
        }
    }

    async fn get(&self, key: &ObjectKey, range: Option<Range>) -> Result<Answer> {
        let header = range.map(|range| format!("bytes={}-{}", range.offset, range.end().saturating_sub(1)));
        let request = self.client().await?.get_object();
        let request = request.bucket(&self.settings.bucket).key(self.key(key)).set_range(header).send();
        let answer = self.timed("an object", request).await?;
        let answer = answer.map_err(|error| self.failed("get", key, error))?;
        let octets = answer.content_length().and_then(|length| u64::try_from(length).ok());
        let (octets, object_octets) = check_range(key, range, octets, answer.content_range())?;
        let shown = key.to_string();
        let content = stream::unfold(answer.body, |mut body| async move { Some((body.next().await?, body)) });
        let content = content.map(move |piece| {
            piece.map_err(|error| {
                RemoteError::Unavailable(format!("the content of {shown} broke off: {error}"))
            })
        });
        Ok(Answer { octets, object_octets, content: content.boxed() })
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectHead> {
        let request = self.client().await?.head_object();
        let request = request.bucket(&self.settings.bucket).key(self.key(key)).send();
        let answer = self.timed("the head of an object", request).await?;
        let answer = answer.map_err(|error| self.failed("head", key, error))?;
        let octets = answer.content_length().and_then(|length| u64::try_from(length).ok());
        let octets = octets.ok_or_else(|| RemoteError::Corrupt(format!("the size of {key} is not told")))?;
        Ok(ObjectHead { octets, entity_tag: answer.e_tag().map(bare) })
    }

    async fn delete(&self, key: &ObjectKey) -> Result<()> {
        let request = self.client().await?.delete_object();
        let request = request.bucket(&self.settings.bucket).key(self.key(key)).send();
        let answer = self.timed("a deletion", request).await?;
        answer.map(|_| ()).map_err(|error| self.failed("delete", key, error))
    }
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bucket({})", self.settings)
    }
}

fn connect(settings: &RemoteSettings) -> Result<Client> {
    let timeouts = Duration::from_secs(settings.connect_timeout_secs.into());
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(settings.region.clone()))
        .credentials_provider(credentials(settings)?)
        .force_path_style(settings.is_path_style())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(timeouts).build());
    let config = match &settings.endpoint {
        Some(endpoint) => config.endpoint_url(endpoint),
        None => config,
    };
    Ok(Client::from_conf(config.build()))
}

/// The keys of the settings, or those of the environment.
fn credentials(settings: &RemoteSettings) -> Result<Credentials> {
    let read = |name: &str, secret: &Option<Secret>, variable: &str| {
        if let Some(secret) = secret {
            let read = secret.read().map_err(|error| RemoteError::Denied(format!("{name}: {error}")))?;
            return Ok(read.expose_secret().to_owned());
        }
        let missing = |_| RemoteError::Denied(format!("there is neither {name} nor {variable}"));
        std::env::var(variable).map_err(missing)
    };
    let access_key = read("access_key", &settings.access_key, "AWS_ACCESS_KEY_ID")?;
    let secret_key = read("secret_key", &settings.secret_key, "AWS_SECRET_ACCESS_KEY")?;
    let is_own = settings.access_key.is_some();
    let token = if is_own { None } else { std::env::var("AWS_SESSION_TOKEN").ok() };
    Ok(Credentials::new(access_key, secret_key, token, None, "posthouse"))
}

fn outgoing(content: &Content) -> (ByteStream, Arc<Progress>) {
    let progress = Arc::new(Progress::default());
    let body = Outgoing::new(content.stream(Arc::clone(&progress)), content.octets);
    (ByteStream::from_body_1_x(body), progress)
}

fn md5(content: &Content) -> String {
    STANDARD.encode(content.md5)
}

fn length(octets: u64) -> Result<i64> {
    i64::try_from(octets).map_err(|_| RemoteError::Invalid(format!("{octets} octets are no object")))
}

/// An entity tag without its quotes (RFC 9110 section 8.8.3).
fn bare(tag: &str) -> String {
    tag.trim_matches('"').to_owned()
}

impl ObjectStore for Bucket {
    fn place(&self) -> String {
        self.settings.to_string()
    }

    fn parts(&self) -> Option<PartSizes> {
        Some(self.sizes)
    }

    fn put<'a>(&'a self, key: &'a ObjectKey, content: &'a Content) -> Attempt<'a, Option<String>> {
        Box::pin(self.put(key, content))
    }

    fn begin<'a>(&'a self, key: &'a ObjectKey) -> Attempt<'a, String> {
        Box::pin(self.begin(key))
    }

    fn put_part<'a>(
        &'a self,
        key: &'a ObjectKey,
        upload: &'a str,
        number: i32,
        content: &'a Content,
    ) -> Attempt<'a, String> {
        Box::pin(self.put_part(key, upload, number, content))
    }

    fn complete<'a>(
        &'a self,
        key: &'a ObjectKey,
        upload: &'a str,
        parts: &'a [String],
    ) -> Attempt<'a, Option<String>> {
        Box::pin(self.complete(key, upload, parts))
    }

    fn abort<'a>(&'a self, key: &'a ObjectKey, upload: &'a str) -> Attempt<'a, ()> {
        Box::pin(self.abort(key, upload))
    }

    fn get<'a>(&'a self, key: &'a ObjectKey, range: Option<Range>) -> Attempt<'a, Answer> {
        Box::pin(self.get(key, range))
    }

    fn head<'a>(&'a self, key: &'a ObjectKey) -> Attempt<'a, ObjectHead> {
        Box::pin(self.head(key))
    }

    fn delete<'a>(&'a self, key: &'a ObjectKey) -> Attempt<'a, ()> {
        Box::pin(self.delete(key))
    }
}
