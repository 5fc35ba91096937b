use std::collections::BTreeSet;

use super::*;
use crate::service::registry::operations;

/// One command line for every verb that asks something of the daemon, with every option it has.
const COMMANDS: &[&str] = &[
    "zone create east --store one,two --server a --dry-run",
    "zone list",
    "zone show east",
    "zone update east --add-store three --remove-store one --add-server b --remove-server a",
    "zone delete east --yes",
    "admin grant x --role keeper --zone east --delegable",
    "admin revoke x --role keeper --zone east --cascade --yes",
    "customer create a/b --name N --kind K --code AB --domain d.test --admin root --save-token f --contact x@y.test \
     --store main --bytes 1GiB --mailboxes 5 --expires 90d --on-expiry delete --dry-run",
    "customer store a main --allow main,second",
    "customer store a none --allow none --dry-run",
    "customer list a --tree",
    "customer show a",
    "customer rename a --slug b --name N --kind K --contact x@y.test",
    "customer move a --to b --yes",
    "customer suspend a --reason unpaid --switch login --switch send -y",
    "customer resume a --reason unpaid",
    "customer delete a --yes",
    "customer undelete a",
    "customer limit a --bytes 1GiB --messages none --mailboxes 5 --aliases 1 --domains 2 --customers 3 \
     --administrators 4 --guarantee 1MiB --guarantee-mailboxes 2 --overcommit 1.5 --overcommit-mailboxes none",
    "customer hold add a --switch login --reason abuse --yes",
    "customer hold release h1",
    "customer hold list a",
    "domain hold list d.test",
    "mailbox hold add x@d.test --switch imap --reason abuse --yes",
    "mailbox hold list x@d.test",
    "customer create a/c --template small",
    "template create small --customer a --for customer --bytes 1GiB --messages 5 --mailboxes 1 --aliases 1 \
     --domains 1 --customers 1 --administrators 1 --store main --set time_zone=UTC --lock service.pop3=off",
    "template list --customer a",
    "template show small --customer a",
    "template update small --customer a --bytes 1GiB --dry-run",
    "template delete small --customer a --yes",
    "customer legal-hold add a --reason case-7 --dry-run",
    "domain legal-hold add d.test --reason case-7",
    "mailbox legal-hold add x@d.test --reason case-7",
    "customer legal-hold release h1 --yes",
    "customer legal-hold list",
    "customer legal-hold list a",
    "customer settings list a",
    "customer settings get a time_zone",
    "customer settings set a time_zone Europe/Vienna --dry-run",
    "customer settings unset a time_zone",
    "customer settings lock a time_zone Europe/Vienna",
    "customer settings unlock a time_zone",
    "domain settings list d.test",
    "mailbox settings set x@d.test service.pop3 off",
    "domain create d.test --customer a",
    "domain list --customer a",
    "domain show d.test --customer a",
    "domain confirm d.test --customer a --displace",
    "domain dns d.test --customer a",
    "domain verify d.test --customer a",
    "domain alias e.test --of d.test --customer a",
    "domain catch-all d.test x@d.test --customer a",
    "domain limit d.test --bytes 1GiB --messages 5 --mailbox-default none --customer a",
    "domain move d.test --to b --customer a --yes",
    "domain withdraw d.test --customer a",
    "domain accept d.test --customer b --dry-run",
    "domain delete d.test --customer a --yes",
    "domain undelete d.test --customer a",
    "mailbox create x@d.test --quota 1GiB --messages 5 --name N --store main --customer a --no-password",
    "mailbox list --domain d.test --customer a",
    "mailbox list --customer a",
    "mailbox show x@d.test",
    "mailbox logins x@d.test --since 7d",
    "mailbox quota x@d.test 2GiB --messages 5",
    "mailbox suspend x@d.test --reason abuse --yes",
    "mailbox resume x@d.test --reason abuse",
    "mailbox invite x@d.test --save-code f --dry-run",
    "mailbox uninvite x@d.test --yes",
    "mailbox rename x@d.test y@d.test --name Anna",
    "mailbox move x@d.test --store second --detach",
    "mailbox delete x@d.test --yes",
    "mailbox undelete x@d.test",
    "mailbox undelete x@d.test --as y@d.test",
    "mailbox deleted x@d.test --folder A --since 2d --until 1d",
    "mailbox undelete-messages x@d.test --folder A --uids 1,2 --since 2d --until 1d --into B --dry-run",
    "mailbox undelete-folder x@d.test A --into B --detach",
    "alias create all@d.test x@d.test y@d.test --customer a",
    "alias list --domain d.test",
    "alias list --customer a",
    "alias set all@d.test x@d.test",
    "alias delete all@d.test --yes",
    "import customers.csv --format csv --customer a --type mailboxes --passwords set --codes f --dry-run",
    "admin create anna --customer a --role admin --contact x@y.test --delegable --expires 30d",
    "admin list --customer a",
    "admin grant anna --role viewer --customer a --expires 30d --delegable",
    "admin show anna",
    "admin revoke anna --role viewer --customer a --yes",
    "admin effective anna a",
    "admin grants --customer a --made-by anna",
    "invite create x@d.test --customer a --name anna --role viewer --role billing --delegable --expires 30d \
     --save-code f --dry-run",
    "invite list --customer a",
    "invite show i1",
    "invite revoke i1 --yes",
    "group create ops --customer a",
    "group list --customer a",
    "group show ops",
    "group add ops anna",
    "group remove ops anna --yes",
    "group grant ops --role viewer --customer a --not-before 1d --expires 30d --delegable",
    "group revoke ops --role viewer --customer a --cascade --yes",
    "group delete ops --yes",
    "role create post --customer a --base manager --allow mailbox.create,mailbox.read",
    "role list --customer a",
    "role show post",
    "role update post --base admin --allow mailbox.read --add mailbox.create --remove mailbox.read",
    "role delete post --yes",
    "customer ceiling set a --role viewer --allow mailbox.create",
    "customer ceiling clear a",
    "customer ceiling show a",
    "admin enable anna",
    "admin disable anna --yes",
    "admin delete anna --yes",
    "admin undelete x",
    "admin second-factor enrol --dry-run",
    "admin second-factor recovery-codes --save-codes f",
    "admin second-factor remove --yes",
    "admin second-factor reset anna --yes",
    "admin token create anna --label ci --expires 90d --permission mailbox.read --network 192.0.2.0/24",
    "admin token list anna",
    "admin token revoke t1 --yes",
    "whoami",
    "notice list --customer a",
    "notice list --unread",
    "request create customer.limit path=a bytes=2GiB --reason more --dry-run",
    "request list --customer a --to-approve --open",
    "request list --mine",
    "request show r1",
    "request approve r1 --dry-run",
    "request reject r1 --reason no --yes",
    "request withdraw r1 --yes",
    "process show a",
    "process set a role:manager role:admin@b group:ops@code admin:anna@code --dry-run",
    "process delete a --yes",
    "customer expire a 90d --on-expiry disable-login,delete+30d --dry-run",
    "mailbox expire x@d.test none",
    "admin expire anna 2030-01-01T00:00:00Z",
    "notice read n1",
    "report quota --domain d.test --customer a --over 80 --format csv",
    "report quota --customer a",
    "report usage --customer a --month 2026-11 --format csv",
    "report bill --customer a --month 2026-11 --format csv",
    "price set a --from 2026-12 --currency EUR --gib-month 10 --mailbox-month 100 --messages 5 --dry-run",
    "price show a --month 2026-11",
    "price list --customer a",
    "spending set a 50000 --currency EUR --on-limit disable-login,delete+10d --dry-run",
    "spending list --customer a",
    "report storage --customer a --format csv",
    "audit search --customer a --mine --since 2d --until 1d --actor x --operation mailbox. --target t --text u \
     --outcome done --limit 5",
    "audit export --customer a --mine --since 2d --until 1d --operation mailbox. --outcome done",
    "audit prove r1",
    "event watch --customer a --kind mailbox. --kind customer.create --since 2d",
    "event watch --cursor c",
    "webhook create https://x.test/ --customer a --kind mailbox. --kind customer.create --dry-run",
    "webhook list --customer a",
    "webhook show w1",
    "webhook test w1 --detach",
    "webhook enable w1 --from-now --dry-run",
    "webhook delete w1 --yes",
    "trace x@d.test --customer a --since 1d --limit 5",
    "trace <id@x>",
    "session list --mailbox x@d.test",
    "session list --customer a",
    "session list --domain d.test",
    "session close x@d.test --yes",
    "session close s1 --yes",
    "store list",
    "store show main",
    "store show main --probe",
    "store create fast --path /fast compression.level=3 offload.access_key=file:/k --dry-run",
    "store set fast compression.level= offload.bucket=mail --dry-run",
    "store stop fast",
    "store read-only fast",
    "store start fast --read-only --force --detach",
    "store pack --detach",
    "store offload fast --detach",
    "store compact fast",
    "store verify fast --sample 10",
    "store verify fast --all",
    "store drain main --to second --detach",
    "job list --customer a --open --limit 5",
    "job show j1",
    "job watch j1",
    "job cancel j1 --yes",
    "server list",
    "server show",
    "server show node1",
    "server history node1 --since 6h",
    "server restart node1 --dry-run",
    "server restart --detach",
    "server stop node1 --yes",
    "quota verify --customer a --repair",
    "backup create /tmp/x --dry-run",
    "backup list /tmp/x",
    "backup show b1",
    "backup verify /tmp/x --id b1 --detach",
    "backup prune /tmp/x --dry-run",
    "backup prune --yes",
    "backup test /tmp/x --id b1 --bodies 5",
    "restore mailbox x@d.test --at 2d --folder A --into B --dry-run",
    "restore mailbox x@d.test --backup b1 --detach",
    "audit verify --customer a",
];

fn call(line: &str) -> client::Call {
    let words = std::iter::once("posthouse").chain(line.split_whitespace());
    let arguments = Arguments::try_parse_from(words).unwrap_or_else(|error| panic!("{line}\n{error}"));
    if let Command::Import(import) = &arguments.command {
        return import.call();
    }
    plan(arguments.command).unwrap_or_else(|failure| panic!("{line}\n{failure}")).call().clone()
}

#[test]
fn command_line_is_sound() {
    Arguments::command().debug_assert();
}

/// What a command sends is what its operation is declared to take.
#[test]
fn every_command_speaks_of_an_operation_and_its_fields() {
    let mut wrong = Vec::new();
    for line in COMMANDS {
        let call = call(line);
        let Some(operation) = crate::service::registry::operation(call.operation) else {
            wrong.push(format!("{line}: no operation {}", call.operation));
            continue;
        };
        let schema = serde_json::to_value((operation.request)().schema).unwrap();
        let has =
            |field: &str| schema.pointer("/properties").is_some_and(|fields| fields.get(field).is_some());
        let unknown: Vec<&str> = call.fields.keys().map(String::as_str).filter(|field| !has(field)).collect();
        if !unknown.is_empty() {
            wrong.push(format!("{line}: {} has no {unknown:?}", operation.name));
        }
        for name in operation.path_parameters() {
            if !call.fields.contains_key(name) {
                wrong.push(format!("{line}: {} needs {name}", operation.name));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Commands that read a secret need a terminal or a file, so they are not in the list above.
#[test]
fn every_operation_has_a_command() {
    let mut reached: BTreeSet<&str> = COMMANDS.iter().map(|line| call(line).operation).collect();
    reached.extend([
        "mailbox.password",
        "administrator.password",
        "invitation.accept",
        "mailbox.set-password",
        "second-factor.confirm",
    ]);
    let missing: Vec<&str> =
        operations().iter().map(|operation| operation.name).filter(|name| !reached.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
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
        "customer limit a --mailboxes -1",
        "completions tcsh",
    ] {
        let words = std::iter::once("posthouse").chain(line.split_whitespace());
        assert!(Arguments::try_parse_from(words).is_err(), "{line}");
    }
    for line in [
        "customer limit a",
        "store set main",
        "store set main level",
        "store set main offload.secret_key=hunter2",
        "store set main compression.level=1 compression.level=2",
    ] {
        let words = std::iter::once("posthouse").chain(line.split_whitespace());
        let arguments = Arguments::try_parse_from(words).unwrap();
        let exit = plan(arguments.command).err().map(|failure| failure.exit);
        assert_eq!(exit, Some(Exit::Usage), "{line}");
    }
}
