//! The command line: a client of the admin socket. Of the rooms it knows `base` and the declarations of
//! [`crate::service::registry`] alone; what a command may do is decided by the daemon.

mod administrator;
mod alias;
mod backup;
mod bulk;
mod client;
mod customer;
mod domain;
mod event;
mod expiry;
mod failure;
mod group;
mod hold;
mod invite;
mod job;
mod legal_hold;
mod limit;
mod login;
mod mailbox;
mod manual;
mod node;
mod notice;
mod output;
mod plan;
mod price;
mod prompt;
mod proof;
mod report;
mod request;
mod role;
mod second_factor;
mod server;
mod setting;
mod spending;
mod store;
mod template;
mod webhook;
mod zone;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::base::config::{self, Config};
use client::Client;
use failure::{Exit, Failure};
use login::Named;
use output::{Output, note};

/// A multi-tenant mail hosting server: LMTP and SMTP in, IMAP and POP3 out, each customer's administrators manage
/// their part of the hierarchy and nothing else.
#[derive(Parser, Debug)]
#[command(name = "posthouse", version, max_term_width = 100)]
#[command(
    after_help = "Exit codes: 0 done, 1 other failure, 2 usage, 3 not found, 4 forbidden, 5 conflict, \
    6 over quota or limit, 7 daemon unavailable, 8 partly done, 9 differences (plan --exit-code).\n\
    Secrets come from standard input, a file or a prompt, never from an argument."
)]
struct Arguments {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

/// How the daemon is reached and how results are shown.
#[derive(Args, Debug)]
struct Connection {
    /// The daemon's admin socket [default: posthouse-data/admin.sock, then /run/posthouse/admin.sock]
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "POSTHOUSE_SOCKET",
        hide_env_values = true,
        help_heading = "Connection"
    )]
    socket: Option<PathBuf>,
    /// Act as the owner of the token in this file instead of as this user
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "POSTHOUSE_TOKEN_FILE",
        hide_env_values = true,
        help_heading = "Connection"
    )]
    token_file: Option<PathBuf>,
    /// Act as this administrator (NAME@CODE): asks for the password, and keeps a token for 12 hours
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "POSTHOUSE_LOGIN",
        hide_env_values = true,
        help_heading = "Connection"
    )]
    login: Option<String>,
    /// Read the password for --login from this file instead of asking for it
    #[arg(long, global = true, value_name = "FILE", requires = "login", help_heading = "Connection")]
    login_password_file: Option<PathBuf>,
    /// Read a code of the second factor for --login from this file instead of asking for it
    #[arg(long, global = true, value_name = "FILE", requires = "login", help_heading = "Connection")]
    login_code_file: Option<PathBuf>,
    /// Print JSON: one document, or one object per line for lists
    #[arg(long, global = true, help_heading = "Connection")]
    json: bool,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Set up a self-contained instance in a directory, and serve it; again: just serve it
    Quickstart {
        /// The directory
        #[arg(long, value_name = "DIR", default_value = "posthouse-data")]
        dir: PathBuf,
        /// With a small hierarchy, mailboxes and sample mail
        #[arg(long)]
        demo: bool,
    },
    /// Run the daemon in the foreground
    Serve {
        /// The configuration file; without one, every key has its default
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Check a configuration file
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Customers: the nodes of the hierarchy
    #[command(subcommand)]
    Customer(customer::Command),
    /// Templates: what new customers and mailboxes get
    #[command(subcommand)]
    Template(template::Command),
    /// Domains and alias domains
    #[command(subcommand)]
    Domain(domain::Command),
    /// Mailboxes
    #[command(subcommand)]
    Mailbox(mailbox::Command),
    /// Aliases: addresses that lead to others
    #[command(subcommand)]
    Alias(alias::Command),
    /// Administrators, their grants and tokens
    #[command(subcommand)]
    Admin(administrator::Command),
    /// Invitations: one-time codes with which somebody becomes an administrator
    #[command(subcommand)]
    Invite(invite::Command),
    /// Groups of administrators
    #[command(subcommand)]
    Group(group::Command),
    /// Roles: what can be granted
    #[command(subcommand)]
    Role(role::Command),
    /// Bring customers, domains, mailboxes, aliases and administrators in from a file
    Import(bulk::Import),
    /// Write customers, domains, mailboxes, aliases and administrators as a file for import
    Export(bulk::Export),
    /// Show what differs from a file that says how customers and what they have are to be
    Plan(bulk::Plan),
    /// Make customers and what they have as a file says
    Apply(bulk::Apply),
    /// Who you are to the daemon, and what you may do where
    Whoami,
    /// Notices: what you, or your customers, were told
    #[command(subcommand)]
    Notice(notice::Command),
    /// Prices
    #[command(subcommand)]
    Price(price::Command),
    /// What customers may spend in a month
    #[command(subcommand)]
    Spending(spending::Command),
    /// Requests: ask for what others have to approve, and decide
    #[command(subcommand)]
    Request(request::Command),
    /// Who must approve requests
    #[command(subcommand)]
    Process(request::ProcessCommand),
    /// Reports
    #[command(subcommand)]
    Report(report::Command),
    /// The audit trail
    #[command(subcommand)]
    Audit(report::AuditCommand),
    /// What is changed, as it happens
    #[command(subcommand)]
    Event(event::Command),
    /// Events sent to other systems
    #[command(subcommand)]
    Webhook(webhook::Command),
    /// Where is my mail: each delivery's time, source, size, answer, folder or reason
    Trace(report::Trace),
    /// Mail sessions that are open now
    #[command(subcommand)]
    Session(server::SessionCommand),
    /// Mail stores
    #[command(subcommand)]
    Store(store::Command),
    /// Zones: mail stores and servers over which rights can be granted by themselves
    #[command(subcommand)]
    Zone(zone::Command),
    /// Servers: the daemons that run this instance
    #[command(subcommand)]
    Server(node::ServerCommand),
    /// Quota accounting
    #[command(subcommand)]
    Quota(server::QuotaCommand),
    /// Backups: take them, list, check, try out, remove
    #[command(subcommand)]
    Backup(backup::Command),
    /// Bring everything back into an empty data directory, or a mailbox into the running daemon
    Restore(backup::Restore),
    /// Long work: list it, follow it, end it early
    #[command(subcommand)]
    Job(job::JobCommand),
    /// Print shell completions
    Completions {
        /// The shell
        shell: manual::Shell,
    },
    /// Print the manual page, or write one for every command into a directory
    Man {
        /// Write posthouse.1, posthouse-customer.1 … there
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

#[derive(Subcommand, Debug)]
enum ConfigCommand {
    /// Report every mistake in the file at once, with line numbers
    Check {
        /// The file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

/// What is left to do for who sees all rooms.
#[derive(Debug)]
pub enum Start {
    /// Nothing: the command has been carried out.
    Done(ExitCode),
    /// Run the daemon.
    Serve {
        /// Its configuration.
        config: Box<Config>,
        /// The file that it was read from.
        file: Option<PathBuf>,
    },
    /// Bring everything back from a backup.
    Restore {
        /// The configuration of the installation that is to have it.
        config: Box<Config>,
        /// The directory with the backups, instead of the configured place.
        from: Option<PathBuf>,
        /// As of this time.
        at: Option<String>,
        /// This backup.
        backup: Option<String>,
    },
    /// Fill an empty database from catalogs and packs.
    Rebuild {
        /// The configuration.
        config: Box<Config>,
        /// Only this store.
        store: Option<String>,
        /// Whether it is only to be seen what would come of it.
        dry_run: bool,
        /// Whether the report is JSON.
        json: bool,
    },
    /// Set up an instance and run it.
    Quickstart {
        /// Where.
        dir: PathBuf,
        /// Whether it gets customers, mailboxes and mail to look at.
        demo: bool,
    },
}

/// Understands the command line and carries out what a client can.
pub fn start(arguments: impl IntoIterator<Item = OsString>) -> Start {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors; what cannot be printed has no reader.
            let _ = error.print();
            return Start::Done(if error.use_stderr() { exit(Exit::Usage) } else { ExitCode::SUCCESS });
        }
    };
    match carry_out(arguments) {
        Ok(start) => start,
        Err(failure) => {
            note(&failure);
            Start::Done(exit(failure.exit))
        }
    }
}

/// Tells why the daemon ended, and gives the exit code.
pub fn fail(error: &dyn std::error::Error) -> ExitCode {
    note(format!("posthouse: {error}"));
    exit(Exit::Other)
}

fn exit(code: Exit) -> ExitCode {
    ExitCode::from(code as u8)
}

fn carry_out(arguments: Arguments) -> Result<Start, Failure> {
    let Connection { socket, token_file, login, login_password_file, login_code_file, json } =
        arguments.connection;
    let login =
        login.map(|name| Named { name, password_file: login_password_file, code_file: login_code_file });
    let plan = match arguments.command {
        Command::Quickstart { dir, demo } => return Ok(Start::Quickstart { dir, demo }),
        Command::Serve { config: file } => {
            let config = file.as_deref().map_or_else(|| Ok(Config::default()), load)?;
            return Ok(Start::Serve { config: Box::new(config), file });
        }
        Command::Restore(backup::Restore { command: None, config: Some(file), from, at, backup }) => {
            let config = Box::new(load(&file)?);
            return Ok(Start::Restore { config, from, at, backup });
        }
        Command::Config(ConfigCommand::Check { config }) => {
            load(&config)?;
            note(format!("{}: no mistakes", config.display()));
            return Ok(Start::Done(ExitCode::SUCCESS));
        }
        Command::Store(store::Command::Rebuild { config, store, dry_run }) => {
            let config = Box::new(load(&config)?);
            if let Some(name) =
                store.as_ref().filter(|name| config.stores.iter().all(|one| one.name != **name))
            {
                return Err(Failure::usage(format!("there is no mail store {name} in the configuration")));
            }
            return Ok(Start::Rebuild { config, store, dry_run, json });
        }
        Command::Audit(report::AuditCommand::CheckProof { file, key }) => {
            let code = proof::check_file(&file, key.as_deref(), &Output::new(json))?;
            return Ok(Start::Done(code));
        }
        Command::Completions { shell } => {
            manual::completions(shell, Arguments::command())?;
            return Ok(Start::Done(ExitCode::SUCCESS));
        }
        Command::Man { dir } => {
            manual::pages(dir.as_deref(), Arguments::command())?;
            return Ok(Start::Done(ExitCode::SUCCESS));
        }
        Command::Import(_) | Command::Export(_) | Command::Plan(_) | Command::Apply(_) => {
            let client = Client::new(socket, token_file.as_deref(), login)?;
            return many(arguments.command, &client, &Output::new(json)).map(Start::Done);
        }
        command => plan(command)?,
    };
    let client = Client::new(socket, token_file.as_deref(), login)?;
    let code = plan.carry_out(&client, &Output::new(json))?;
    Ok(Start::Done(code))
}

/// Carries out a command that speaks of many objects.
fn many(command: Command, client: &Client, output: &Output) -> Result<ExitCode, Failure> {
    match command {
        Command::Import(import) => import.carry_out(client, output),
        Command::Export(export) => export.carry_out(client, output),
        Command::Plan(plan) => plan.carry_out(client, output),
        Command::Apply(apply) => apply.carry_out(client, output),
        _ => Err(Failure::usage("this command speaks of one object")),
    }
}

/// What a command asks of the daemon.
fn plan(command: Command) -> Result<plan::Plan, Failure> {
    match command {
        Command::Customer(command) => command.plan(),
        Command::Template(command) => command.plan(),
        Command::Domain(command) => Ok(command.plan()),
        Command::Mailbox(command) => command.plan(),
        Command::Alias(command) => Ok(command.plan()),
        Command::Admin(command) => command.plan(),
        Command::Invite(command) => command.plan(),
        Command::Group(command) => Ok(command.plan()),
        Command::Role(command) => Ok(command.plan()),
        Command::Whoami => Ok(server::whoami()),
        Command::Notice(command) => Ok(command.plan()),
        Command::Price(command) => Ok(command.plan()),
        Command::Spending(command) => command.plan(),
        Command::Request(command) => command.plan(),
        Command::Process(command) => command.plan(),
        Command::Report(command) => Ok(command.plan()),
        Command::Audit(command) => command.plan(),
        Command::Event(command) => Ok(command.plan()),
        Command::Webhook(command) => Ok(command.plan()),
        Command::Trace(command) => Ok(command.plan()),
        Command::Session(command) => Ok(command.plan()),
        Command::Store(command) => command.plan(),
        Command::Zone(command) => Ok(command.plan()),
        Command::Server(command) => Ok(command.plan()),
        Command::Quota(command) => Ok(command.plan()),
        Command::Backup(command) => command.plan(),
        Command::Restore(backup::Restore { command: Some(command), .. }) => Ok(command.plan()),
        Command::Job(command) => Ok(command.plan()),
        Command::Quickstart { .. }
        | Command::Serve { .. }
        | Command::Restore(_)
        | Command::Import(_)
        | Command::Export(_)
        | Command::Plan(_)
        | Command::Apply(_)
        | Command::Config(_)
        | Command::Completions { .. }
        | Command::Man { .. } => Err(Failure::usage("this command asks nothing of the daemon")),
    }
}

fn load(path: &std::path::Path) -> Result<Config, Failure> {
    config::load(path).map_err(|error| {
        let failure = Failure::usage(error.to_string());
        match error {
            config::ConfigError::Mistakes { mistakes, .. } => {
                let things = if mistakes.len() == 1 { "mistake" } else { "mistakes" };
                failure.hint(format!("{} {things}; config/example.toml shows every key", mistakes.len()))
            }
            config::ConfigError::File { .. } => {
                failure.hint("name a file that can be read with --config FILE")
            }
        }
    })
}

#[cfg(test)]
mod tests;
