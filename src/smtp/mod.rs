//! SMTP receiving (RFC 5321) and LMTP (RFC 2033).
