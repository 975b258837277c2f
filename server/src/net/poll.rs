//! Waiting for many sockets at once, and being woken by another thread while waiting.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;

/// What to wait for on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interest {
    /// Bytes to read, or the end of the stream.
    pub(crate) read: bool,
    /// Room to write.
    pub(crate) write: bool,
}

impl Interest {
    /// Only reading.
    pub(crate) const READ: Self = Self { read: true, write: false };

    fn flags(self) -> epoll::EventFlags {
        let mut flags = epoll::EventFlags::empty();
        flags.set(epoll::EventFlags::IN, self.read);
        flags.set(epoll::EventFlags::OUT, self.write);
        flags
    }
}

/// One socket that is ready.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    /// What the socket was registered with.
    pub(crate) token: u64,
    /// There is something to read, or the stream ended or failed.
    pub(crate) read: bool,
    /// There is room to write, or the stream failed.
    pub(crate) write: bool,
}

/// Waits for sockets, level-triggered: what is not dealt with is reported again.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

/// Most sockets reported by one wait.
const EVENTS_MAX: usize = 256;

impl Poller {
    /// Waits for nothing yet.
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, events: Vec::with_capacity(EVENTS_MAX) })
    }

    /// Begins to wait for `socket`, reported as `token`.
    pub(crate) fn add(&self, socket: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, epoll::EventData::new_u64(token), interest.flags())?)
    }

    /// Changes what is waited for.
    pub(crate) fn modify(&self, socket: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, socket, epoll::EventData::new_u64(token), interest.flags())?)
    }

    /// Waits no longer for `socket`.
    pub(crate) fn remove(&self, socket: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, socket)?)
    }

    /// Waits until a socket is ready, at most for `timeout` (forever if `None`), and returns how many are.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        let timeout = timeout.map(|limit| Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        });
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(count) => Ok(count),
            Err(Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// One of the sockets that the last wait reported.
    pub(crate) fn ready(&self, index: usize) -> Option<Ready> {
        let event = self.events.get(index)?;
        let flags = event.flags;
        let broken = flags.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP);
        Some(Ready {
            token: event.data.u64(),
            read: broken || flags.contains(epoll::EventFlags::IN),
            write: broken || flags.contains(epoll::EventFlags::OUT),
        })
    }
}

/// Ends another thread's wait. Clones wake the same thread.
#[derive(Clone, Debug)]
pub(crate) struct Waker {
    event: Arc<OwnedFd>,
}

impl Waker {
    /// A waker for the thread that waits with `poller`, which sees it as `token`.
    pub(crate) fn new(poller: &Poller, token: u64) -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        poller.add(&event, token, Interest::READ)?;
        Ok(Self { event: Arc::new(event) })
    }

    /// Ends the wait, or the next one.
    pub(crate) fn wake(&self) {
        // It fails only when the counter is full; then the thread is awake already.
        let _ = rustix::io::write(&*self.event, &1u64.to_ne_bytes());
    }

    /// Makes the waker quiet again, once its thread is awake.
    pub(crate) fn drain(&self) {
        let _ = rustix::io::read(&*self.event, &mut [0u8; 8]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_from_another_thread_ends_the_wait_once() {
        let mut poller = Poller::new().unwrap();
        let waker = Waker::new(&poller, 7).unwrap();
        let other = waker.clone();
        let thread = std::thread::spawn(move || other.wake());
        assert_eq!(poller.wait(Some(Duration::from_secs(10))).unwrap(), 1);
        assert_eq!(poller.ready(0).map(|ready| (ready.token, ready.read)), Some((7, true)));
        thread.join().unwrap();
        waker.drain();
        assert_eq!(poller.wait(Some(Duration::ZERO)).unwrap(), 0);
    }
}
