use super::*;

/// One command line for every verb that asks something of the daemon, with every option it has.
const COMMANDS: &[&str] = &[
    "customer create a/b --name N --kind K --domain d.test --admin root --dry-run",
    "customer list a --tree",
    "customer show a",
    "customer rename a --slug b --name N --kind K --contact x@y.test",
    "customer move a --to b --yes",
    "customer suspend a --reason unpaid -y",
    "customer resume a --reason unpaid",
    "customer delete a --yes",
    "customer undelete a",
    "customer limit a --bytes 1GiB --messages none --mailboxes 5 --aliases 1 --domains 2 --customers 3 \
     --administrators 4",
    "customer hold add a --switch login --reason abuse --yes",
    "customer hold release a h1",
    "customer hold list a",
    "domain create d.test --customer a",
    "domain list --customer a",
    "domain show d.test",
    "domain confirm d.test",
    "domain alias e.test --of d.test",
    "domain catch-all d.test x@d.test",
    "domain limit d.test --bytes 1GiB --messages 5 --mailbox-default none",
    "domain delete d.test --yes",
    "domain undelete d.test",
    "mailbox list --domain d.test",
    "mailbox list --customer a",
    "mailbox show x@d.test",
    "mailbox quota x@d.test 2GiB --messages 5",
    "mailbox suspend x@d.test --reason abuse --yes",
    "mailbox resume x@d.test --reason abuse",
    "mailbox rename x@d.test y@d.test --name N",
    "mailbox delete x@d.test --yes",
    "mailbox undelete x@d.test",
    "alias create all@d.test x@d.test y@d.test",
    "alias list --domain d.test",
    "alias list --customer a",
    "alias delete all@d.test --yes",
    "admin create anna --customer a --role admin --contact x@y.test",
    "admin list --customer a",
    "admin grant anna --role viewer --customer a --expires 30d --delegable",
    "admin revoke anna --role viewer --customer a --yes",
    "admin effective anna a",
    "admin enable anna",
    "admin disable anna --yes",
    "admin delete anna --yes",
    "admin token create anna --label ci --expires 90d",
    "admin token list anna",
    "admin token revoke anna t1 --yes",
    "whoami",
    "report quota --domain d.test --over 80 --format csv",
    "report quota --customer a",
    "audit search --customer a --mine --since 2d --until 1d --actor x --operation mailbox. --target t --text u \
     --outcome done --limit 5",
    "trace x@d.test --since 1d --limit 5",
    "trace <id@x>",
    "session list --mailbox x@d.test --customer a",
    "session close x@d.test --yes",
    "session close s1 --yes",
    "store list",
    "store show main",
    "quota verify --customer a --repair",
    "backup /tmp/x --dry-run",
];

fn call(line: &str) -> client::Call {
    let words = std::iter::once("posthouse").chain(line.split_whitespace());
    let arguments = Arguments::try_parse_from(words).unwrap_or_else(|error| panic!("{line}\n{error}"));
    plan(arguments.command).unwrap_or_else(|failure| panic!("{line}\n{failure}")).call().clone()
}

#[test]
fn command_line_is_sound() {
    Arguments::command().debug_assert();
}

#[test]
fn every_command_line_is_understood() {
    for line in COMMANDS {
        assert!(!call(line).operation.is_empty(), "{line}");
    }
}

#[test]
fn wrong_command_lines_are_refused() {
    for line in [
        "",
        "mailbox",
        "mailbox create",
        "mailbox create x@d.test --quota lots --password-stdin",
        "mailbox create x@d.test --password-stdin --password-file f",
        "mailbox create x@d.test --password secret",
        "report quota",
        "report quota --domain d --customer c",
        "customer limit a --mailboxes -1",
        "completions tcsh",
    ] {
        let words = std::iter::once("posthouse").chain(line.split_whitespace());
        assert!(Arguments::try_parse_from(words).is_err(), "{line}");
    }
    let words = ["posthouse", "customer", "limit", "a"];
    let arguments = Arguments::try_parse_from(words).unwrap();
    assert_eq!(plan(arguments.command).err().map(|failure| failure.exit), Some(Exit::Usage));
}
