//! Handlers around `fork`, so that the child finds every lock open and the heap
//! whole, whatever the parent's other threads were doing.

/// What to do on the forking thread.
pub(crate) struct Handlers {
    /// In the parent, before: takes every lock in rank order.
    pub(crate) prepare: extern "C" fn(),
    /// In the parent, after: opens them again.
    pub(crate) parent: extern "C" fn(),
    /// In the child: opens them, and gives up what belonged to the threads that
    /// the child does not have.
    pub(crate) child: extern "C" fn(),
}

/// Has the handlers called at every `fork` from now on; false where the system
/// refuses. Must be called without any of the heap's locks.
pub(crate) fn register(handlers: &Handlers) -> bool {
    // SAFETY: The handlers are functions for as long as the process lives.
    let failed = unsafe {
        libc::pthread_atfork(
            Some(handlers.prepare),
            Some(handlers.parent),
            Some(handlers.child),
        )
    };
    failed == 0
}
