//! `posthouse job …`, and following the job of a verb that starts one.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::backup::{show_checked, show_created, show_pruned, show_revived, show_tried};
use super::client::{Call, Client, Watched};
use super::failure::{Exit, Failure};
use super::mailbox::{show_moved, show_undeleted};
use super::output::{Column, Output, clean, columns, member, note};
use super::plan::{Change, Destruction, Plan};
use super::report::show_trail;
use super::server::show_drift;
use super::store::{show_drained, show_offloaded, show_packing, show_probed, show_started, show_verified};

const JOBS: &[Column] = columns![
    "ID" "id" Text, "KIND" "kind" Text, "TARGET" "target" Text, "STATE" "state" Text, "DONE" "done" Count,
    "OF" "total" Text, "UNIT" "unit" Text, "ACTOR" "actor" Text, "CREATED" "created_at" Time
];
const JOB: &[Column] = columns![
    "ID" "id" Text, "Kind" "kind" Text, "Customer" "customer" Text, "Target" "target" Text, "State" "state" Text,
    "Done" "done" Count, "Of" "total" Text, "Unit" "unit" Text, "Asked for by" "actor" Text,
    "Cancelled by" "cancelled_by" Text, "Attempts" "attempts" Count, "Created" "created_at" Time,
    "Started" "started_at" Time, "Finished" "finished_at" Time, "Error" "error.detail" Text
];
/// Work that ends before this shows no bar.
const BAR_DELAY: Duration = Duration::from_secs(1);
/// How long a daemon that went away, for instance to be restarted, is waited for.
const RETURN_PATIENCE: Duration = Duration::from_secs(60);
/// Pause before it is asked again.
const RETURN_PAUSE: Duration = Duration::from_millis(500);

/// Shows what came of a job; the exit code tells scripts of it.
pub(super) type Finish = fn(&Output, &Value) -> Result<ExitCode, Failure>;

/// How the report of each kind of job is shown.
const FINISHES: &[(&str, Finish)] = &[
    ("audit.verify", show_trail),
    ("backup.create", show_created),
    ("backup.prune", show_pruned),
    ("backup.test", show_tried),
    ("backup.verify", show_checked),
    ("folder.undelete", show_undeleted),
    ("mailbox.move", show_moved),
    ("mailbox.restore", show_revived),
    ("message.undelete", show_undeleted),
    ("quota.verify", show_drift),
    ("store.compact", show_offloaded),
    ("store.drain", show_drained),
    ("store.offload", show_offloaded),
    ("store.pack", show_packing),
    ("store.probe", show_probed),
    ("store.start", show_started),
    ("store.verify", show_verified),
];

/// For every verb that starts a job.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Follow {
    /// Do not wait for the end; print the job's id
    #[arg(long)]
    pub detach: bool,
}

/// Long work
#[derive(Subcommand, Debug)]
pub(super) enum JobCommand {
    /// List jobs, the newest first
    List {
        /// Of this customer and those below
        #[arg(long, value_name = "PATH")]
        customer: Option<String>,
        /// Only those that wait or run
        #[arg(long)]
        open: bool,
        /// At most this many
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        limit: Option<u64>,
    },
    /// Show one job
    Show {
        /// Its id
        id: String,
    },
    /// Follow a job to its end; Ctrl-C leaves it running
    Watch {
        /// Its id
        id: String,
    },
    /// Ask for the early end of a job; what it has done stays
    Cancel {
        /// Its id
        id: String,
        #[command(flatten)]
        destruction: Destruction,
    },
}

impl JobCommand {
    pub(super) fn plan(self) -> Plan {
        match self {
            Self::List { customer, open, limit } => {
                let call = Call::new("job.list").maybe("customer", customer).flag("open", open);
                Plan::List { call: call.maybe("limit", limit), columns: JOBS, nothing: "no jobs" }
            }
            Self::Show { id } => Plan::Show { call: Call::new("job.show").with("id", id), columns: JOB },
            Self::Watch { id } => Plan::Own { call: Call::new("job.show").with("id", id), show: watch },
            Self::Cancel { id, destruction } => {
                let call = Call::new("job.cancel").with("id", id.clone());
                let question = format!("Cancel job {id}?");
                let done = format!("job {id} is asked to end");
                Plan::Destroy { call, destruction, effects: JOB, question, done }
            }
        }
    }
}

fn watch(client: &Client, output: &Output, call: &Call) -> Result<ExitCode, Failure> {
    let id = call.fields.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
    let lines = output.is_json().then_some(output);
    let job = follow(client, &id, lines)?;
    let kind = member(&job, "kind").and_then(Value::as_str).unwrap_or_default();
    if lines.is_some() {
        output.object(&job)?;
        return conclude(&Output::silent(), &job, finish_of(kind));
    }
    conclude(output, &job, finish_of(kind))
}

fn finish_of(kind: &str) -> Finish {
    let known = FINISHES.iter().find(|(name, _)| *name == kind);
    known.map_or(show_report, |(_, finish)| *finish)
}

fn show_report(output: &Output, report: &Value) -> Result<ExitCode, Failure> {
    output.document(report)?;
    Ok(ExitCode::SUCCESS)
}

/// Starts the job of a verb and follows it, unless it is only to be tried or left alone.
pub(super) fn start(
    client: &Client,
    output: &Output,
    call: &Call,
    change: Change,
    following: Follow,
) -> Result<ExitCode, Failure> {
    let job = client.run(call, change.dry_run)?;
    if change.dry_run {
        super::plan::finish(output, &job, true, "")?;
        return Ok(ExitCode::SUCCESS);
    }
    let id = member(&job, "id").and_then(Value::as_str).unwrap_or_default().to_owned();
    if following.detach {
        if output.is_json() {
            output.document(&job)?;
        } else {
            output.line(&id)?;
            note(format!("posthouse job watch {id} follows it"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let job = follow(client, &id, None)?;
    conclude(output, &job, finish_of(call.operation))
}

/// The exit code of a job that has ended, after its report has been shown.
fn conclude(output: &Output, job: &Value, finish: Finish) -> Result<ExitCode, Failure> {
    let text = |name: &str| member(job, name).and_then(Value::as_str).unwrap_or_default();
    let nothing = Value::Object(serde_json::Map::new());
    match text("state") {
        "done" => finish(output, member(job, "report").unwrap_or(&nothing)),
        "cancelled" => {
            let by = clean(text("cancelled_by"));
            Err(Failure::new(Exit::Other, format!("job {} was cancelled by {by}", text("id")))
                .hint("what it had done stays; start it again to go on"))
        }
        _ => {
            let error = member(job, "error").unwrap_or(&nothing);
            Err(Failure::problem(text("kind"), 500, error))
        }
    }
}

/// Follows a job to its end and gives it; with `lines` every change is printed there, else a bar is shown on a
/// terminal. A daemon that is restarted meanwhile is waited for.
fn follow(client: &Client, id: &str, lines: Option<&Output>) -> Result<Value, Failure> {
    let call = Call::new("job.show").with("id", id);
    let mut bar = Bar::new(lines.is_none());
    let mut gone_since: Option<Instant> = None;
    let mut interrupts = client.interrupts()?;
    let left = || {
        let hint = format!("posthouse job watch {id} follows it, posthouse job cancel {id} ends it");
        Failure::new(Exit::Other, format!("job {id} goes on")).hint(hint)
    };
    loop {
        let watched = client.watch(&call, &mut interrupts, |job| {
            gone_since = None;
            bar.show(job);
            lines.map_or(Ok(()), |output| output.object(job))
        });
        let broken = match watched {
            Ok(Watched::Ended(job)) => {
                bar.clear();
                return Ok(job);
            }
            Ok(Watched::Left) => {
                bar.clear();
                return Err(left());
            }
            Ok(Watched::Broken(failure)) => failure,
            Err(failure) if failure.exit == Exit::Unavailable => failure,
            Err(failure) => return Err(failure),
        };
        let since = *gone_since.get_or_insert_with(Instant::now);
        if since.elapsed() > RETURN_PATIENCE {
            bar.clear();
            return Err(broken.hint(format!("the job goes on; posthouse job watch {id} follows it")));
        }
        if !client.pause(&mut interrupts, RETURN_PAUSE) {
            bar.clear();
            return Err(left());
        }
    }
}

/// A progress bar on standard error, if that is a terminal, for work that takes over a second.
struct Bar {
    since: Instant,
    bar: Option<ProgressBar>,
    is_wanted: bool,
}

impl Bar {
    fn new(is_wanted: bool) -> Self {
        let is_wanted = is_wanted && std::io::stderr().is_terminal();
        Self { since: Instant::now(), bar: None, is_wanted }
    }

    fn show(&mut self, job: &Value) {
        if !self.is_wanted || self.since.elapsed() < BAR_DELAY {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        let number = |name: &str| member(job, name).and_then(Value::as_u64);
        let text = |name: &str| clean(member(job, name).and_then(Value::as_str).unwrap_or_default());
        let template = match (number("total"), text("unit") == "octets") {
            (Some(_), true) => "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {eta}",
            (Some(_), false) => "{msg} {wide_bar} {human_pos}/{human_len} {prefix} {eta}",
            (None, true) => "{spinner} {msg} {binary_bytes}",
            (None, false) => "{spinner} {msg} {human_pos} {prefix}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        match number("total") {
            Some(total) => bar.set_length(total),
            None => bar.unset_length(),
        }
        bar.set_prefix(text("unit"));
        let waits = text("state") == "waiting";
        bar.set_message(if waits { format!("{} waits", text("kind")) } else { text("kind") });
        bar.set_position(number("done").unwrap_or_default());
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
