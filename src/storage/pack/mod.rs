//! Packs: immutable files of compressed bodies.
