//! New connections: accepted by the first worker, each served by the one with the fewest.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use crate::clients::Message;
use crate::clock::unix_ms;
use crate::config::directive::Id;
use crate::log::Level;
use crate::net::poll::Interest;
use crate::net::socket::{Endpoints, keep_alive};
use crate::session::Session;
use crate::worker::Worker;
use crate::worker::peer::Peer;

impl Worker {
    /// Accepts connections that wait at a listener.
    pub(super) fn accept(&mut self, token: u64) {
        let services = Arc::clone(&self.services);
        let Some(listener) = services.listeners.get(token) else {
            return;
        };
        let stats = &services.stats.worker(self.index).totals;
        for _ in 0..services.config.size(Id::MaxNewConnections) {
            let (socket, endpoints) = match listener.accept() {
                Ok(Some(accepted)) => accepted,
                Ok(None) => return,
                Err(error) => {
                    let reason = crate::config::os_text(&error);
                    services.log.write(
                        Level::Warning,
                        format_args!("Error accepting a client connection: {reason}"),
                    );
                    // Without a free descriptor the connection stays where it is and would be reported at once again.
                    std::thread::sleep(Duration::from_millis(1));
                    return;
                }
            };
            stats.connections.add(1);
            let target = services.clients.idlest_worker();
            let max = services.config.size(Id::MaxClients);
            let Some(id) = services.clients.admit(target, max) else {
                stats.rejected_connections.add(1);
                refuse(&socket, b"-ERR max number of clients reached\r\n");
                continue;
            };
            if target == self.index {
                self.adopt(id, socket, endpoints);
            } else {
                let message = Message::Connection(id, socket, endpoints);
                services.clients.mailbox(target).send(message);
            }
        }
    }

    /// Takes a connection over that was admitted for this worker.
    pub(super) fn adopt(&mut self, id: u64, socket: OwnedFd, endpoints: Endpoints) {
        let services = &self.services;
        let needs_password = services.needs_password();
        let is_open =
            !services.config.is_set(Id::ProtectedMode) || needs_password || endpoints.is_local();
        let keepalive = u64::try_from(services.config.number(Id::TcpKeepalive)).unwrap_or(0);
        if keepalive > 0 && !endpoints.is_unix() {
            // A system that cannot probe serves the connection all the same.
            let _ = keep_alive(&socket, Duration::from_secs(keepalive));
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.peers.push(None);
            self.peers.len() - 1
        });
        self.generation = (self.generation + 1) & 0x7fff_ffff;
        let token = self.generation << 32 | place as u64;
        let client =
            services
                .clients
                .register(id, self.index, socket.as_raw_fd(), endpoints, unix_ms());
        if !is_open || self.poller.add(&socket, token, Interest::READ).is_err() {
            if !is_open {
                services
                    .stats
                    .worker(self.index)
                    .totals
                    .rejected_connections
                    .add(1);
                refuse(&socket, PROTECTED_TEXT.as_bytes());
            }
            services.clients.unregister(&client);
            self.free.push(place);
            return;
        }
        if services.log.is_written(Level::Debug) {
            let (peer, worker) = (client.endpoints.peer(), self.index);
            let text = format_args!("Accepted {peer}, served by worker {worker}");
            services.log.write(Level::Debug, text);
        }
        let session = Session::new(client, !needs_password);
        self.peers[place] = Some(Box::new(Peer::new(socket, session, token)));
    }
}

fn refuse(socket: &OwnedFd, text: &[u8]) {
    // The client learns no more from a failure than from the close that follows.
    let _ = rustix::io::write(socket, text);
}

const PROTECTED_TEXT: &str = "-DENIED Protected mode is on and the default user has no password, so only clients of \
    this machine are served. To serve others, set a password with 'requirepass', or list the addresses to listen on \
    with 'bind' and turn 'protected-mode' off, in the configuration file or with CONFIG SET from this machine.\r\n";
