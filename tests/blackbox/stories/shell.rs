//! A shell that lives as long as a page, so that variables and what runs in the background stay.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::support::daemon::PROGRAM;

/// How long a command may take.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(120);
/// Ends what a command has printed, before its exit status.
const MARK: &str = "--- posthouse story ---";

/// `/bin/sh` in a folder, with the program under test as `posthouse`.
pub struct Shell {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Shell {
    /// In `folder`, which is also the home.
    pub fn start(folder: &Path, environment: &[(&str, String)]) -> Self {
        let programs = Path::new(PROGRAM).parent().expect("the folder of the program");
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("/bin/sh");
        command.env_clear().current_dir(folder).process_group(0);
        command.env("PATH", format!("{}:{path}", programs.display())).env("HOME", folder);
        command.env("NO_COLOR", "1").env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().expect("start /bin/sh");
        let stdin = child.stdin.take().expect("stdin is piped");
        let stdout = child.stdout.take().expect("stdout is piped");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
            }
        });
        Self { child, stdin, lines }
    }

    /// Runs a command; what it printed to standard output and standard error, and its exit status.
    #[track_caller]
    pub fn run(&mut self, text: &str) -> (String, i32) {
        // What reads standard input must not read the commands that follow.
        let script = format!(
            "{{ {text}\n}} </dev/null 2>&1\n__status=$?; printf '\\n%s %d\\n' '{MARK}' \"$__status\"; (exit \
             \"$__status\")\n"
        );
        self.stdin.write_all(script.as_bytes()).expect("the shell reads");
        let mut printed = Vec::new();
        loop {
            let Ok(line) = self.lines.recv_timeout(COMMAND_TIME_MAX) else {
                panic!("{text}\nhas not ended after {COMMAND_TIME_MAX:?}; so far:\n{}", printed.join("\n"));
            };
            match line.strip_prefix(MARK) {
                Some(status) => return (printed.join("\n"), status.trim().parse().expect("a status")),
                None => printed.push(line),
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // What was started in the background is of its group.
        kill_process_group(Pid::from_child(&self.child), Signal::KILL).ok();
        self.child.wait().ok();
    }
}
