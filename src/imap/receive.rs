//! Receiving a command: collects its lines and literals within the time and the bounds that the state allows, and
//! refuses what is too large, over quota or without room before it is sent.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use super::client::{Client, literal_units};
use super::folder;
use super::frame::{Collector, LiteralHead, skip_line, skip_literal};
use super::outcome::{Failure, Verdict, answer};
use super::parse::{AppendHead, append_head};
use super::session::{End, Session, State};
use crate::wire::line::LineError;

/// Longest command without its literals, in octets (RFC 2683 section 3.2.1.5 asks for 8,000 at least; clients
/// send long UID sets).
const LINE_OCTETS_MAX: usize = 64 * 1024;
/// The same before login.
const LINE_LOGIN_OCTETS_MAX: usize = 8 * 1024;
/// Most octets of literals that are no messages in one command.
const ARGUMENTS_OCTETS_MAX: u64 = 64 * 1024;
/// The same before login.
const ARGUMENTS_LOGIN_OCTETS_MAX: u64 = 8 * 1024;
/// How long a literal may wait for room.
const LITERAL_ROOM_TIMEOUT: Duration = Duration::from_secs(60);

/// What came from the client.
pub enum Received {
    /// A command, and the room its large literals take.
    Command(Bytes, Option<OwnedSemaphorePermit>),
    /// One that was refused before it was complete.
    Refused(Verdict),
}

impl Session {
    /// Waits for the next command, within the time that the state allows.
    pub async fn receive(&mut self, state: &State) -> Result<Received, End> {
        let limits = &self.services.limits;
        let (deadline, late) = match state {
            State::NotAuthenticated => (self.login_deadline(), "login took too long"),
            _ => (Instant::now() + limits.inactivity_timeout, "autologout: no command for too long"),
        };
        let shutdown = self.shutdown.clone();
        let ended = async {
            match state.account() {
                Some(account) => account.session.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = shutdown.requested() => Err(End::Bye("the server is shutting down")),
            () = ended => Err(End::Bye("this session was ended by the administration")),
            received = timeout_at(deadline, self.collect(state)) => match received {
                Ok(Ok(received)) => Ok(received),
                Ok(Err(_)) => Err(End::Gone),
                Err(_) => Err(End::Bye(late)),
            },
        }
    }

    /// Collects one command with its literals.
    async fn collect(&mut self, state: &State) -> Result<Received, LineError> {
        let line_octets_max = match state {
            State::NotAuthenticated => LINE_LOGIN_OCTETS_MAX,
            _ => LINE_OCTETS_MAX,
        };
        let mut collector = Collector::default();
        let mut room = None;
        loop {
            let Client { connection, reader, .. } = &mut self.client;
            let head = match collector.line(connection, reader, line_octets_max).await {
                Ok(None) => return Ok(Received::Command(collector.finish(), room)),
                Ok(Some(head)) => head,
                Err(LineError::TooLong) => return Box::pin(self.refuse_line(collector)).await,
                Err(error) => return Err(error),
            };
            // Boxed, so that a session waiting for a line does not carry it.
            match Box::pin(self.literal(state, &mut collector, head)).await? {
                Ok(more) => room = merge(room, more),
                Err(failure) => return Box::pin(self.refuse_literal(collector, head, failure)).await,
            }
        }
    }

    /// Decides about an announced literal and takes it.
    async fn literal(
        &mut self,
        state: &State,
        collector: &mut Collector,
        head: LiteralHead,
    ) -> Result<Result<Option<OwnedSemaphorePermit>, Failure>, LineError> {
        let room = match self.literal_check(state, collector, head).await {
            Ok(room) => room,
            Err(failure) => return Ok(Err(failure)),
        };
        if head.synchronizing {
            self.client.out.extend_from_slice(b"+ OK\r\n");
            self.client.flush().await?;
        }
        let Client { connection, reader, .. } = &mut self.client;
        collector.literal(connection, reader, head).await?;
        Ok(Ok(room))
    }

    async fn refuse_line(&mut self, collector: Collector) -> Result<Received, LineError> {
        let failure = Failure::Malformed("the line is too long".to_owned());
        let verdict = self.refuse(collector.so_far(), failure).await?;
        let Client { connection, reader, .. } = &mut self.client;
        Ok(Received::Refused(match skip_line(connection, reader).await? {
            true => verdict,
            false => Verdict::Bye("the line is far too long"),
        }))
    }

    async fn refuse_literal(
        &mut self,
        collector: Collector,
        head: LiteralHead,
        failure: Failure,
    ) -> Result<Received, LineError> {
        let verdict = self.refuse(collector.so_far(), failure).await?;
        let Client { connection, reader, .. } = &mut self.client;
        Ok(Received::Refused(match skip_literal(connection, reader, head, LINE_OCTETS_MAX).await? {
            true => verdict,
            false => Verdict::Bye("the literal is far too large"),
        }))
    }

    /// Answers a command that is refused before it is complete.
    async fn refuse(&mut self, so_far: &[u8], failure: Failure) -> Result<Verdict, LineError> {
        let tag = so_far.split(|octet| *octet == b' ').next().unwrap_or_default();
        let sound = !tag.is_empty()
            && tag.len() < 100
            && tag.iter().all(|&octet| super::lexer::is_astring_char(octet) && octet != b'+');
        let verdict = answer(&mut self.client.out, if sound { tag } else { b"*" }, Err(failure));
        self.client.flush().await?;
        Ok(verdict)
    }

    /// Decides about an announced literal before any of it is read: size, quota, room.
    async fn literal_check(
        &self,
        state: &State,
        collector: &Collector,
        head: LiteralHead,
    ) -> Result<Option<OwnedSemaphorePermit>, Failure> {
        let limits = &self.services.limits;
        let total = collector.literal_octets().saturating_add(head.octets);
        let (Some(account), AppendHead::Message(folder)) =
            (state.account(), append_head(collector.so_far())?)
        else {
            let octets_max = match state {
                State::NotAuthenticated => ARGUMENTS_LOGIN_OCTETS_MAX,
                _ => ARGUMENTS_OCTETS_MAX,
            };
            return if total <= octets_max {
                Ok(None)
            } else {
                Err(Failure::Malformed(format!("literals of at most {octets_max} octets are taken here")))
            };
        };
        if head.octets > limits.message_octets_max || total > limits.message_octets_max.saturating_mul(2) {
            let text = format!("messages of at most {} octets are taken", limits.message_octets_max);
            return Err(Failure::refused("TOOBIG", text));
        }
        let name = folder::name(&folder)?;
        self.services
            .mail
            .append_check(account.session.owner(), &name, total)
            .await
            .map_err(|error| Failure::from(error).try_create())?;
        let units = literal_units(head.octets);
        if units == 0 {
            return Ok(None);
        }
        let room = Arc::clone(&self.services.literal_room).acquire_many_owned(units);
        match tokio::time::timeout(LITERAL_ROOM_TIMEOUT, room).await {
            Ok(Ok(permit)) => Ok(Some(permit)),
            _ => {
                Err(Failure::refused("UNAVAILABLE", "too many large messages are arriving, try again later"))
            }
        }
    }
}

fn merge(
    room: Option<OwnedSemaphorePermit>,
    more: Option<OwnedSemaphorePermit>,
) -> Option<OwnedSemaphorePermit> {
    match (room, more) {
        (Some(mut room), Some(more)) => {
            room.merge(more);
            Some(room)
        }
        (room, more) => room.or(more),
    }
}
