//! The TRANSACTION and UPDATE states (RFC 1939 sections 5 and 6): after login.

use bytes::Bytes;

use super::Server;
use super::command::{self, Command};
use super::maildrop::{Entry, Maildrop, Maildrops};
use super::session::{
    BYE, NO_SUCH_MESSAGE, Outcome, REPLIES_OCTETS_MAX, Stop, Wire, capabilities, temporary, totals,
};
use super::text;
use crate::base::id::{Uid, UidValidity};
use crate::service::error::ServiceError;

/// After login.
pub(super) struct Transaction<'a, M: Maildrops> {
    maildrop: M::Maildrop,
    /// One for each entry of the maildrop.
    deleted: Vec<bool>,
    server: &'a Server<M>,
}

impl<'a, M: Maildrops> Transaction<'a, M> {
    pub(super) fn new(maildrop: M::Maildrop, server: &'a Server<M>) -> Self {
        let deleted = vec![false; maildrop.entries().len()];
        Self { maildrop, deleted, server }
    }

    pub(super) async fn run(mut self, wire: &mut Wire) -> Outcome<()> {
        let limits = &self.server.limits;
        loop {
            if wire.errors > limits.errors_max {
                return Err(Stop::Say("-ERR Too many errors, closing connection"));
            }
            let line = tokio::select! {
                biased;
                () = self.maildrop.ended() => {
                    return Err(Stop::Say("-ERR [SYS/TEMP] Session closed"));
                }
                line = wire.line(limits.idle_timeout) => line?,
            };
            let Some(line) = line else { continue };
            match command::parse(&line) {
                Err(error) => wire.wrong(error),
                Ok(Command::Quit) => {
                    let line = self.update().await;
                    return Err(Stop::Say(line));
                }
                Ok(command) => self.obey(wire, command).await?,
            }
        }
    }

    async fn obey(&mut self, wire: &mut Wire, command: Command<'_>) -> Outcome<()> {
        match command {
            Command::Capa => capabilities(wire, self.server, false),
            Command::Noop => wire.say("+OK"),
            Command::Stat => {
                let (count, octets) = totals(self.present().map(|(_, entry)| entry));
                wire.say(&format!("+OK {count} {octets}"));
            }
            Command::List(None) => return self.list(wire, |entry| entry.octets.to_string()).await,
            Command::List(Some(number)) => match self.entry(number) {
                Some((_, entry)) => wire.say(&format!("+OK {number} {}", entry.octets)),
                None => wire.say(NO_SUCH_MESSAGE),
            },
            Command::Uidl(None) => {
                let validity = self.maildrop.uid_validity();
                return self.list(wire, |entry| unique_id(validity, entry.uid)).await;
            }
            Command::Uidl(Some(number)) => match self.entry(number) {
                Some((_, entry)) => {
                    let id = unique_id(self.maildrop.uid_validity(), entry.uid);
                    wire.say(&format!("+OK {number} {id}"));
                }
                None => wire.say(NO_SUCH_MESSAGE),
            },
            Command::Retr(number) => {
                let Some((_, entry)) = self.entry(number) else {
                    wire.say(NO_SUCH_MESSAGE);
                    return Ok(());
                };
                let message = Box::pin(self.maildrop.message(entry.uid)).await;
                return self.send(wire, message).await;
            }
            Command::Top(number, lines) => {
                let Some((_, entry)) = self.entry(number) else {
                    wire.say(NO_SUCH_MESSAGE);
                    return Ok(());
                };
                let top = Box::pin(self.maildrop.top(entry.uid, lines)).await;
                return self.send(wire, top).await;
            }
            Command::Dele(number) => {
                let index = self.entry(number).map(|(index, _)| index);
                match index.and_then(|index| self.deleted.get_mut(index)) {
                    Some(deleted) => {
                        *deleted = true;
                        wire.say("+OK Marked for deletion");
                    }
                    None => wire.say(NO_SUCH_MESSAGE),
                }
            }
            Command::Rset => {
                self.deleted.fill(false);
                wire.say("+OK");
            }
            Command::Stls | Command::User(_) | Command::Pass(_) | Command::Auth(_) | Command::Quit => {
                wire.say("-ERR Already logged in");
            }
        }
        Ok(())
    }

    /// Messages not marked, with their index.
    fn present(&self) -> impl Iterator<Item = (usize, &Entry)> {
        let deleted = self.deleted.iter();
        self.maildrop
            .entries()
            .iter()
            .zip(deleted)
            .enumerate()
            .filter_map(|(index, (entry, deleted))| (!deleted).then_some((index, entry)))
    }

    /// The message with this number, unless marked.
    fn entry(&self, number: u32) -> Option<(usize, Entry)> {
        let index = usize::try_from(number.checked_sub(1)?).ok()?;
        let entry = self.maildrop.entries().get(index)?;
        let deleted = self.deleted.get(index)?;
        (!deleted).then_some((index, *entry))
    }

    async fn list(&self, wire: &mut Wire, show: impl Fn(&Entry) -> String) -> Outcome<()> {
        wire.say("+OK");
        for (index, entry) in self.present() {
            wire.say(&format!("{} {}", index + 1, show(entry)));
            wire.flush_when_large(self.server.limits.idle_timeout).await?;
        }
        wire.say(".");
        Ok(())
    }

    /// Sends a message, in pieces when it is large.
    async fn send(&self, wire: &mut Wire, message: Result<Bytes, ServiceError>) -> Outcome<()> {
        let message = match message {
            Ok(message) => message,
            Err(error) => {
                tracing::warn!(%error, "a message could not be read");
                wire.say(temporary(&error));
                return Ok(());
            }
        };
        wire.say(&format!("+OK {} octets", message.len()));
        let mut at_line_start = true;
        for piece in message.chunks(REPLIES_OCTETS_MAX) {
            at_line_start = text::stuff(piece, at_line_start, &mut wire.replies);
            wire.flush_when_large(self.server.limits.idle_timeout).await?;
        }
        // The end must stand on a line of its own, also after a message that does not end its last one.
        wire.say(if message.ends_with(b"\r\n") || message.is_empty() { "." } else { "\r\n." });
        Ok(())
    }

    /// UPDATE: what was marked goes away now (RFC 1939 section 6).
    async fn update(&mut self) -> &'static str {
        let marked = self.maildrop.entries().iter().zip(&self.deleted).filter(|(_, deleted)| **deleted);
        let uids: Vec<Uid> = marked.map(|(entry, _)| entry.uid).collect();
        if uids.is_empty() {
            return BYE;
        }
        match Box::pin(self.maildrop.delete(&uids)).await {
            Ok(()) => BYE,
            Err(error) => {
                tracing::warn!(%error, "messages could not be deleted");
                "-ERR [SYS/TEMP] Some messages were not deleted"
            }
        }
    }
}

/// UIDL (RFC 1939 section 7): never used again for another message, since UIDVALIDITY and UID never are.
fn unique_id(validity: UidValidity, uid: Uid) -> String {
    format!("{:08x}{:08x}", validity.0, uid.0)
}
