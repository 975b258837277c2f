//! SIGTERM and SIGINT: the first one has the server stop, another SIGINT ends the process at once.
//!
//! The handlers write to a socket that a worker waits for like for any other.

use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

use crate::net::poll::{Interest, Poller};

/// Token of the socket that the handlers write to.
pub(crate) const SIGNALS_TOKEN: u64 = u64::MAX - 1;

/// The handlers' flags and the socket that they write to.
#[derive(Debug)]
pub(crate) struct Signals {
    socket: UnixStream,
    interrupted: Arc<AtomicBool>,
    terminated: Arc<AtomicBool>,
}

impl Signals {
    /// Installs the handlers; whoever waits with `poller` is told as [`SIGNALS_TOKEN`].
    pub(crate) fn install(poller: &Poller) -> io::Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        let terminated = Arc::new(AtomicBool::new(false));
        // A second SIGINT finds the flag raised by the first.
        signal_hook::flag::register_conditional_shutdown(SIGINT, 1, Arc::clone(&interrupted))?;
        signal_hook::flag::register(SIGINT, Arc::clone(&interrupted))?;
        signal_hook::flag::register(SIGTERM, Arc::clone(&terminated))?;
        // The end of a terminal is no reason to end. (A broken pipe is ignored by Rust's runtime.)
        signal_hook::flag::register(SIGHUP, Arc::new(AtomicBool::new(false)))?;
        let (socket, sender) = UnixStream::pair()?;
        socket.set_nonblocking(true)?;
        pipe::register(SIGINT, sender.try_clone()?)?;
        pipe::register(SIGTERM, sender)?;
        poller.add(&socket, SIGNALS_TOKEN, Interest::READ)?;
        Ok(Self {
            socket,
            interrupted,
            terminated,
        })
    }

    /// The name of the signal that came, if one did.
    pub(crate) fn received(&mut self) -> Option<&'static str> {
        // The bytes say only that there was a signal; which one, the flags say.
        let _ = self.socket.read(&mut [0; 16]);
        if self.terminated.load(Ordering::Relaxed) {
            Some("SIGTERM")
        } else if self.interrupted.load(Ordering::Relaxed) {
            Some("SIGINT")
        } else {
            None
        }
    }
}
