//! The house rules that can be a test.
