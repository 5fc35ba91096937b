//! `posthouse server …`

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Subcommand;
use serde_json::{Value, json};

use super::client::{Call, Client};
use super::failure::{Exit, Failure};
use super::job::Follow;
use super::output::{Column, Kind, Output, columns, member, note, show};
use super::plan::{Change, Destruction, Plan, all, finish, pages};

const SERVERS: &[Column] = columns![
    "NODE" "node" Text, "HOST" "host" Text, "STATE" "state" Text, "SINCE" "since" Time, "UPTIME" "uptime_secs" Span,
    "VERSION" "version" Text, "CPU" "used.cpu_percent" Percent, "MEMORY" "resident_octets" Size,
    "CONNECTIONS" "open" Count, "WAITING" "queued" Count, "UNPACKED" "used.fresh_bodies" Count
];
const SERVER: &[Column] = columns![
    "Node" "node" Text, "Host" "host" Text, "State" "state" Text, "Since" "since" Time, "Version" "version" Text,
    "Process" "pid" Text, "Starts" "epoch" Count, "Started" "started_at" Time, "Uptime" "uptime_secs" Span,
    "Asked to" "wanted" Text, "Database" "database" Text, "Size of database" "database_octets" Size,
    "Measured" "used.at" Time, "CPU, of one core" "used.cpu_percent" Percent, "Processor seconds" "cpu_secs" Count,
    "Memory" "resident_octets" Size, "IMAP sessions" "sessions.imap" Count, "POP3 sessions" "sessions.pop3" Count,
    "Connections" "connections" Text, "Waiting for the database" "waiting" Text,
    "Bodies to be packed" "used.fresh_bodies" Count, "Their size" "used.fresh_octets" Size,
    "Packs to be offloaded" "used.offload_packs" Count, "Their size" "used.offload_octets" Size,
    "Jobs running" "used.jobs_running" Count, "Jobs waiting" "used.jobs_waiting" Count, "To see to" "warnings" List
];
const DISKS: &[Column] = columns![
    "DISK OF" "store" Text, "SIZE" "octets" Size, "FREE" "free_octets" Size, "USED HERE" "used_octets" Size
];
const HISTORY: &[Column] = columns![
    "TIME" "at" Time, "CPU" "cpu_percent" Percent, "MEMORY" "resident_octets" Size, "CONNECTIONS" "open" Count,
    "WAITING" "queued" Count, "UNPACKED" "fresh_bodies" Count, "TO OFFLOAD" "offload_octets" Size,
    "JOBS" "jobs_running" Count, "DATABASE" "database_octets" Size
];
const COURSES: &[Column] = columns![
    "OF" "name" Text, "LEAST" "least" Text, "MOST" "most" Text, "NOW" "now" Text, "COURSE" "course" Text
];
const ASKED: &[Column] = columns!["Node" "node" Text, "Host" "host" Text];

/// What the courses of a history are of.
const SERIES: [(&str, &str, Kind); 8] = [
    ("CPU", "cpu_percent", Kind::Percent),
    ("memory", "resident_octets", Kind::Size),
    ("connections", "open", Kind::Count),
    ("waiting for the database", "queued", Kind::Count),
    ("bodies to be packed", "fresh_bodies", Kind::Count),
    ("to be offloaded", "offload_octets", Kind::Size),
    ("jobs", "jobs_running", Kind::Count),
    ("database", "database_octets", Kind::Size),
];
/// Columns that the other parts of a course's line take, about.
const COURSE_MARGIN: usize = 62;
/// Shortest and longest course, in columns.
const COURSE_COLUMNS: (usize, usize) = (10, 120);
/// Heights of a course.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// How long a server that restarts is waited for.
const RESTART_PATIENCE: Duration = Duration::from_secs(180);
/// Pause before it is asked again.
const RESTART_PAUSE: Duration = Duration::from_millis(250);

/// Servers: the daemons that run this instance
#[derive(Subcommand, Debug)]
pub(super) enum ServerCommand {
    /// List all servers that run, or ran, on this database
    List,
    /// Show a server's version, load, connections, disks and queues
    Show {
        /// Its name; the one that is asked if absent
        node: Option<String>,
    },
    /// Show what a server used and had to do, minute by minute
    History {
        /// Its name; the one that is asked if absent
        node: Option<String>,
        /// How far to look back, at most a day: RFC 3339, or how long ago, such as 6h
        #[arg(long, value_name = "TIME", default_value = "2h")]
        since: String,
    },
    /// Let a new process of the program take over; no connection is refused meanwhile
    Restart {
        /// Its name; the one that is asked if absent
        node: Option<String>,
        #[command(flatten)]
        change: Change,
        #[command(flatten)]
        following: Follow,
    },
    /// Let a server finish what runs, and end
    Stop {
        /// Its name; the one that is asked if absent
        node: Option<String>,
        #[command(flatten)]
        destruction: Destruction,
    },
}

impl ServerCommand {
    pub(super) fn plan(self) -> Plan {
        match self {
            Self::List => Plan::Own { call: Call::new("server.list"), show: list },
            Self::Show { node } => {
                Plan::Own { call: Call::new("server.show").maybe("node", node), show: show_server }
            }
            Self::History { node, since } => {
                let call = Call::new("server.history").maybe("node", node).with("since", since);
                Plan::Own { call, show: history }
            }
            Self::Restart { node, change, following } => {
                Plan::Restart { call: Call::new("server.restart").maybe("node", node), change, following }
            }
            Self::Stop { node, destruction } => {
                let call = Call::new("server.stop").maybe("node", node);
                let question = "Stop this server? It serves nobody until it is started again.".to_owned();
                let done = "the server finishes what runs, and ends".to_owned();
                Plan::Destroy { call, destruction, effects: ASKED, question, done }
            }
        }
    }
}

/// The numbers of an object together.
fn sum(object: Option<&Value>) -> u64 {
    let members = object.and_then(Value::as_object);
    members.into_iter().flatten().filter_map(|(_, value)| value.as_u64()).sum()
}

/// The members of an object that are not 0, in words.
fn words(object: Option<&Value>) -> String {
    let members = object.and_then(Value::as_object).into_iter().flatten();
    let told = members.filter(|(_, value)| value.as_u64().is_some_and(|count| count > 0));
    let told: Vec<String> = told.map(|(name, value)| format!("{name} {value}")).collect();
    if told.is_empty() { "none".to_owned() } else { told.join(", ") }
}

/// With the sums that tables show beside it.
fn with_sums(mut object: Value, inside: Option<&str>) -> Value {
    let within = inside.map_or(Some(&object), |name| object.get(name));
    let Some(within) = within else { return object };
    let (open, queued) = (sum(within.get("connections")), sum(within.get("waiting")));
    if let Some(members) = object.as_object_mut() {
        members.insert("open".to_owned(), open.into());
        members.insert("queued".to_owned(), queued.into());
    }
    object
}

fn list(client: &Client, output: &Output, call: &Call) -> Result<ExitCode, Failure> {
    if output.is_json() {
        pages(client, call, |page| page.iter().try_for_each(|object| output.object(object)))?;
    } else {
        let servers: Vec<Value> =
            all(client, call)?.into_iter().map(|server| with_sums(server, Some("used"))).collect();
        output.table(SERVERS, &servers)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show_server(client: &Client, output: &Output, call: &Call) -> Result<ExitCode, Failure> {
    let mut server = client.run(call, false)?;
    if output.is_json() {
        output.document(&server)?;
        return Ok(ExitCode::SUCCESS);
    }
    let disks = member(&server, "used.disks").and_then(Value::as_array).cloned().unwrap_or_default();
    let told = ["connections", "waiting"].map(|name| (name, words(server.pointer(&format!("/used/{name}")))));
    if let Some(members) = server.as_object_mut() {
        members.extend(told.map(|(name, words)| (name.to_owned(), words.into())));
    }
    output.sheet(SERVER, &server)?;
    if !disks.is_empty() {
        output.line("")?;
        output.table(DISKS, &disks.into_iter().map(named).collect::<Vec<_>>())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A disk that has no mail store is the database's.
fn named(mut disk: Value) -> Value {
    if let Some(members) = disk.as_object_mut() {
        members.entry("store").or_insert_with(|| "(database)".into());
    }
    disk
}

/// The samples: courses on a terminal, a line each otherwise.
fn history(client: &Client, output: &Output, call: &Call) -> Result<ExitCode, Failure> {
    if output.is_json() {
        pages(client, call, |page| page.iter().try_for_each(|object| output.object(object)))?;
        return Ok(ExitCode::SUCCESS);
    }
    let samples: Vec<Value> = all(client, call)?.into_iter().map(|one| with_sums(one, None)).collect();
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else {
        note("no samples of that time; a server keeps one every minute for a day");
        return Ok(ExitCode::SUCCESS);
    };
    let Some(width) = output.width() else {
        output.table(HISTORY, &samples)?;
        return Ok(ExitCode::SUCCESS);
    };
    let (least, most) = COURSE_COLUMNS;
    let columns = usize::from(width).saturating_sub(COURSE_MARGIN).clamp(least, most);
    let mut courses: Vec<Value> = SERIES
        .into_iter()
        .map(|(name, path, kind)| {
            let values: Vec<f64> = samples.iter().map(|sample| number(member(sample, path))).collect();
            course(name, kind, &values, columns)
        })
        .collect();
    courses.extend(disk_courses(&samples, columns));
    output.table(COURSES, &courses)?;
    let time = |sample| show(Kind::Time, member(sample, "at"));
    note(format!("{} to {}, {} samples", time(first), time(last), samples.len()));
    Ok(ExitCode::SUCCESS)
}

fn number(value: Option<&Value>) -> f64 {
    value.and_then(Value::as_f64).unwrap_or_default()
}

/// What is free on each disk of the last sample.
fn disk_courses(samples: &[Value], columns: usize) -> Vec<Value> {
    let disks =
        |sample: &Value| member(sample, "disks").and_then(Value::as_array).cloned().unwrap_or_default();
    let last = samples.last().map(disks).unwrap_or_default();
    let free = |wanted: &Value| {
        let values: Vec<f64> = samples
            .iter()
            .filter_map(|sample| {
                disks(sample).into_iter().find(|disk| disk.get("store") == wanted.get("store"))
            })
            .map(|disk| number(disk.get("free_octets")))
            .collect();
        let name = format!("free, {}", show(Kind::Text, named(wanted.clone()).get("store")));
        course(&name, Kind::Size, &values, columns)
    };
    last.iter().map(free).collect()
}

/// A line: least, most and last value, and a bar for each stretch of time.
fn course(name: &str, kind: Kind, values: &[f64], columns: usize) -> Value {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    let shown = |value: f64| {
        let value = if kind == Kind::Percent { json!(value) } else { json!(value.max(0.0).round() as u64) };
        show(kind, Some(&value))
    };
    json!({
        "name": name,
        "least": shown(if least.is_finite() { least } else { 0.0 }),
        "most": shown(most),
        "now": shown(values.last().copied().unwrap_or_default()),
        "course": bars(values, columns, most),
    })
}

/// At most `columns` bars, each the mean of as many values as fall to it, against `most`.
fn bars(values: &[f64], columns: usize, most: f64) -> String {
    let each = values.len().div_ceil(columns.max(1)).max(1);
    let bar = |chunk: &[f64]| {
        let mean = chunk.iter().sum::<f64>() / chunk.len().max(1) as f64;
        let height = if most > 0.0 { mean / most * (BARS.len() - 1) as f64 } else { 0.0 };
        BARS.get(height.round() as usize).or(BARS.last()).copied().unwrap_or(' ')
    };
    values.chunks(each).map(bar).collect()
}

/// Has a server restarted, and waits until the new process serves.
pub(super) fn restart(
    client: &Client,
    output: &Output,
    call: &Call,
    change: Change,
    following: Follow,
) -> Result<(), Failure> {
    let asked = client.run(call, change.dry_run)?;
    let text = |name: &str| show(Kind::Text, member(&asked, name));
    if change.dry_run || following.detach {
        let done = format!("{} is asked to restart; posthouse server show {0} tells of it", text("node"));
        return finish(output, &asked, change.dry_run, &done);
    }
    let pid = member(&asked, "pid").cloned();
    let shown = Call::new("server.show").with("node", text("node"));
    let mut interrupts = client.interrupts()?;
    let begun = Instant::now();
    loop {
        match client.run(&shown, false) {
            Ok(server) => {
                // A process that took back what its successor could not take over has started anew, too.
                if member(&server, "pid") != pid.as_ref() {
                    let told = |name: &str| show(Kind::Text, member(&server, name));
                    let (node, version, pid) = (told("node"), told("version"), told("pid"));
                    let done = format!("{node} serves: version {version}, process {pid}");
                    return finish(output, &server, false, &done);
                }
                if let Some(error) = member(&server, "restart_error") {
                    let message =
                        format!("{} serves on as it was: {}", text("node"), show(Kind::Text, Some(error)));
                    return Err(Failure::new(Exit::Other, message).hint("the daemon's log has more"));
                }
            }
            // It is between its two processes.
            Err(failure) if failure.exit == Exit::Unavailable => {}
            Err(failure) => return Err(failure),
        }
        let hint = format!("posthouse server show {} tells of it", text("node"));
        if begun.elapsed() > RESTART_PATIENCE {
            let message = format!("{} has not restarted yet", text("node"));
            return Err(Failure::new(Exit::Unavailable, message).hint(hint));
        }
        if !client.pause(&mut interrupts, RESTART_PAUSE) {
            return Err(Failure::new(Exit::Other, "the restart goes on").hint(hint));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn courses_are_as_long_as_there_is_room_and_as_high_as_the_most() {
        assert_eq!(bars(&[0.0, 5.0, 10.0], 10, 10.0), "▁▅█");
        assert_eq!(bars(&[0.0, 10.0, 10.0, 10.0], 2, 10.0), "▅█");
        assert_eq!(bars(&[0.0; 3], 10, 0.0), "▁▁▁");
        assert_eq!(bars(&[], 10, 0.0), "");
        let line = course("memory", Kind::Size, &[1024.0, 2048.0], 10);
        assert_eq!((&line["least"], &line["now"]), (&json!("1 KiB"), &json!("2 KiB")));
    }

    #[test]
    fn sums_stand_beside_what_they_are_of() {
        let server = with_sums(json!({ "used": { "connections": { "imap": 2, "lmtp": 1 } } }), Some("used"));
        assert_eq!((&server["open"], &server["queued"]), (&json!(3), &json!(0)));
        assert_eq!(words(Some(&json!({ "imap": 2, "lmtp": 0 }))), "imap 2");
        assert_eq!(words(None), "none");
    }
}
