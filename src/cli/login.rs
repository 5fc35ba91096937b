//! `--login NAME`: an administrator's password is exchanged for a token of a few hours, which is kept in a file that
//! nobody else can read. What needs the password itself asks for it again, and for a code where there is a second
//! factor.

use std::cell::{OnceCell, RefCell};
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::client::Call;
use super::failure::{Exit, Failure};
use super::prompt::{ask_password, ask_second_factor};
use crate::base::secret::read_file;

/// How long the token counts.
const LIFETIME: &str = "12h";
/// What it is called.
const LABEL: &str = "posthouse --login";
/// Operations that no token may ask for, or that make a token which would end with the one that asks.
const WITH_PASSWORD: [&str; 7] = [
    "token.create",
    "administrator.create",
    "administrator.password",
    "second-factor.enrol",
    "second-factor.confirm",
    "second-factor.recovery-codes",
    "second-factor.remove",
];
/// Octets of the hash of socket and name in the name of the file.
const FILE_NAME_OCTETS: usize = 12;

/// Somebody who wants to log in.
pub(super) struct Named {
    /// `NAME@CODE`.
    pub name: String,
    /// Where the password is, if it is not to be asked for.
    pub password_file: Option<PathBuf>,
    /// Where a code of the second factor is, if it is not to be asked for.
    pub code_file: Option<PathBuf>,
}

/// Somebody who logs in.
pub(super) struct Login {
    name: String,
    password_file: Option<PathBuf>,
    code_file: Option<PathBuf>,
    password: OnceCell<SecretString>,
    file: PathBuf,
    token: RefCell<Option<SecretString>>,
}

/// What an operation is asked for with.
pub(super) enum Proof {
    /// This header.
    Header(SecretString),
    /// Nothing yet: [`Login::exchange`] gets a token.
    Missing,
}

impl Login {
    /// At the daemon behind `socket`; with a token from before, if there is one.
    pub(super) fn new(named: Named, socket: &Path) -> Result<Self, Failure> {
        let Named { name, password_file, code_file } = named;
        let socket = std::fs::canonicalize(socket).unwrap_or_else(|_| socket.to_owned());
        let mut hasher = blake3::Hasher::new();
        hasher.update(socket.as_os_str().as_encoded_bytes()).update(&[0]).update(name.as_bytes());
        let hash = hasher.finalize();
        let octets = hash.as_bytes().iter().take(FILE_NAME_OCTETS);
        let hash: String = octets.map(|octet| format!("{octet:02x}")).collect();
        let file = state_dir()?.join(format!("{hash}.token"));
        let token = RefCell::new(read_file(&file).ok().filter(|token| !token.expose_secret().is_empty()));
        Ok(Self { name, password_file, code_file, password: OnceCell::new(), file, token })
    }

    /// The header for what is asked for.
    pub(super) fn proof(&self, wanted: &Call) -> Result<Proof, Failure> {
        let has_first_token = wanted.operation == "customer.create" && wanted.fields.contains_key("admin");
        if has_first_token || WITH_PASSWORD.contains(&wanted.operation) {
            return self.basic().map(Proof::Header);
        }
        Ok(match &*self.token.borrow() {
            Some(token) => Proof::Header(bearer(token)),
            None => Proof::Missing,
        })
    }

    /// What gets a token, with the header for it.
    pub(super) fn exchange(&self) -> Result<(Call, SecretString), Failure> {
        let call = Call::new("token.create").with("label", LABEL).with("expires_at", LIFETIME);
        Ok((call, self.basic()?))
    }

    /// A code of the second factor, for one request.
    pub(super) fn code(&self) -> Result<SecretString, Failure> {
        ask_second_factor(&self.name, self.code_file.as_deref())
    }

    /// Keeps the token, here and in the file.
    pub(super) fn keep(&self, token: &str) -> Result<(), Failure> {
        self.token.replace(Some(SecretString::from(token)));
        let write = || -> std::io::Result<()> {
            if let Some(dir) = self.file.parent() {
                DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            }
            let new = self.file.with_extension("new");
            // What is there may be another's: it is made anew.
            let _ = std::fs::remove_file(&new);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            file.write_all(token.as_bytes())?;
            std::fs::rename(&new, &self.file)
        };
        write().map_err(|error| Failure::new(Exit::Other, format!("{}: {error}", self.file.display())))
    }

    /// The token is worth nothing any more; whether there was one.
    pub(super) fn forget(&self) -> bool {
        let _ = std::fs::remove_file(&self.file);
        self.token.replace(None).is_some()
    }

    fn basic(&self) -> Result<SecretString, Failure> {
        let password = match self.password.get() {
            Some(password) => password,
            None => {
                let read = ask_password(&self.name, self.password_file.as_deref())?;
                self.password.get_or_init(|| read)
            }
        };
        let pair = Zeroizing::new(format!("{}:{}", self.name, password.expose_secret()));
        Ok(SecretString::from(format!("Basic {}", STANDARD.encode(pair.as_bytes()))))
    }
}

/// The header for a token.
pub(super) fn bearer(token: &SecretString) -> SecretString {
    SecretString::from(format!("Bearer {}", token.expose_secret()))
}

/// Where programs keep what they know from one run to the next (XDG Base Directory).
fn state_dir() -> Result<PathBuf, Failure> {
    let given = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = given("XDG_STATE_HOME").or_else(|| given("HOME").map(|home| home.join(".local/state")));
    let missing = || Failure::usage("HOME is not set: there is no place for the token of --login");
    Ok(base.ok_or_else(missing)?.join("posthouse"))
}
