//! What happens, one step after the other.

use super::*;

/// What object storage does meanwhile, to so many requests.
pub(super) type Trouble = Option<(Wrong, u64)>;

/// Mailboxes are given by their place, messages picked by a mask of theirs.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// To the mailboxes of the mask.
    Deliver {
        to: u8,
        attachment: Option<usize>,
        octets: usize,
    },
    Append {
        mailbox: usize,
    },
    Copy {
        mailbox: usize,
        mask: u8,
    },
    Expunge {
        mailbox: usize,
        mask: u8,
    },
    Undelete {
        mailbox: usize,
    },
    /// What was expunged cannot come back any more.
    Expire,
    /// A mailbox is deleted for good, and a new one takes its place.
    Purge {
        mailbox: usize,
    },
    Pack,
    Offload(Trouble),
    Compact(Trouble),
    /// Cold, as after a start with an empty cache.
    Read(Trouble),
    /// Files and objects of superseded packs go.
    CleanUp,
    /// The mailbox is placed on the other mail store; its bodies are still where they were.
    Place {
        mailbox: usize,
    },
    /// A domain moves to the other customer; the bodies of its mailboxes are still those of the old one.
    GiveAway {
        domain: usize,
    },
    /// The bodies of a mailbox are brought to where they belong.
    Home {
        mailbox: usize,
    },
    /// The daemon ends meanwhile.
    CrashHoming {
        mailbox: usize,
        point: u8,
    },
    /// A large message is on disk, and the daemon ends before the database knows it.
    CrashDelivering,
    CrashPacking(u8),
    CrashOffloading(u8),
    CrashCompacting(u8),
}

fn trouble() -> impl Strategy<Value = Trouble> {
    let wrong = prop_oneof![
        Just(Wrong::Outage),
        Just(Wrong::Status(500)),
        Just(Wrong::Status(503)),
        Just(Wrong::Status(403)),
        Just(Wrong::Slow(Duration::from_millis(10))),
        Just(Wrong::Reset),
        Just(Wrong::Truncated),
        Just(Wrong::Flipped),
        Just(Wrong::WholeObject),
        Just(Wrong::NotStored),
    ];
    prop::option::of((wrong, 1..4_u64))
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let mailbox = || 0..HOMES.len();
    let octets = prop_oneof![8 => 0..2_000_usize, 2 => 20_000..90_000_usize, 1 => Just(LARGE_OCTETS)];
    prop_oneof![
        10 => (1..8_u8, prop::option::of(0..ATTACHMENTS), octets)
            .prop_map(|(to, attachment, octets)| Step::Deliver { to, attachment, octets }),
        2 => mailbox().prop_map(|mailbox| Step::Append { mailbox }),
        2 => (mailbox(), any::<u8>()).prop_map(|(mailbox, mask)| Step::Copy { mailbox, mask }),
        6 => (mailbox(), any::<u8>()).prop_map(|(mailbox, mask)| Step::Expunge { mailbox, mask }),
        3 => mailbox().prop_map(|mailbox| Step::Undelete { mailbox }),
        2 => Just(Step::Expire),
        1 => mailbox().prop_map(|mailbox| Step::Purge { mailbox }),
        6 => Just(Step::Pack),
        4 => trouble().prop_map(Step::Offload),
        3 => trouble().prop_map(Step::Compact),
        2 => trouble().prop_map(Step::Read),
        3 => Just(Step::CleanUp),
        2 => mailbox().prop_map(|mailbox| Step::Place { mailbox }),
        2 => (0..DOMAINS.len()).prop_map(|domain| Step::GiveAway { domain }),
        3 => mailbox().prop_map(|mailbox| Step::Home { mailbox }),
        2 => (mailbox(), 1..=HOMING_POINTS).prop_map(|(mailbox, point)| Step::CrashHoming { mailbox, point }),
        1 => Just(Step::CrashDelivering),
        2 => (1..=PACKER_POINTS).prop_map(Step::CrashPacking),
        3 => (1..=OFFLOADER_POINTS).prop_map(Step::CrashOffloading),
        2 => (1..=OFFLOADER_POINTS).prop_map(Step::CrashCompacting),
    ]
}
