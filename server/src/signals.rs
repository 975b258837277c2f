//! SIGTERM and SIGINT: the first one has the server stop, another SIGINT ends the process at once.

use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use signal_hook::consts::{SIGHUP, SIGINT, SIGPIPE, SIGTERM};
use signal_hook::low_level::pipe;

use crate::commands::context::Services;
use crate::log::Level;

/// The handlers and the thread that they tell.
#[derive(Debug)]
pub(crate) struct Signals {
    thread: JoinHandle<()>,
    wake: UnixStream,
}

impl Signals {
    /// Installs the handlers.
    pub(crate) fn install(services: Arc<Services>) -> io::Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        let terminated = Arc::new(AtomicBool::new(false));
        // A second SIGINT finds the flag raised by the first.
        signal_hook::flag::register_conditional_shutdown(SIGINT, 1, Arc::clone(&interrupted))?;
        signal_hook::flag::register(SIGINT, Arc::clone(&interrupted))?;
        signal_hook::flag::register(SIGTERM, Arc::clone(&terminated))?;
        // What these would do otherwise is to end the process.
        for ignored in [SIGHUP, SIGPIPE] {
            signal_hook::flag::register(ignored, Arc::new(AtomicBool::new(false)))?;
        }
        let (mut receiver, sender) = UnixStream::pair()?;
        pipe::register(SIGINT, sender.try_clone()?)?;
        pipe::register(SIGTERM, sender.try_clone()?)?;
        let thread = std::thread::Builder::new()
            .name("signals".into())
            .stack_size(64 * 1024)
            .spawn(move || {
                let mut byte = [0];
                while let Ok(1) = receiver.read(&mut byte) {
                    let name = if terminated.load(Ordering::Relaxed) {
                        "SIGTERM"
                    } else if interrupted.load(Ordering::Relaxed) {
                        "SIGINT"
                    } else {
                        return;
                    };
                    services.log.write(
                        Level::Warning,
                        format_args!("Received {name} scheduling shutdown..."),
                    );
                    services.stop();
                }
            })?;
        Ok(Self {
            thread,
            wake: sender,
        })
    }

    /// Ends the thread. The handlers stay, and do nothing any more.
    pub(crate) fn uninstall(self) {
        // The thread ends on a byte without a signal, and on the end of the stream; after a signal it is about to end
        // with the process anyway.
        let ended = self.wake.shutdown(std::net::Shutdown::Both);
        if ended.is_ok() {
            let _ = self.thread.join();
        }
    }
}
