//! Bound sockets. They outlive those who accept on them: while nobody does, connections wait in the kernel's backlog,
//! and whoever is handed the descriptor goes on where the other left off.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use socket2::{Domain, Socket, Type};

use super::listen::Listener;
use crate::base::endpoint::Endpoint;

/// Connections that the kernel holds for us while we are busy or hand over.
const BACKLOG: i32 = 1024;

/// A bound socket. Dropped, it takes the file of a Unix socket with it, if that is its own.
pub struct Bound {
    socket: OwnedFd,
    endpoint: Endpoint,
    owns_file: bool,
}

impl Bound {
    /// Binds `endpoint`. A Unix socket file left by a process that is gone is replaced; one that answers is not.
    ///
    /// # Errors
    /// The system's error; `AddrInUse` when something listens there.
    pub fn bind(endpoint: &Endpoint) -> io::Result<Self> {
        match endpoint {
            Endpoint::Tcp(address) => {
                let (socket, address) = bind_tcp(*address)?;
                Ok(Self { socket, endpoint: Endpoint::Tcp(address), owns_file: false })
            }
            Endpoint::Unix { path, mode } => {
                let socket = bind_unix(path, *mode)?;
                Ok(Self { socket, endpoint: endpoint.clone(), owns_file: true })
            }
        }
    }

    /// Takes over a socket that listens at `endpoint`. The file of a Unix socket gets the permissions of `endpoint`; it
    /// belongs to whoever bound it until [`Self::own`].
    ///
    /// # Errors
    /// The system's error.
    pub fn inherited(socket: OwnedFd, endpoint: Endpoint) -> io::Result<Self> {
        if let Endpoint::Unix { path, mode } = &endpoint {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(*mode))?;
        }
        Ok(Self { socket, endpoint, owns_file: false })
    }

    /// From now on the file goes with this.
    pub fn own(&mut self) {
        self.owns_file = matches!(self.endpoint, Endpoint::Unix { .. });
    }

    /// From now on the file is somebody else's.
    pub fn leave(&mut self) {
        self.owns_file = false;
    }

    /// Where it listens, with the port that was taken.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Its descriptor, to be handed to a successor.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Somebody who accepts on it. Needs tokio's runtime.
    ///
    /// # Errors
    /// The system's error.
    pub fn listener(&self) -> io::Result<Listener> {
        Listener::new(self.socket.try_clone()?, self.endpoint.clone())
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let (true, Endpoint::Unix { path, .. }) = (self.owns_file, &self.endpoint) {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<(OwnedFd, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // A start must not wait for connections in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let taken = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok((socket.into(), taken))
}

fn bind_unix(path: &Path, mode: u32) -> io::Result<OwnedFd> {
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
        && std::os::unix::net::UnixStream::connect(path).is_err()
    {
        std::fs::remove_file(path)?;
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(listener.into())
}
