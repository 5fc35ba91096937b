//! Keyset paging: a limit and an opaque cursor that belongs to one caller and one filter.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::openapi::schema::Type;
use utoipa::openapi::{ArrayBuilder, ObjectBuilder, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::base::id::random_text;
use crate::service::error::{Result, ServiceError};
use crate::service::registry::Tx;

/// Objects of a page unless the caller says otherwise.
const LIMIT_DEFAULT: i64 = 100;
/// Most objects of a page.
const LIMIT_MAX: i64 = 1_000;
/// Octets of the mark that binds a cursor.
const MARK_OCTETS: usize = 12;
/// Letters that are drawn for each cursor.
const DRAWN_LETTERS: usize = 8;
/// A sealed position is as long as a multiple of this.
const POSITION_OCTETS: usize = 32;

/// The number of objects to return.
///
/// # Errors
/// When it is not between 1 and 1,000.
pub(in crate::service) fn limit(asked: Option<i64>) -> Result<i64> {
    match asked.unwrap_or(LIMIT_DEFAULT) {
        limit @ 1..=LIMIT_MAX => Ok(limit),
        other => Err(ServiceError::Invalid {
            field: "limit",
            message: format!("expected 1 to {LIMIT_MAX}, got {other}"),
        }),
    }
}

/// Makes and reads the cursors of one list: bound to the caller and to everything that filters it. They are sealed
/// with the installation's key, since positions hold keys that count what others have. No two are alike: a position
/// that stays would tell that nobody has done anything meanwhile.
pub(in crate::service) struct Cursors {
    key: [u8; 32],
    bound: String,
}

impl Cursors {
    /// For this caller, and the filter in any unambiguous form.
    pub fn new(tx: &Tx<'_>, filter: &impl std::fmt::Debug) -> Self {
        Self { key: tx.inner.cursor_key, bound: format!("{}\n{filter:?}", tx.context.caller_key()) }
    }

    /// What authenticates a position and, being different for each, is where its key stream starts.
    fn mark(&self, position: &[u8]) -> Vec<u8> {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        // The length keeps apart where the one ends and the other begins.
        hasher
            .update(&(self.bound.len() as u64).to_le_bytes())
            .update(self.bound.as_bytes())
            .update(position);
        hasher.finalize().as_bytes().iter().copied().take(MARK_OCTETS).collect()
    }

    /// Seals or opens a position.
    fn seal(&self, mark: &[u8], position: &[u8]) -> Vec<u8> {
        let key = blake3::derive_key("posthouse cursor 2026 stream", &self.key);
        let mut stream = vec![0; position.len()];
        blake3::Hasher::new_keyed(&key).update(mark).finalize_xof().fill(&mut stream);
        position.iter().zip(stream).map(|(octet, mask)| octet ^ mask).collect()
    }

    /// A cursor behind `position`.
    pub fn make(&self, position: &impl Serialize) -> Result<String> {
        let mut json = serde_json::to_vec(&(random_text(DRAWN_LETTERS), position))
            .map_err(|error| ServiceError::Internal(error.to_string()))?;
        // The number of a key's digits is not told either; JSON may end in spaces.
        json.resize(json.len().next_multiple_of(POSITION_OCTETS), b' ');
        let mut octets = self.mark(&json);
        let sealed = self.seal(&octets, &json);
        octets.extend(sealed);
        Ok(URL_SAFE_NO_PAD.encode(octets))
    }

    /// The position in a cursor that this list has made.
    pub fn read<P: DeserializeOwned>(&self, cursor: Option<&str>) -> Result<Option<P>> {
        let Some(cursor) = cursor else { return Ok(None) };
        let position = || {
            let octets = URL_SAFE_NO_PAD.decode(cursor).ok()?;
            let (mark, sealed) = octets.split_at_checked(MARK_OCTETS)?;
            let json = self.seal(mark, sealed);
            let position = || serde_json::from_slice::<(String, P)>(&json).ok();
            (self.mark(&json) == mark).then(position).flatten().map(|(_, position)| position)
        };
        let wrong = || ServiceError::Invalid {
            field: "cursor",
            message: "not a cursor of this list; start again without one".to_owned(),
        };
        position().map(Some).ok_or_else(wrong)
    }
}

/// One page of a list.
#[derive(Serialize)]
pub(in crate::service) struct Page<T> {
    /// The objects.
    pub items: Vec<T>,
    /// Cursor of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// The page of each kind of object has a name and a schema of its own.
impl<T: ToSchema> PartialSchema for Page<T> {
    fn schema() -> RefOr<Schema> {
        let items = ArrayBuilder::new().items(T::schema()).description(Some("The objects."));
        let cursor = ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("Cursor of the next page; absent on the last."));
        ObjectBuilder::new().property("items", items).required("items").property("cursor", cursor).into()
    }
}

impl<T: ToSchema> ToSchema for Page<T> {
    fn name() -> Cow<'static, str> {
        format!("{}Page", T::name()).into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        T::schemas(schemas);
    }
}

impl<T> Page<T> {
    /// A page of `limit` from `rows`, of which one more than that was asked for; `position` is where a row stands.
    pub fn cut<R, P: Serialize>(
        mut rows: Vec<R>,
        limit: i64,
        cursors: &Cursors,
        position: impl Fn(&R) -> P,
        show: impl Fn(R) -> T,
    ) -> Result<Self> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = rows.len() > limit;
        rows.truncate(limit);
        let last = rows.last().filter(|_| more).map(position);
        let cursor = last.map(|position| cursors.make(&position)).transpose()?;
        Ok(Self { items: rows.into_iter().map(show).collect(), cursor })
    }
}

/// The entity tag of an answer: it changes when what is shown does. `volatile` members, which change without anybody
/// changing the object, are left out.
pub(in crate::service) fn etag(answer: &impl Serialize, volatile: &[&str]) -> Result<String> {
    let mut value =
        serde_json::to_value(answer).map_err(|error| ServiceError::Internal(error.to_string()))?;
    if let Some(members) = value.as_object_mut() {
        members.retain(|name, _| !volatile.contains(&name.as_str()));
    }
    let hash = blake3::hash(value.to_string().as_bytes());
    Ok(URL_SAFE_NO_PAD.encode(hash.as_bytes().iter().copied().take(MARK_OCTETS).collect::<Vec<u8>>()))
}
