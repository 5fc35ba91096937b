//! Whatever is linked into the program, builds it or tests it may be passed on with it.

use std::process::Command;

use super::root;

/// Licences that ask for no more than that their text goes along (SPDX names).
const PERMISSIVE: [&str; 12] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Packages with a licence of their own kind, each looked at.
const LOOKED_AT: [(&str, &str); 1] = [
    // The certificate authorities' data: permissive, for data.
    ("webpki-roots", "CDLA-Permissive-2.0"),
];

/// Whether an SPDX expression leaves a choice of permissive licences alone. `/` is the old way to write OR.
fn is_permissive(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    either(&mut words) == Some(true) && words.next().is_none()
}

type Words<'a, 'w> = &'a mut std::iter::Peekable<std::str::SplitWhitespace<'w>>;

/// Alternatives: OR binds weaker than AND (SPDX specification, annex D.4).
fn either(words: Words<'_, '_>) -> Option<bool> {
    let mut permissive = all(words)?;
    while words.next_if_eq(&"OR").is_some() {
        permissive |= all(words)?;
    }
    Some(permissive)
}

fn all(words: Words<'_, '_>) -> Option<bool> {
    let mut permissive = one(words)?;
    while words.next_if_eq(&"AND").is_some() {
        permissive &= one(words)?;
    }
    Some(permissive)
}

fn one(words: Words<'_, '_>) -> Option<bool> {
    let first = words.next()?;
    if first == "(" {
        let inner = either(words)?;
        return (words.next()? == ")").then_some(inner);
    }
    let mut name = first.to_owned();
    if words.next_if_eq(&"WITH").is_some() {
        name = format!("{name} WITH {}", words.next()?);
    }
    Some(PERMISSIVE.contains(&name.as_str()))
}

/// Every package that this machine builds for the program and its tests, with its licence, as cargo knows it from the
/// packages' own manifests. Nothing is fetched: what was built is here.
#[test]
fn every_dependency_has_a_permissive_licence() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--edges", "normal,build,dev", "--prefix", "none"])
        .args(["--format", "{p}\t{l}", "--manifest-path"])
        .arg(root().join("Cargo.toml"))
        .output()
        .expect("cargo tree");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let list = String::from_utf8(output.stdout).expect("UTF-8");
    let mut packages = 0;
    let mut refused = Vec::new();
    for line in list.lines() {
        let (package, licence) = line.split_once('\t').expect("package and licence");
        let licence = licence.trim_end_matches(" (*)");
        let name = package.split(' ').next().unwrap_or(package);
        packages += 1;
        if !is_permissive(licence) && !LOOKED_AT.contains(&(name, licence)) {
            refused.push(format!("{package}: {licence}"));
        }
    }
    assert!(packages > 100, "only {packages} packages");
    refused.sort();
    refused.dedup();
    assert!(refused.is_empty(), "not on the list of permissive licences:\n{}", refused.join("\n"));
}

#[test]
fn expressions_are_read_as_spdx_says() {
    for permissive in [
        "MIT",
        "MIT/Apache-2.0",
        "GPL-3.0-only OR MIT",
        "(MIT OR GPL-2.0-only) AND Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception OR Apache-2.0",
        "GPL-2.0-only AND ISC OR MIT",
    ] {
        assert!(is_permissive(permissive), "{permissive}");
    }
    for refused in [
        "",
        "AGPL-3.0-only",
        "MIT AND GPL-3.0-only",
        "(MIT",
        "MIT)",
        "MIT OR",
        "Apache-2.0 WITH x",
        "MIT Zlib",
    ] {
        assert!(!is_permissive(refused), "{refused}");
    }
}
