//! `posthouse event …`, `posthouse audit export`: streams of lines.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

use super::client::{Call, Client, Watched};
use super::failure::Failure;
use super::output::{Kind, Output, show};
use super::plan::Plan;

/// What is changed, as it happens
#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Follow what is changed, one line for each event; with --json one object for each
    Watch {
        /// At this customer and below
        #[arg(long, value_name = "PATH")]
        customer: Option<String>,
        /// Only events of this kind, such as mailbox.create; mailbox. means all of mailboxes (can be repeated)
        #[arg(long, value_name = "KIND")]
        kind: Vec<String>,
        /// From this time on: RFC 3339, or how long ago, such as 2d; default: from now on
        #[arg(long, value_name = "TIME", conflicts_with = "cursor")]
        since: Option<String>,
        /// Go on behind this cursor, the last that a watch with --json has printed
        #[arg(long)]
        cursor: Option<String>,
    },
}

impl Command {
    pub(super) fn plan(self) -> Plan {
        let Self::Watch { customer, kind, since, cursor } = self;
        let call = Call::new("event.list").maybe("customer", customer).maybe("since", since);
        let kinds = (!kind.is_empty()).then_some(kind);
        Plan::Own { call: call.maybe("kinds", kinds).maybe("cursor", cursor), show: watch }
    }
}

/// Prints events until Ctrl-C, or until the daemon ends the stream.
fn watch(client: &Client, output: &Output, call: &Call) -> Result<ExitCode, Failure> {
    let mut interrupts = client.interrupts()?;
    let watched = client.watch(call, &mut interrupts, |line| {
        if output.is_json() {
            return output.object(line);
        }
        let text = |name: &str| show(Kind::Text, line.get(name));
        if line.get("kind").is_none() {
            return Ok(());
        }
        let at = show(Kind::Time, line.get("at"));
        let (kind, actor) = (text("kind"), text("actor"));
        output.line(&format!("{at}  {kind}  {}  by {actor}  at {}", text("target"), text("customer")))
    })?;
    ended(watched, output)
}

/// Prints the lines of a list as they come, the last of which says that it is complete.
pub(super) fn export(client: &Client, output: &Output, call: &Call) -> Result<ExitCode, Failure> {
    let mut interrupts = client.interrupts()?;
    let watched = client.watch(call, &mut interrupts, |line| output.object(line))?;
    ended(watched, output)
}

fn ended(watched: Watched, output: &Output) -> Result<ExitCode, Failure> {
    match watched {
        Watched::Ended(end) => {
            output.object(&serde_json::json!({ "end": end }))?;
            Ok(ExitCode::SUCCESS)
        }
        Watched::Left => Ok(ExitCode::SUCCESS),
        Watched::Broken(failure) => Err(failure),
    }
}

/// A proof as a document, whatever the form.
pub(super) fn document(client: &Client, output: &Output, call: &Call) -> Result<ExitCode, Failure> {
    let answer: Value = client.run(call, false)?;
    output.document(&answer)?;
    Ok(ExitCode::SUCCESS)
}
