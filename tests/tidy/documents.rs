//! What the documents and the example configuration say is so.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use super::{files, read, root};

const PROGRAM: &str = env!("CARGO_BIN_EXE_posthouse");

#[test]
fn example_configuration_is_accepted() {
    let output = Command::new(PROGRAM)
        .args(["config", "check", "--config"])
        .arg(root().join("config/example.toml"))
        .output()
        .expect("posthouse config check");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn every_command_in_the_documents_exists() {
    let mut documents: Vec<PathBuf> =
        ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(PathBuf::from).into();
    documents.extend(files("docs", "md"));
    let mentioned: BTreeSet<(String, String)> = documents
        .iter()
        .filter(|document| root().join(document).exists())
        .flat_map(|document| {
            let text = read(document);
            let name = document.display().to_string();
            commands(&text).into_iter().map(move |command| (command, name.clone())).collect::<Vec<_>>()
        })
        .collect();
    assert!(!mentioned.is_empty(), "no document shows a command");
    let unknown: Vec<String> = mentioned
        .into_iter()
        .filter(|(command, _)| !exists(command))
        .map(|(command, document)| format!("{document}: posthouse {command}"))
        .collect();
    assert!(unknown.is_empty(), "no such command:\n{}", unknown.join("\n"));
}

/// The words behind `posthouse` in code: fenced blocks and between backticks.
fn commands(markdown: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in markdown.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        let spans: Vec<&str> = if fenced { vec![line] } else { line.split('`').skip(1).step_by(2).collect() };
        for span in spans {
            let span = span.trim().trim_start_matches("$ ").trim_start_matches("# ");
            let behind = ["posthouse ", "./target/release/posthouse ", "cargo run --release -- "]
                .iter()
                .find_map(|start| span.strip_prefix(start));
            found.extend(behind.map(words).filter(|words| !words.is_empty()));
        }
    }
    found
}

/// The leading words that can be the names of commands.
fn words(line: &str) -> String {
    let is_name = |word: &&str| {
        !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-')
    };
    line.split_whitespace().take_while(is_name).collect::<Vec<_>>().join(" ")
}

/// Walks down the tree of commands as `--help` shows it.
fn exists(command: &str) -> bool {
    let mut path: Vec<&str> = Vec::new();
    for word in command.split(' ') {
        let Some(children) = subcommands(&path) else { return false };
        if children.is_empty() {
            // What follows is an argument.
            return true;
        }
        if !children.iter().any(|child| child == word) {
            return false;
        }
        path.push(word);
    }
    subcommands(&path).is_some()
}

fn subcommands(path: &[&str]) -> Option<Vec<String>> {
    let output = Command::new(PROGRAM).args(path).arg("--help").output().expect("posthouse --help");
    if !output.status.success() {
        return None;
    }
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    let Some((_, list)) = help.split_once("\nCommands:\n") else { return Some(Vec::new()) };
    let names = list.lines().take_while(|line| !line.trim().is_empty());
    Some(names.filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect())
}

#[test]
fn commands_are_found_in_code_only() {
    let markdown = "posthouse in text\n`posthouse mailbox create A@B` and `other`\n```\n$ posthouse serve --config F\n\
        # posthouse report quota --domain D\n```\n";
    assert_eq!(commands(markdown), ["mailbox create", "serve", "report quota"]);
}
