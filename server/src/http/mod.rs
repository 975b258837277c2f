//! HTTP: the page that shows where the memory is, and metrics for those who collect them.
//!
//! ```text
//! thread `http`   listeners -> connections (hyper) -> routes
//!                 every second, while a page is open: look -> history, heap map -> one event for all pages
//! ```
//!
//! Everything runs on one thread, which starts with the first socket and ends with the last. Clients notice nothing of
//! it but a shard's lock that is held for some microseconds at a time. What pages can take is bounded: the number of
//! connections and of pages, the size of a request's head, the time that a request or a reader may take, and the
//! events that wait for a page.

mod access;
mod answer;
mod heap_map;
mod json;
mod live;
mod patience;
mod routes;

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};

use crate::commands::config::OTHER_FILES;
use crate::commands::context::Services;
use crate::config::directive::Id;
use crate::listeners::door::Running;
use crate::log::Level;
use crate::process;
use live::Live;
use patience::Patient;

/// Most connections at a time; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 1100;

/// Connections for which descriptors are set aside whatever the limit of open files is.
const CONNECTIONS_MIN: usize = 16;

/// Most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// How long a head may take to arrive, and a connection may rest between requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// What all connections share.
struct Hall {
    services: Arc<Services>,
    /// Permits for connections.
    room: Arc<Semaphore>,
    connections_max: usize,
    live: Live,
    /// Answers that are the same for all who ask within a second.
    kept: Mutex<routes::Kept>,
    /// Whether a purge or a compaction that a page asked for is at work.
    acting: AtomicBool,
}

impl Hall {
    fn connections(&self) -> usize {
        self.connections_max - self.room.available_permits()
    }
}

/// Ends the thread when it is dropped, and waits for that.
struct Guard {
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // The other end wakes up when this one is gone.
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has ended, too.
            let _ = thread.join();
        }
    }
}

/// Starts to serve on these sockets, until the result is dropped.
///
/// # Errors
/// The system refuses a thread or an event loop.
pub(crate) fn serve(services: Arc<Services>, sockets: Vec<TcpListener>) -> io::Result<Running> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(1)
        .build()?;
    let (stop, stopped) = oneshot::channel();
    let connections_max = room_for_connections(&services);
    warn_if_open(&services, &sockets);
    let hall = Arc::new(Hall {
        room: Arc::new(Semaphore::new(connections_max)),
        connections_max,
        live: Live::new(connections_max),
        kept: Mutex::default(),
        acting: AtomicBool::new(false),
        services,
    });
    let thread = std::thread::Builder::new().name("http".to_owned());
    let thread = thread.spawn(move || {
        runtime.block_on(async {
            for socket in sockets {
                match tokio::net::TcpListener::from_std(socket) {
                    Ok(listener) => _ = tokio::spawn(accept(Arc::clone(&hall), listener)),
                    Err(error) => {
                        let reason = crate::config::os_text(&error);
                        let text = format_args!("A socket for HTTP cannot be used: {reason}");
                        hall.services.log.write(Level::Warning, text);
                    }
                }
            }
            tokio::spawn(live::run(Arc::clone(&hall)));
            // It never gets anything but the end.
            let _ = stopped.await;
        });
        // What a page asked for goes on to its end, but nobody waits for it.
        runtime.shutdown_background();
    })?;
    Ok(Box::new(Guard {
        stop: Some(stop),
        thread: Some(thread),
    }))
}

/// How many connections there may be beside the clients.
fn room_for_connections(services: &Services) -> usize {
    let clients = services.config.size(Id::MaxClients) as u64 + OTHER_FILES;
    let files = process::raise_file_limit(clients + CONNECTIONS_MAX as u64);
    let left = files.saturating_sub(clients).min(CONNECTIONS_MAX as u64);
    (left as usize).max(CONNECTIONS_MIN)
}

fn warn_if_open(services: &Services, sockets: &[TcpListener]) {
    let is_remote = |socket: &TcpListener| {
        socket
            .local_addr()
            .is_ok_and(|address| !address.ip().is_loopback())
    };
    if sockets.iter().any(is_remote) && !services.config.is_set(Id::HttpPassword) {
        services.log.write(
            Level::Warning,
            "HTTP is served to other machines without a password: http-password sets one.",
        );
    }
}

async fn accept(hall: Arc<Hall>, listener: tokio::net::TcpListener) {
    loop {
        let Ok(permit) = Arc::clone(&hall.room).acquire_owned().await else {
            return;
        };
        let Ok((socket, _)) = listener.accept().await else {
            // Descriptors may have run out; they come back.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        // Without it an event may wait for the other side's acknowledgement.
        let _ = socket.set_nodelay(true);
        let hall = Arc::clone(&hall);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let hall = Arc::clone(&hall);
                async move { Ok::<_, Infallible>(routes::answer(&hall, request).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(HEAD_BYTES_MAX)
                .serve_connection(TokioIo::new(Patient::new(socket)), service);
            // Whatever went wrong with a connection is over with it.
            let _ = connection.await;
            drop(permit);
        });
    }
}
