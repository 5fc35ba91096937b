-- All mailboxes of a domain, deleted ones too: what adds up use asks for them.
-- The folder migrations/sqlite holds the same index under the same number and name.
CREATE INDEX mailbox_domain ON mailbox (domain_id);
