//! The admin socket: HTTP and JSON over the registry of operations.
