//! The content of messages: DATA, BDAT, delivery, and the answers to it.

use tokio::time::{Instant, timeout_at};

use super::data::{Collector, DotDecoder, Fault, Lease, Message};
use super::reply::Reply;
use super::session::{Outcome, Session, Stop, Transaction};
use super::{Deliver, Dialect, Limits};
use crate::service::delivery::{Atomicity, DeliveryRefusal};
use crate::wire::line::Reader;
use crate::wire::stream::Connection;

/// How many times the largest message a client may send of one that is too large, before it is cut off.
const OVERSIZE_FACTOR: u64 = 4;

impl<D: Deliver> Session<D> {
    /// DATA (RFC 5321 section 4.1.1.4).
    pub(super) async fn data(&mut self) -> Outcome<()> {
        let refused = match &self.transaction {
            None => Some(Reply::SEQUENCE_MAIL),
            Some(transaction) if transaction.chunks.is_some() => Some(Reply::SEQUENCE_BDAT),
            Some(transaction) if transaction.recipients.is_empty() => Some(Reply::NO_RECIPIENTS),
            Some(_) => None,
        };
        if let Some(reply) = refused {
            self.errors += 1;
            self.say(reply);
            return Ok(());
        }
        self.say(Reply::START_DATA);
        self.flush().await?;
        let mut collector = self.collector();
        collector.expect(self.transaction.as_ref().map_or(0, |it| it.octets_declared));
        let mut decoder = DotDecoder::new();
        let deadline = Instant::now() + self.server.limits.message_timeout;
        loop {
            let chunk =
                next_chunk(&mut self.reader, &mut self.connection, &self.server.limits, deadline).await?;
            let (used, complete) = decoder.feed(chunk, &mut collector);
            self.reader.consume(used);
            if complete {
                break;
            }
            self.give_up_when_endless(&collector)?;
        }
        self.finish(collector).await;
        Ok(())
    }

    /// BDAT (RFC 3030 section 2): the octets follow the command at once and are read whatever the answer will be.
    pub(super) async fn bdat(&mut self, octets: u64, last: bool) -> Outcome<()> {
        let octets_max = self.server.limits.message_octets_max;
        if octets > octets_max.saturating_mul(OVERSIZE_FACTOR) {
            return Err(Stop::Say(Reply::too_large(octets_max)));
        }
        let chunks = self.transaction.as_mut().map(|transaction| transaction.chunks.take());
        let has_recipients = self.transaction.as_ref().is_some_and(|it| !it.recipients.is_empty());
        let mut collector = match chunks {
            Some(Some(begun)) => begun,
            _ => self.collector(),
        };
        let deadline = Instant::now() + self.server.limits.message_timeout;
        let mut missing = octets;
        while missing > 0 {
            // A client may wait for the replies before it sends the octets it announced.
            if self.reader.buffered().is_empty() {
                self.flush().await?;
            }
            let chunk =
                next_chunk(&mut self.reader, &mut self.connection, &self.server.limits, deadline).await?;
            let take = usize::try_from(missing).unwrap_or(usize::MAX).min(chunk.len());
            if has_recipients {
                collector.chunk(chunk.get(..take).unwrap_or(chunk));
            }
            self.reader.consume(take);
            missing -= take as u64;
        }
        if !has_recipients {
            let reply = if self.transaction.is_some() { Reply::NO_RECIPIENTS } else { Reply::SEQUENCE_MAIL };
            self.errors += 1;
            self.say(reply);
        } else if last {
            self.finish(collector).await;
        } else if let Some(fault) = collector.fault() {
            // The rest of the message, if the client sends it all the same, finds no transaction.
            self.transaction = None;
            self.say(Reply::fault(fault, octets_max));
        } else {
            let text = format!("{octets} octets received");
            self.say(Reply { code: 250, enhanced: "2.0.0", text: text.into() });
            if let Some(transaction) = &mut self.transaction {
                transaction.chunks = Some(collector);
            }
        }
        Ok(())
    }

    fn collector(&self) -> Collector {
        Collector::new(self.server.limits.message_octets_max, Lease::new(&self.server.memory))
    }

    fn give_up_when_endless(&self, collector: &Collector) -> Outcome<()> {
        let octets_max = self.server.limits.message_octets_max;
        if collector.octets() > octets_max.saturating_mul(OVERSIZE_FACTOR) {
            return Err(Stop::Say(Reply::too_large(octets_max)));
        }
        Ok(())
    }

    /// Delivers a complete message and answers: once in SMTP, once for each recipient in LMTP (RFC 2033
    /// section 4.2), also when the message itself is refused.
    async fn finish(&mut self, collector: Collector) {
        let Some(transaction) = self.transaction.take() else { return };
        let octets = collector.octets();
        let replies = match collector.finish() {
            Ok(message) => self.deliver(&transaction, message).await,
            Err(fault) => self.refuse(&transaction, fault),
        };
        let codes: Vec<u16> = replies.iter().map(|reply| reply.code).collect();
        tracing::info!(
            id = %transaction.transmission.id,
            protocol = transaction.transmission.protocol,
            source = ?transaction.transmission.source,
            recipients = transaction.recipients.len(),
            octets,
            ?codes,
            "message received"
        );
        // Whoever brings mail that is taken may go on for days; the count is for those who only try.
        if codes.iter().any(|code| *code < 300) {
            self.errors = 0;
        }
        for reply in replies {
            self.say(reply);
        }
    }

    fn refuse(&self, transaction: &Transaction, fault: Fault) -> Vec<Reply> {
        let reply = Reply::fault(fault, self.server.limits.message_octets_max);
        let count = if self.dialect == Dialect::Lmtp { transaction.recipients.len() } else { 1 };
        vec![reply; count]
    }

    async fn deliver(&self, transaction: &Transaction, message: Message) -> Vec<Reply> {
        let Transaction { transmission, sender, recipients, paths, .. } = transaction;
        let atomicity = match self.dialect {
            Dialect::Lmtp => Atomicity::PerRecipient,
            Dialect::Smtp => Atomicity::AllOrNothing,
        };
        let Message { bytes, lease } = message;
        let delivery = self.server.delivery.deliver(transmission, sender, recipients, bytes, atomicity);
        let answers = Box::pin(delivery).await;
        drop(lease);
        let id = transmission.id.as_str();
        match self.dialect {
            Dialect::Smtp => {
                let refusals: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
                let complete = answers.len() == recipients.len();
                let reply = || one_for_all(recipients.len(), &refusals, id);
                vec![if complete { reply() } else { unavailable(Dialect::Smtp) }]
            }
            Dialect::Lmtp => {
                let mut answers = answers.into_iter();
                let answer = |path: &String| match answers.next() {
                    Some(Ok(_)) => Reply::stored(Some(path), id),
                    Some(Err(refusal)) => Reply::refusal(&refusal, Dialect::Lmtp),
                    None => unavailable(Dialect::Lmtp),
                };
                paths.iter().map(answer).collect()
            }
        }
    }
}

/// The next octets of a message.
async fn next_chunk<'a>(
    reader: &'a mut Reader,
    connection: &mut Connection,
    limits: &Limits,
    deadline: Instant,
) -> Outcome<&'a [u8]> {
    let until = deadline.min(Instant::now() + limits.command_timeout);
    match timeout_at(until, reader.chunk(connection)).await {
        Ok(Ok([])) => Err(Stop::Gone),
        Ok(Ok(chunk)) => Ok(chunk),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(Stop::Say(Reply::TIMEOUT)),
    }
}

fn unavailable(dialect: Dialect) -> Reply {
    Reply::refusal(&DeliveryRefusal::Unavailable, dialect)
}

/// SMTP has one answer for `count` recipients, and nothing is stored when one refuses. A permanent refusal is passed
/// on, since trying again cannot help; one that all share too; else the client is asked to try again, when RCPT will
/// tell which recipient it is.
fn one_for_all(count: usize, refusals: &[&DeliveryRefusal], id: &str) -> Reply {
    if refusals.is_empty() {
        return Reply::stored(None, id);
    }
    let replies: Vec<Reply> = refusals
        .iter()
        .filter(|refusal| !matches!(refusal, DeliveryRefusal::Sibling))
        .map(|refusal| Reply::refusal(refusal, Dialect::Smtp))
        .collect();
    if let Some(permanent) = replies.iter().find(|reply| reply.is_permanent()) {
        return permanent.clone();
    }
    match replies.split_first() {
        Some((first, others))
            if replies.len() == count && others.iter().all(|reply| reply.enhanced == first.enhanced) =>
        {
            first.clone()
        }
        _ => Reply::refusal(&DeliveryRefusal::Sibling, Dialect::Smtp),
    }
}
