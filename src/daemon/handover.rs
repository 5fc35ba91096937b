//! Restart without a gap: a running daemon starts its successor and hands it the bound sockets.
//!
//! # Consistency
//! The two talk over a pair of sockets; the successor has its end as standard input. In this order:
//! 1. The old one starts the program anew, with the same arguments, and sends the descriptors of its bound sockets.
//! 2. The successor has read configuration, certificates and secrets, binds what is configured and was not sent, and
//!    says `ready`. Until then whatever goes wrong leaves the old one serving as if nothing had been asked.
//! 3. The old one stops accepting, lets commands finish, closes the database, lets go of the data directory, and says
//!    `released`. Connections wait in the backlogs of the sockets, which both hold.
//! 4. The successor locks the directory, opens the database, serves, and says `serving`; the old one ends. If it fails
//!    before that, the old one locks and opens everything again.
//!
//! A word from one side is lost only with the other side: a pair of sockets tells of its end.

use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::DaemonError;
use super::listeners::{Inherited, Sockets};

/// Set in the environment of a successor.
const VARIABLE: &str = "POSTHOUSE_TAKE_OVER";
/// How long a successor may take to read its configuration and certificates.
const READY_PATIENCE: Duration = Duration::from_secs(60);
/// How long a successor may take to open the database; migrations of a large one take their time.
const SERVING_PATIENCE: Duration = Duration::from_secs(600);
/// How long a successor that has closed its end may take to exit.
const EXIT_PATIENCE: Duration = Duration::from_secs(5);
/// Longest word, in octets; the file name of a Unix socket has at most 108.
const WORD_OCTETS_MAX: usize = 8 * 1024;
/// Most sockets that are handed over; a configuration has a dozen.
const SOCKETS_MAX: usize = 1_000;

/// What the two tell each other.
#[derive(Serialize, Deserialize, Debug)]
#[serde(rename_all = "kebab-case")]
enum Word {
    /// To the successor: a socket, whose descriptor comes along.
    Socket { protocol: String, configured: String, bound: String },
    /// To the successor: that was the last one.
    Complete,
    /// From the successor: nothing is in its way that it could know of.
    Ready,
    /// To the successor: database and data directory are free.
    Released,
    /// From the successor: it serves.
    Serving,
    /// From the successor: it cannot take over.
    Failed { why: String },
}

/// One end of the pair. It keeps the borders of words (SOCK_SEQPACKET), which a [`UnixStream`] does not mind.
struct Channel(UnixStream);

impl Channel {
    fn new(end: OwnedFd) -> io::Result<Self> {
        UnixStream::from_std(end.into()).map(Self)
    }

    async fn send(&self, word: &Word, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let text = serde_json::to_vec(word)?;
        let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
        let send = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            sendmsg(&self.0, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL)?;
            Ok(())
        };
        self.0.async_io(Interest::WRITABLE, send).await
    }

    /// The next word; nothing when the other end is gone.
    async fn receive(&self) -> io::Result<Option<(Word, Option<OwnedFd>)>> {
        let receive = || {
            let mut text = vec![0; WORD_OCTETS_MAX];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut buffers = [IoSliceMut::new(&mut text)];
            let told = recvmsg(&self.0, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC)?;
            let mut descriptor = None;
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    descriptor = descriptors.last();
                }
            }
            text.truncate(told.bytes);
            Ok((text, descriptor))
        };
        match self.0.async_io(Interest::READABLE, receive).await {
            Ok((text, _)) if text.is_empty() => Ok(None),
            Ok((text, descriptor)) => Ok(Some((serde_json::from_slice(&text)?, descriptor))),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// How this process was started, to be started so again.
pub(super) struct Program {
    path: io::Result<PathBuf>,
    arguments: Vec<OsString>,
}

impl Program {
    /// Asked at the start: later another file may stand at the path, which is the one to be started then.
    pub(super) fn of_this_process() -> Self {
        let mut arguments = std::env::args_os();
        let name = arguments.next().map(PathBuf::from).filter(|name| name.components().count() > 1);
        let path = name.map_or_else(std::env::current_exe, std::path::absolute);
        Self { path, arguments: arguments.collect() }
    }

    /// Starts a successor and waits until it is ready; else says why it is not, and it is gone.
    pub(super) async fn start(&self, sockets: &Sockets) -> Result<Successor, String> {
        let (child, channel) = self.spawn().map_err(|error| format!("cannot start the program: {error}"))?;
        let mut successor = Successor { child: Some(child), channel };
        let prepared = tokio::time::timeout(READY_PATIENCE, successor.prepare(sockets)).await;
        match prepared.unwrap_or_else(|_| Err("it did not get ready in time".to_owned())) {
            Ok(()) => Ok(successor),
            Err(why) => {
                successor.end().await;
                Err(why)
            }
        }
    }

    fn spawn(&self) -> io::Result<(Child, Channel)> {
        let path = self.path.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (own, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let child = Command::new(path)
            .args(&self.arguments)
            .stdin(Stdio::from(theirs))
            .env(VARIABLE, "1")
            // The watchdog asks for the main process, which the successor becomes.
            .env_remove("WATCHDOG_PID")
            .spawn()?;
        Ok((child, Channel::new(own)?))
    }
}

/// The process that is to take over, as its predecessor sees it. Dropped, it is ended.
pub(super) struct Successor {
    child: Option<Child>,
    channel: Channel,
}

impl Successor {
    async fn prepare(&mut self, sockets: &Sockets) -> Result<(), String> {
        for (passed, socket) in sockets.passed() {
            let (protocol, configured, bound) = passed;
            let word = Word::Socket { protocol: protocol.to_owned(), configured, bound };
            // One that has ended is told of by what is received.
            let _ = self.channel.send(&word, Some(socket)).await;
        }
        let _ = self.channel.send(&Word::Complete, None).await;
        match self.channel.receive().await {
            Ok(Some((Word::Ready, _))) => Ok(()),
            other => Err(self.why(other).await),
        }
    }

    /// Lets the successor take over and waits until it serves; else says why it does not, and it is gone.
    pub(super) async fn take_over(&mut self) -> Result<(), String> {
        let _ = self.channel.send(&Word::Released, None).await;
        let told = tokio::time::timeout(SERVING_PATIENCE, self.channel.receive()).await;
        let failed = match told {
            Ok(Ok(Some((Word::Serving, _)))) => {
                // It is nobody's child from now on.
                self.child = None;
                return Ok(());
            }
            Ok(other) => self.why(other).await,
            Err(_) => "it did not serve in time".to_owned(),
        };
        self.end().await;
        Err(failed)
    }

    /// Why the successor does not go on.
    async fn why(&mut self, told: io::Result<Option<(Word, Option<OwnedFd>)>>) -> String {
        match told {
            Ok(Some((Word::Failed { why }, _))) => why,
            Ok(Some((word, _))) => format!("it said {word:?} out of turn"),
            Ok(None) => match self.exited().await {
                Some(status) => format!(
                    "the new process ended ({status}); what it said is in the log, and posthouse config check \
                     tells of mistakes in the configuration"
                ),
                None => "the new process closed its end".to_owned(),
            },
            Err(error) => format!("the new process cannot be understood: {error}"),
        }
    }

    /// The exit status of a successor that is about to end.
    async fn exited(&mut self) -> Option<std::process::ExitStatus> {
        let child = self.child.as_mut()?;
        let exit = async {
            loop {
                match child.try_wait() {
                    Ok(None) => tokio::time::sleep(Duration::from_millis(5)).await,
                    Ok(status) => return status,
                    Err(_) => return None,
                }
            }
        };
        tokio::time::timeout(EXIT_PATIENCE, exit).await.ok().flatten()
    }

    /// Ends the successor and waits until it is gone, its hold on the data directory with it.
    pub(super) async fn end(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
        }
        self.exited().await;
        self.child = None;
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
        }
    }
}

/// The process that hands over, as its successor sees it.
pub(super) struct Predecessor(Channel);

impl Predecessor {
    /// Nothing in a process that is nobody's successor.
    pub(super) fn of_environment() -> Result<Option<Self>, DaemonError> {
        if std::env::var_os(VARIABLE).is_none() {
            return Ok(None);
        }
        let end = io::stdin().as_fd().try_clone_to_owned().and_then(Channel::new);
        end.map(|channel| Some(Self(channel))).map_err(|error| cannot(&error))
    }

    async fn hear(&self) -> Result<(Word, Option<OwnedFd>), DaemonError> {
        let ended = || DaemonError::TakeOver("the process that was to hand over has ended".to_owned());
        self.0.receive().await.map_err(|error| cannot(&error))?.ok_or_else(ended)
    }

    /// The sockets that it hands over.
    pub(super) async fn sockets(&self) -> Result<Vec<Inherited>, DaemonError> {
        let mut sockets = Vec::new();
        while sockets.len() < SOCKETS_MAX {
            match self.hear().await? {
                (Word::Socket { protocol, configured, bound }, Some(socket)) => {
                    sockets.push(Inherited { protocol, configured, bound, socket });
                }
                (Word::Complete, _) => break,
                (word, _) => return Err(cannot(&format!("it said {word:?} out of turn"))),
            }
        }
        Ok(sockets)
    }

    /// Says that nothing is in the way, and waits until database and data directory are free.
    pub(super) async fn released(&self) -> Result<(), DaemonError> {
        self.0.send(&Word::Ready, None).await.map_err(|error| cannot(&error))?;
        match self.hear().await? {
            (Word::Released, _) => Ok(()),
            (word, _) => Err(cannot(&format!("it said {word:?} out of turn"))),
        }
    }

    /// Says that this process serves. One that has ended meanwhile needs not know.
    pub(super) async fn serving(self) {
        let _ = self.0.send(&Word::Serving, None).await;
    }

    /// Says why this process does not take over.
    pub(super) async fn failed(self, why: &DaemonError) {
        let mut why = why.to_string();
        why.truncate(why.floor_char_boundary(WORD_OCTETS_MAX / 4));
        let _ = self.0.send(&Word::Failed { why }, None).await;
    }
}

fn cannot(error: &dyn std::fmt::Display) -> DaemonError {
    DaemonError::TakeOver(error.to_string())
}
