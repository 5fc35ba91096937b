//! What the answers of S3 servers mean.

use std::error::Error;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::error::{RemoteError, Result};
use super::key::ObjectKey;
use super::store::Range;

/// Longest text of a server that is repeated in a message, in characters.
const TEXT_CHARS_MAX: usize = 200;

/// The status line of an answer.
pub(super) trait Status {
    /// Its code.
    fn code(&self) -> u16;
}

impl Status for aws_sdk_s3::config::http::HttpResponse {
    fn code(&self) -> u16 {
        self.status().as_u16()
    }
}

/// Sorts the error of a request, which wanted to do `what` with `object`.
pub(super) fn meaning<E, R>(what: &str, object: &str, error: &SdkError<E, R>) -> RemoteError
where
    E: ProvideErrorMetadata + Error + 'static,
    R: Status + std::fmt::Debug,
    SdkError<E, R>: Error,
{
    let (status, code, message) = match error {
        SdkError::ServiceError(answer) => (answer.raw().code(), answer.err().code(), answer.err().message()),
        SdkError::ResponseError(answer) => (answer.raw().code(), None, None),
        SdkError::ConstructionFailure(_) => {
            return RemoteError::Invalid(format!("{what} {object}: {}", sources(error)));
        }
        _ => return RemoteError::Unavailable(format!("{what} {object}: {}", sources(error))),
    };
    let code = code.unwrap_or("");
    let said = [code, message.unwrap_or("")].join(" ");
    let said: String = said.trim().chars().filter(|c| !c.is_control()).take(TEXT_CHARS_MAX).collect();
    sort(status, code, format!("{what} {object}: {status} {said}"))
}

/// Every error that led to this one, outermost first: what went wrong is in the innermost.
fn sources(error: &dyn Error) -> String {
    let mut texts = vec![error.to_string()];
    let mut source = error.source();
    // Real chains have a handful.
    for _ in 0..16 {
        let Some(error) = source else { break };
        let text = error.to_string();
        if texts.last() != Some(&text) {
            texts.push(text);
        }
        source = error.source();
    }
    texts.join(": ").chars().filter(|c| !c.is_control()).take(TEXT_CHARS_MAX * 2).collect()
}

/// By the code where it says more than the status
/// (<https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>).
fn sort(status: u16, code: &str, text: String) -> RemoteError {
    match code {
        "NoSuchKey" | "NotFound" | "NoSuchUpload" => return RemoteError::NotFound(text),
        "NoSuchBucket" | "InvalidObjectState" => return RemoteError::Invalid(text),
        "SlowDown" | "TooManyRequests" | "RequestLimitExceeded" | "Throttling" | "ThrottlingException" => {
            return RemoteError::Throttled(text);
        }
        "RequestTimeout" | "OperationAborted" => return RemoteError::Unavailable(text),
        "BadDigest"
        | "InvalidDigest"
        | "IncompleteBody"
        | "XAmzContentSHA256Mismatch"
        | "InvalidPart"
        | "InvalidRange" => {
            return RemoteError::Corrupt(text);
        }
        "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" => return RemoteError::Denied(text),
        _ => {}
    }
    match status {
        401 | 403 => RemoteError::Denied(text),
        404 => RemoteError::NotFound(text),
        408 | 500.. => RemoteError::Unavailable(text),
        416 => RemoteError::Corrupt(text),
        429 => RemoteError::Throttled(text),
        // An answer that was cut off or is none of S3's.
        200..=299 => RemoteError::Unavailable(text),
        _ => RemoteError::Invalid(text),
    }
}

/// Compares the head of an answer with what was asked for. Gives how many octets follow, and how large the object is
/// where that is told.
pub(super) fn check_range(
    key: &ObjectKey,
    asked: Option<Range>,
    octets: Option<u64>,
    content_range: Option<&str>,
) -> Result<(u64, Option<u64>)> {
    let wrong = |what: String| Err(RemoteError::Corrupt(format!("{key}: {what}")));
    let Some(octets) = octets else { return wrong("the length of the answer is not told".to_owned()) };
    let told = content_range.map(parse_content_range);
    match (asked, told) {
        (None, None) => Ok((octets, Some(octets))),
        // RFC 9110 section 14.2: a server may ignore a range. Only where it is the whole object is that the same.
        (Some(asked), None) if asked.offset == 0 && asked.length == octets => Ok((octets, Some(octets))),
        (Some(asked), None) => {
            wrong(format!("{octets} octets of the object instead of {} at {}", asked.length, asked.offset))
        }
        (Some(asked), Some(Some((range, total)))) if range == asked && octets == asked.length => {
            Ok((octets, total))
        }
        (_, Some(_)) => {
            let told: String = content_range.unwrap_or("").chars().take(60).collect();
            let asked =
                asked.map_or_else(|| "everything".to_owned(), |a| format!("{} at {}", a.length, a.offset));
            wrong(format!("{octets} octets as {told:?} instead of {asked}"))
        }
    }
}

/// `bytes FIRST-LAST/TOTAL` (RFC 9110 section 14.4); the total may be `*`.
fn parse_content_range(text: &str) -> Option<(Range, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let length = last.checked_sub(first)?.checked_add(1)?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    Some((Range { offset: first, length }, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_sorted_by_what_helps() {
        for (status, code, class) in [
            (404, "NoSuchKey", "not-found"),
            (404, "", "not-found"),
            (404, "NoSuchBucket", "invalid"),
            (403, "AccessDenied", "denied"),
            (403, "SignatureDoesNotMatch", "denied"),
            (403, "RequestTimeTooSkewed", "denied"),
            (401, "", "denied"),
            (400, "ExpiredToken", "denied"),
            (403, "InvalidObjectState", "invalid"),
            (503, "SlowDown", "throttled"),
            (429, "", "throttled"),
            (503, "ServiceUnavailable", "unavailable"),
            (500, "InternalError", "unavailable"),
            (502, "", "unavailable"),
            (400, "RequestTimeout", "unavailable"),
            (200, "", "unavailable"),
            (400, "BadDigest", "corrupt"),
            (400, "IncompleteBody", "corrupt"),
            (416, "InvalidRange", "corrupt"),
            (301, "PermanentRedirect", "invalid"),
            (400, "AuthorizationHeaderMalformed", "invalid"),
            (501, "NotImplemented", "unavailable"),
        ] {
            assert_eq!(sort(status, code, String::new()).class(), class, "{status} {code}");
        }
    }

    #[test]
    fn answers_must_be_the_range_that_was_asked_for() {
        let key = ObjectKey::parse("k").unwrap();
        let range = |offset, length| Some(Range { offset, length });
        let check = |asked, octets, told| check_range(&key, asked, octets, told);
        assert_eq!(check(None, Some(9), None).unwrap(), (9, Some(9)));
        assert_eq!(check(range(2, 3), Some(3), Some("bytes 2-4/9")).unwrap(), (3, Some(9)));
        assert_eq!(check(range(2, 3), Some(3), Some("bytes 2-4/*")).unwrap(), (3, None));
        assert_eq!(check(range(0, 9), Some(9), None).unwrap(), (9, Some(9)), "the whole is the range");
        for (asked, octets, told) in [
            (range(2, 3), Some(9), None),
            (range(0, 3), Some(9), None),
            (range(2, 3), Some(3), None),
            (range(2, 3), Some(3), Some("bytes 3-5/9")),
            (range(2, 3), Some(2), Some("bytes 2-3/9")),
            (range(2, 3), Some(2), Some("bytes 2-4/9")),
            (range(2, 3), Some(3), Some("bytes 4-2/9")),
            (range(2, 3), Some(3), Some("octets 2-4/9")),
            (range(2, 3), Some(3), Some("bytes 2-18446744073709551615/9")),
            (range(2, 3), None, Some("bytes 2-4/9")),
            (None, Some(3), Some("bytes 2-4/9")),
        ] {
            let error = check(asked, octets, told).unwrap_err();
            assert_eq!(error.class(), "corrupt", "{asked:?} {octets:?} {told:?}");
        }
    }
}
