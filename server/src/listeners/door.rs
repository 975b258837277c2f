//! Sockets of a service of its own, which can be opened, moved and closed while the server runs.
//!
//! Those who change settings know the door; whoever serves behind it is told to it at the start.

use std::fmt;
use std::io;
use std::net::TcpListener;
use std::sync::OnceLock;

use parking_lot::Mutex;

use crate::config::os_text;
use crate::listeners::TcpAddresses;
use crate::net::socket::Listener;

/// What runs behind the door until it is dropped.
pub(crate) type Running = Box<dyn Send>;

type Opener = Box<dyn Fn(Vec<TcpListener>) -> io::Result<Running> + Send + Sync>;

#[derive(Default)]
struct State {
    running: Option<Running>,
    addresses: TcpAddresses,
}

/// The door of a service.
#[derive(Default)]
pub(crate) struct Door {
    opener: OnceLock<Opener>,
    state: Mutex<State>,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses = self.state.lock().addresses.clone();
        f.debug_tuple("Door").field(&addresses).finish()
    }
}

impl Door {
    /// Closed, with nobody behind it.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Says what starts the service on sockets that listen.
    pub(crate) fn set_opener(
        &self,
        opener: impl Fn(Vec<TcpListener>) -> io::Result<Running> + Send + Sync + 'static,
    ) {
        // There is one service behind a door.
        let _ = self.opener.set(Box::new(opener));
    }

    /// Serves on these addresses in place of the ones before; on port 0, nowhere. If that fails the ones before are
    /// taken up again.
    ///
    /// # Errors
    /// Which address could not be used, and why.
    pub(crate) fn open(&self, addresses: TcpAddresses) -> Result<(), String> {
        let mut state = self.state.lock();
        if state.addresses == addresses {
            return Ok(());
        }
        state.running = None;
        match self.start(&addresses) {
            Ok(running) => {
                state.running = running;
                state.addresses = addresses;
                Ok(())
            }
            Err(reason) => {
                state.running = self.start(&state.addresses).unwrap_or_default();
                Err(reason)
            }
        }
    }

    fn start(&self, addresses: &TcpAddresses) -> Result<Option<Running>, String> {
        let (Some(opener), true) = (self.opener.get(), addresses.port != 0) else {
            return Ok(None);
        };
        let port = addresses.port;
        let (listeners, failed) = Listener::bind_all(&addresses.hosts, port, addresses.backlog);
        if let Some(failure) = failed.iter().find(|failure| !failure.optional) {
            let reason = os_text(&failure.error);
            return Err(format!(
                "Could not listen for HTTP on {}:{port}: {reason}",
                failure.address
            ));
        }
        if listeners.is_empty() {
            return Err(format!("No address to listen for HTTP on, port {port}"));
        }
        let sockets: io::Result<Vec<_>> = listeners.iter().map(Listener::to_tcp).collect();
        let running = sockets.and_then(opener);
        running
            .map(Some)
            .map_err(|error| format!("Could not serve HTTP: {}", os_text(&error)))
    }

    /// Closes the door for good.
    pub(crate) fn close(&self) {
        let running = std::mem::take(&mut self.state.lock().running);
        drop(running);
    }
}
