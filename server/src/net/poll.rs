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
    pub(crate) const READ: Self = Self {
        read: true,
        write: false,
    };

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
}

/// What a wait reported. Made by the thread that waits.
pub(crate) struct Events(Vec<epoll::Event>);

/// Most sockets reported by one wait.
const EVENTS_MAX: usize = 256;

impl Poller {
    /// Waits for nothing yet.
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { epoll })
    }

    /// Begins to wait for `socket`, reported as `token`.
    pub(crate) fn add(&self, socket: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(
            &self.epoll,
            socket,
            epoll::EventData::new_u64(token),
            interest.flags(),
        )?)
    }

    /// Changes what is waited for.
    pub(crate) fn modify(
        &self,
        socket: impl AsFd,
        token: u64,
        interest: Interest,
    ) -> io::Result<()> {
        Ok(epoll::modify(
            &self.epoll,
            socket,
            epoll::EventData::new_u64(token),
            interest.flags(),
        )?)
    }

    /// Waits no longer for `socket`.
    pub(crate) fn remove(&self, socket: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, socket)?)
    }

    /// Waits until a socket is ready, at most for `timeout` (forever if `None`), and puts those that are in `events`.
    pub(crate) fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = timeout.map(|limit| Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        });
        events.0.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut events.0), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Events {
    /// Room for the outcome of a wait.
    pub(crate) fn new() -> Self {
        Self(Vec::with_capacity(EVENTS_MAX))
    }

    /// The sockets that the last wait reported.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = Ready> {
        self.0.iter().map(|event| {
            let flags = event.flags;
            let broken = flags.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP);
            Ready {
                token: event.data.u64(),
                read: broken || flags.contains(epoll::EventFlags::IN),
                write: broken || flags.contains(epoll::EventFlags::OUT),
            }
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
        Ok(Self {
            event: Arc::new(event),
        })
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
        let poller = Poller::new().unwrap();
        let mut events = Events::new();
        let waker = Waker::new(&poller, 7).unwrap();
        let other = waker.clone();
        let thread = std::thread::spawn(move || other.wake());
        poller
            .wait(&mut events, Some(Duration::from_secs(10)))
            .unwrap();
        assert_eq!(
            events
                .iter()
                .map(|ready| (ready.token, ready.read))
                .collect::<Vec<_>>(),
            vec![(7, true)]
        );
        thread.join().unwrap();
        waker.drain();
        poller.wait(&mut events, Some(Duration::ZERO)).unwrap();
        assert_eq!(events.iter().len(), 0);
    }
}
