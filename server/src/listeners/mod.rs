//! The sockets that accept connections. They can be replaced while the server runs, by any worker: the one that accepts
//! waits for them with its poller, and looks a listener up here when it is told that one is ready.

pub(crate) mod door;

use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::log::{Level, Log};
use crate::net::poll::{Interest, Poller};
use crate::net::socket::Listener;

/// Marks the tokens of listeners.
const TOKEN_BIT: u64 = 1 << 63;

/// TCP addresses to listen on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TcpAddresses {
    /// As `bind` names them.
    pub(crate) hosts: Vec<String>,
    /// Port; 0 for not listening.
    pub(crate) port: u16,
    /// Connections that may wait to be accepted.
    pub(crate) backlog: i32,
}

#[derive(Debug, Default)]
struct Open {
    listeners: Vec<(u64, Arc<Listener>)>,
    addresses: TcpAddresses,
    next_token: u64,
}

/// The listening sockets.
#[derive(Debug)]
pub(crate) struct Listeners {
    poller: Arc<Poller>,
    open: Mutex<Open>,
}

impl Listeners {
    /// None yet; they will be waited for with `poller`.
    pub(crate) fn new(poller: Arc<Poller>) -> Self {
        Self {
            poller,
            open: Mutex::new(Open::default()),
        }
    }

    /// Whether a token is that of a listener.
    pub(crate) fn owns(token: u64) -> bool {
        token & TOKEN_BIT != 0
    }

    /// The listener of a token, unless it was closed meanwhile.
    pub(crate) fn get(&self, token: u64) -> Option<Arc<Listener>> {
        let open = self.open.lock();
        open.listeners
            .iter()
            .find(|(known, _)| *known == token)
            .map(|(_, listener)| Arc::clone(listener))
    }

    /// Listens on these TCP addresses in place of the ones before. If that fails the ones before are taken up again.
    ///
    /// # Errors
    /// No listener could be opened, or one of the addresses failed that has to be there. The log says which and why.
    pub(crate) fn listen_tcp(&self, addresses: TcpAddresses, log: &Log) -> Result<(), ()> {
        let mut open = self.open.lock();
        let before = std::mem::replace(&mut open.addresses, addresses);
        self.close(&mut open, |listener| !listener.is_unix());
        if self.open_tcp(&mut open, log) {
            return Ok(());
        }
        open.addresses = before;
        self.open_tcp(&mut open, log);
        Err(())
    }

    fn open_tcp(&self, open: &mut Open, log: &Log) -> bool {
        let TcpAddresses {
            hosts,
            port,
            backlog,
        } = open.addresses.clone();
        if port == 0 {
            return true;
        }
        let (listeners, failed) = Listener::bind_all(&hosts, port, backlog);
        let mut complete = !listeners.is_empty() || hosts.is_empty();
        for failure in failed {
            let reason = crate::config::os_text(&failure.error);
            let text = format!(
                "Warning: Could not create server TCP listening socket {}:{port}: {reason}",
                failure.address
            );
            if !failure.optional {
                log.write(Level::Warning, text);
                complete = false;
            }
        }
        if !complete {
            return false;
        }
        listeners
            .into_iter()
            .all(|listener| self.add(open, listener).is_ok())
    }

    /// Listens on a Unix socket, too.
    pub(crate) fn listen_unix(&self, path: &Path, mode: u32, backlog: i32) -> io::Result<()> {
        let listener = Listener::bind_unix(path, mode, backlog)?;
        self.add(&mut self.open.lock(), listener)
    }

    fn add(&self, open: &mut Open, listener: Listener) -> io::Result<()> {
        let token = TOKEN_BIT | open.next_token;
        open.next_token += 1;
        self.poller.add(&listener, token, Interest::READ)?;
        open.listeners.push((token, Arc::new(listener)));
        Ok(())
    }

    fn close(&self, open: &mut Open, which: impl Fn(&Listener) -> bool) {
        open.listeners.retain(|(_, listener)| {
            let closes = which(listener);
            if closes {
                // The socket is about to be closed, which ends the waiting just as well.
                let _ = self.poller.remove(listener.as_ref());
            }
            !closes
        });
    }

    /// Closes all of them.
    pub(crate) fn close_all(&self) {
        self.close(&mut self.open.lock(), |_| true);
    }

    /// The TCP port in use; 0 for none.
    pub(crate) fn tcp_port(&self) -> u16 {
        self.open.lock().addresses.port
    }

    /// What is listened on, as INFO and the log name it: `tcp` and `unix`, each with its addresses.
    pub(crate) fn describe(&self) -> Vec<(&'static str, String)> {
        let open = self.open.lock();
        let mut described = Vec::new();
        if open
            .listeners
            .iter()
            .any(|(_, listener)| !listener.is_unix())
        {
            let hosts: String = open
                .addresses
                .hosts
                .iter()
                .map(|host| format!("bind={host},"))
                .collect();
            described.push(("tcp", format!("{hosts}port={}", open.addresses.port)));
        }
        for path in open
            .listeners
            .iter()
            .filter_map(|(_, listener)| listener.path())
        {
            described.push(("unix", format!("bind={}", path.display())));
        }
        described
    }
}
