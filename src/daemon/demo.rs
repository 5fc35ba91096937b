//! The sample mail of `quickstart --demo`: small, varied, and about the product.

/// A message of the demo: who it is for, and its text with LF line ends.
pub(super) struct Sample {
    pub(super) to: &'static str,
    pub(super) text: &'static str,
}

/// Customers of the demo: path, name, kind, domain.
pub(super) const CUSTOMERS: &[(&str, &str, &str, Option<&str>)] = &[
    ("gov", "Government", "government", None),
    ("gov/health", "Ministry of Health", "department", Some("health.example")),
    ("gov/works", "Public Works", "department", Some("works.example")),
];

/// Mailboxes of the demo: address, name, limit.
pub(super) const MAILBOXES: &[(&str, &str, &str)] = &[
    ("anna@health.example", "Anna Berg", "1GiB"),
    ("records@health.example", "Records Office", "5GiB"),
    ("omar@works.example", "Omar Haddad", "1GiB"),
];

pub(super) const SAMPLES: &[Sample] = &[
    Sample {
        to: "anna@health.example",
        text: "From: Omar Haddad <omar@works.example>\nTo: Anna Berg <anna@health.example>\n\
               Subject: Welcome to Posthouse\nDate: Sun, 22 Nov 2026 08:00:00 +0000\n\
               Message-ID: <welcome@works.example>\nMIME-Version: 1.0\n\
               Content-Type: text/plain; charset=utf-8\n\n\
               Good morning Anna,\n\nthis mailbox lives on your own machine. Read it with any IMAP or POP3 client;\n\
               what you flag, move or delete here shows at once in every other session.\n\nOmar\n",
    },
    Sample {
        to: "anna@health.example",
        text: "From: =?utf-8?q?B=C3=BCro_f=C3=BCr_Akten?= <records@health.example>\n\
               To: anna@health.example\nSubject: =?utf-8?q?Aktenplan_f=C3=BCr_den_Umzug?=\n\
               Date: Sun, 22 Nov 2026 08:30:00 +0100\nMessage-ID: <plan@health.example>\nMIME-Version: 1.0\n\
               Content-Type: multipart/mixed; boundary=\"parts\"\n\n--parts\n\
               Content-Type: multipart/alternative; boundary=\"forms\"\n\n--forms\n\
               Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n\
               Der Plan liegt bei. Gr=C3=BC=C3=9Fe aus dem Archiv.\n--forms\n\
               Content-Type: text/html; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n\
               <p>Der <b>Plan</b> liegt bei. Gr=C3=BC=C3=9Fe aus dem Archiv.</p>\n--forms--\n--parts\n\
               Content-Type: text/csv; name=\"plan.csv\"\nContent-Disposition: attachment; filename=\"plan.csv\"\n\
               Content-Transfer-Encoding: base64\n\ncm9vbSxib3hlcwpBMTIsNDAKQTEzLDE3Cg==\n--parts--\n",
    },
    Sample {
        to: "omar@works.example",
        text: "From: Anna Berg <anna@health.example>\nTo: omar@works.example\nSubject: Re: Welcome to Posthouse\n\
               Date: Sun, 22 Nov 2026 09:15:00 +0000\nMessage-ID: <thanks@health.example>\n\
               In-Reply-To: <welcome@works.example>\nMIME-Version: 1.0\n\
               Content-Type: text/plain; charset=us-ascii\n\nThank you, it arrived before I had closed the window.\n",
    },
    Sample {
        to: "records@health.example",
        text: "From: Omar Haddad <omar@works.example>\nTo: records@health.example\nSubject: Keys for room A12\n\
               Date: Sun, 22 Nov 2026 10:00:00 +0000\nMessage-ID: <keys@works.example>\nMIME-Version: 1.0\n\
               Content-Type: text/plain; charset=us-ascii\n\nThey are at the porter's desk until noon.\n",
    },
];
