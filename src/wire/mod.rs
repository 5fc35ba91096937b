//! What the protocols share: listening, lines, SASL.
