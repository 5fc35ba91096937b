//! The roof: builds the rooms, binds listeners, drains on shutdown.
