//! Listening and accepted sockets, TCP and Unix alike.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

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
    pub(crate) fn peer(&self) -> impl fmt::Display {
        Shown {
            endpoints: self.clone(),
            local: false,
        }
    }

    /// Our address, as CLIENT LIST shows it.
    pub(crate) fn local(&self) -> impl fmt::Display {
        Shown {
            endpoints: self.clone(),
            local: true,
        }
    }

    /// Whether the client runs on this machine, as far as addresses tell.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Tcp { peer, .. } => peer.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

struct Shown {
    endpoints: Endpoints,
    local: bool,
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.endpoints {
            Endpoints::Tcp { peer, local } => {
                let address = if self.local { local } else { peer };
                write!(
                    f,
                    "{}",
                    SocketAddr::new(address.ip().to_canonical(), address.port())
                )
            }
            Endpoints::Unix(path) if self.local => write!(f, "{}:0", path.display()),
            Endpoints::Unix(path) => write!(f, "{}:0", path.display()),
        }
    }
}
