//! Listening and accepted sockets, TCP and Unix alike.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType, sockopt};

/// The two ends of a connection.
#[derive(Clone, Debug)]
pub(crate) enum Endpoints {
    /// TCP: the client's address and ours.
    Tcp {
        /// The client's address.
        peer: SocketAddr,
        /// The address that it connected to.
        local: SocketAddr,
    },
    /// A Unix socket with this path.
    Unix(Arc<Path>),
}

impl Endpoints {
    /// The client's address, as CLIENT LIST shows it.
    pub(crate) fn peer(&self) -> String {
        match self {
            Self::Tcp { peer, .. } => show(peer),
            Self::Unix(path) => format!("{}:0", path.display()),
        }
    }

    /// Our address, as CLIENT LIST shows it.
    pub(crate) fn local(&self) -> String {
        match self {
            Self::Tcp { local, .. } => show(local),
            Self::Unix(path) => format!("{}:0", path.display()),
        }
    }

    /// Whether the client runs on this machine, as far as addresses tell.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Tcp { peer, .. } => peer.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// Whether it is a Unix socket.
    pub(crate) fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_))
    }
}

fn show(address: &SocketAddr) -> String {
    SocketAddr::new(address.ip().to_canonical(), address.port()).to_string()
}

/// A socket that accepts connections.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: OwnedFd,
    /// The path of a Unix socket, which is removed with the listener.
    path: Option<Arc<Path>>,
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Whoever removed the file before wanted the same.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A listening address that could not be used, and why.
#[derive(Debug)]
pub(crate) struct BindError {
    /// The address as configured.
    pub(crate) address: String,
    /// The system's reason.
    pub(crate) error: io::Error,
    /// Whether the configuration says that this address may be missing.
    pub(crate) optional: bool,
}

impl Listener {
    /// Listens on each of these addresses: a host name or address, `*` for all of IPv4, `::*` for all of IPv6, with a
    /// leading `-` if the address may not exist on this machine. Returns the listeners and the addresses that failed.
    pub(crate) fn bind_all(
        addresses: &[String],
        port: u16,
        backlog: i32,
    ) -> (Vec<Self>, Vec<BindError>) {
        let (mut listeners, mut failed) = (Vec::new(), Vec::new());
        for address in addresses {
            let (optional, host) = match address.strip_prefix('-') {
                Some(host) => (true, host),
                None => (false, address.as_str()),
            };
            match resolve(host, port).and_then(|target| Self::bind(target, backlog)) {
                Ok(listener) => listeners.push(listener),
                Err(error) => {
                    let missing = matches!(
                        Errno::from_io_error(&error),
                        Some(
                            Errno::ADDRNOTAVAIL
                                | Errno::AFNOSUPPORT
                                | Errno::NOPROTOOPT
                                | Errno::PROTONOSUPPORT
                                | Errno::PFNOSUPPORT
                                | Errno::SOCKTNOSUPPORT
                        )
                    );
                    failed.push(BindError {
                        address: host.to_owned(),
                        error,
                        optional: optional && missing,
                    });
                }
            }
        }
        (listeners, failed)
    }

    fn bind(address: SocketAddr, backlog: i32) -> io::Result<Self> {
        let family = if address.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        if address.is_ipv6() {
            sockopt::set_ipv6_v6only(&socket, true)?;
        }
        sockopt::set_socket_reuseaddr(&socket, true)?;
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, backlog)?;
        Ok(Self { socket, path: None })
    }

    /// A handle of a TCP socket for the standard library.
    pub(crate) fn to_tcp(&self) -> io::Result<std::net::TcpListener> {
        Ok(self.socket.try_clone()?.into())
    }

    /// Listens on a Unix socket, replacing a file of that name; `mode` are its permissions, 0 for the default.
    pub(crate) fn bind_unix(path: &Path, mode: u32, backlog: i32) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        // The path was just bound, so from here on it is ours to remove.
        let path: PathBuf = std::path::absolute(path)?;
        let listener = Self {
            socket,
            path: Some(path.clone().into()),
        };
        if mode != 0 {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
        }
        rustix::net::listen(&listener.socket, backlog)?;
        Ok(listener)
    }

    /// Whether it is a Unix socket.
    pub(crate) fn is_unix(&self) -> bool {
        self.path.is_some()
    }

    /// The path, of a Unix socket.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The port, of a TCP socket.
    #[cfg(test)]
    fn port(&self) -> Option<u16> {
        let address = SocketAddr::try_from(rustix::net::getsockname(&self.socket).ok()?).ok()?;
        Some(address.port())
    }

    /// Takes a connection that waits, if any. The socket does not block and sends without delay.
    pub(crate) fn accept(&self) -> io::Result<Option<(OwnedFd, Endpoints)>> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (socket, peer) = match rustix::net::acceptfrom_with(&self.socket, flags) {
            Ok(accepted) => accepted,
            // A connection that was given up before it was taken is none.
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let endpoints = match &self.path {
            Some(path) => Endpoints::Unix(Arc::clone(path)),
            None => {
                let Some(peer) = peer.and_then(to_ip) else {
                    return Ok(None);
                };
                let Some(local) = rustix::net::getsockname(&socket).ok().and_then(to_ip) else {
                    return Ok(None);
                };
                sockopt::set_tcp_nodelay(&socket, true)?;
                Endpoints::Tcp { peer, local }
            }
        };
        Ok(Some((socket, endpoints)))
    }
}

fn to_ip(address: SocketAddrAny) -> Option<SocketAddr> {
    SocketAddr::try_from(address).ok()
}

fn resolve(host: &str, port: u16) -> io::Result<SocketAddr> {
    match host {
        "*" => Ok((IpAddr::V4(Ipv4Addr::UNSPECIFIED), port).into()),
        "::*" => Ok((IpAddr::V6(Ipv6Addr::UNSPECIFIED), port).into()),
        host => {
            let mut found = (host, port).to_socket_addrs()?;
            found
                .next()
                .ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))
        }
    }
}

/// Has the system probe a silent TCP peer after `interval`, and give it up after three probes without an answer.
pub(crate) fn keep_alive(socket: impl AsFd, interval: Duration) -> io::Result<()> {
    let socket = socket.as_fd();
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, interval)?;
    sockopt::set_tcp_keepintvl(socket, (interval / 3).max(Duration::from_secs(1)))?;
    sockopt::set_tcp_keepcnt(socket, 3)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn tcp_connections_are_accepted_with_their_addresses() {
        let (listeners, failed) =
            Listener::bind_all(&["127.0.0.1".into(), "-203.0.113.1".into()], 0, 16);
        assert_eq!((listeners.len(), failed.len()), (1, 1));
        assert!(failed[0].optional);
        assert!(listeners[0].accept().unwrap().is_none());
        let port = listeners[0].port().unwrap();
        let stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (socket, endpoints) = listeners[0].accept().unwrap().unwrap();
        assert_eq!(endpoints.peer(), stream.local_addr().unwrap().to_string());
        assert!(endpoints.is_local() && !endpoints.is_unix());
        keep_alive(&socket, Duration::from_secs(300)).unwrap();
        let (_, failed) = Listener::bind_all(&["127.0.0.1".into()], port, 16);
        assert!(!failed[0].optional);
    }

    #[test]
    fn a_unix_socket_goes_with_its_listener() {
        let path = std::env::temp_dir().join(format!("slabkv-socket-{}", std::process::id()));
        std::fs::write(&path, "left over").unwrap();
        let listener = Listener::bind_unix(&path, 0o700, 16).unwrap();
        let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
        let (socket, endpoints) = listener.accept().unwrap().unwrap();
        assert!(endpoints.is_unix() && endpoints.is_local());
        assert_eq!(endpoints.peer(), format!("{}:0", path.display()));
        rustix::io::write(&socket, b"hi").unwrap();
        let mut bytes = [0; 2];
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hi");
        drop(listener);
        assert!(!path.exists());
    }
}
