//! How fast files of mailboxes are imported with the command line, and what limits on the way up cost.

use std::fmt::Write as _;
use std::time::Instant;

use super::report::{Better, Figure};
use super::support::programs::write;
use super::{Bench, HASH, Options, memory};

/// Mailboxes of each file.
const ROWS: usize = 10_000;
/// Mailboxes of the file with passwords that the daemon has to hash.
const PASSWORDS: usize = 400;
/// More of anything than there is.
const PLENTY: &str = "100000000";
/// What the table does not say by itself.
pub const EXPLAINED: &str = "Files are imported by `posthouse import`, reading them included, into a customer deep in \
    the hierarchy; `limits` means that it and every customer above it has limits on octets, messages, mailboxes, \
    aliases, domains and administrators.";

/// The form of a file.
#[derive(Clone, Copy)]
enum Form {
    Csv,
    Jsonl,
}

/// Where the owners' passwords come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Password {
    Hash,
    /// A code with which the owner sets it.
    Code,
    Plain,
}

struct File {
    form: Form,
    password: Password,
    /// What tells its addresses from those of the others.
    name: &'static str,
    rows: usize,
}

impl File {
    /// The mailboxes in `domain`.
    fn text(&self, domain: &str) -> String {
        let mut text = String::new();
        if let Form::Csv = self.form {
            text.push_str("type,address,name,quota,password,password_hash\n");
        }
        for number in 0..self.rows {
            let address = format!("{}{number}@{domain}", self.name);
            let name = format!("Person {number}");
            let (password, hash) = match self.password {
                Password::Hash => (String::new(), HASH),
                Password::Code => (String::new(), ""),
                Password::Plain => (format!("a long word {number}"), ""),
            };
            match self.form {
                Form::Csv => {
                    let hash = if hash.is_empty() { String::new() } else { format!("\"{hash}\"") };
                    writeln!(text, "mailbox,{address},{name},1GiB,{password},{hash}").ok();
                }
                Form::Jsonl => {
                    let mut row = serde_json::json!({ "type": "mailbox", "address": address, "name": name,
                                                      "quota": 1_073_741_824 });
                    if self.password == Password::Hash {
                        row["password_hash"] = hash.into();
                    }
                    writeln!(text, "{row}").ok();
                }
            }
        }
        text
    }
}

impl Bench {
    /// Imports files into a domain of a customer that is deep in the hierarchy.
    pub fn import(&mut self, options: Options) {
        let number = options.mailboxes / 20;
        let domain = format!("d{number}.example");
        let hashes = |form, name| File { form, password: Password::Hash, name, rows: ROWS };
        self.import_file("import of CSV, with hashes", &domain, &hashes(Form::Csv, "one"));
        self.import_file("import of JSON lines, with hashes", &domain, &hashes(Form::Jsonl, "two"));
        self.limit(number);
        self.import_file("import of CSV, with hashes, limits", &domain, &hashes(Form::Csv, "three"));
        self.import_file("import of JSON lines, with hashes, limits", &domain, &hashes(Form::Jsonl, "four"));
        let codes = File { form: Form::Csv, password: Password::Code, name: "five", rows: ROWS };
        self.import_file("import of CSV, with codes for the owners, limits", &domain, &codes);
        let plain = File { form: Form::Csv, password: Password::Plain, name: "six", rows: PASSWORDS };
        self.import_file("import of CSV, with passwords to hash, limits", &domain, &plain);
        self.add("memory after the imports", "MiB", Better::Lower, memory(&self.daemon, "VmRSS"));
    }

    /// Gives the customer and all above it limits on everything.
    fn limit(&mut self, number: usize) {
        let shown = self.daemon.api("GET", &format!("/v1/customers/k{number}"), None).json();
        let path = shown["path"].as_str().expect("a path");
        let parts: Vec<&str> = path.split('/').collect();
        let mut paths: Vec<String> = (1..=parts.len()).map(|count| parts[..count].join("/")).collect();
        paths.insert(0, "/".to_owned());
        println!("limits at {} customers", paths.len());
        let started = Instant::now();
        for path in paths {
            let mut arguments = vec!["customer", "limit", &path, "--bytes", "1000TiB"];
            for what in
                ["--messages", "--mailboxes", "--aliases", "--domains", "--customers", "--administrators"]
            {
                arguments.extend([what, PLENTY]);
            }
            self.daemon.posthouse(&arguments).ok();
        }
        println!("limits set in {:.1} s", started.elapsed().as_secs_f64());
    }

    /// Tries a file, imports it, and imports it again.
    fn import_file(&mut self, workload: &str, domain: &str, file: &File) {
        let extension = match file.form {
            Form::Csv => "csv",
            Form::Jsonl => "jsonl",
        };
        let path = self.daemon.dir().join(format!("{}.{extension}", file.name));
        write(&path, file.text(domain));
        let path = path.display().to_string();
        let codes = self.daemon.dir().join(format!("{}-codes.csv", file.name)).display().to_string();
        let with_codes = ["--codes", codes.as_str()];
        let asked = if file.password == Password::Code { &with_codes[..] } else { &[] };
        for (what, more) in [("dry run", &["--dry-run"][..]), ("", asked), ("again", &[])] {
            let arguments = [&["import", &path][..], more].concat();
            let started = Instant::now();
            self.daemon.posthouse(&arguments).ok();
            let rate = file.rows as f64 * 60.0 / started.elapsed().as_secs_f64();
            let workload = if what.is_empty() { workload.to_owned() } else { format!("{workload}, {what}") };
            self.add(&workload, "mailboxes a minute", Better::Higher, rate);
            if what.is_empty() && file.password == Password::Plain {
                let cores = std::thread::available_parallelism().map_or(1, usize::from);
                let unit = "mailboxes a minute and core";
                self.table.add(0, Figure::new(&workload, unit, Better::Higher, rate / cores as f64));
            }
        }
    }
}
