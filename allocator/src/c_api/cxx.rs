//! What `operator new` does when memory is out: it lets the C++ library do it.
//!
//! C++ asks that the *new-handler* be called until it makes room or throws, and that
//! `std::bad_alloc` be thrown where there is none. The library that the program has
//! been linked with does all that in an `operator new` of its own, on top of
//! `malloc`. So ours, when an allocation fails, jumps to the next definition of the
//! same operator, which tries once more, fails in `malloc`, and goes on as C++ asks.
//! Nothing of the C++ library is linked here, and a program in C never looks for it.

use core::ffi::{CStr, c_void};
use core::ptr::{self, NonNull};

/// Libraries that define the operators, where they were loaded for a plug-in alone
/// and are not in the program's own scope.
const LIBRARIES: [&CStr; 3] = [c"libstdc++.so.6", c"libc++abi.so.1", c"libc++.so.1"];

/// The definition of a function behind the caller's library in the order of loading,
/// else in a C++ library that is loaded somewhere. `None` where there is no other.
///
/// Finds only what is loaded already. The system may allocate for its error messages
/// meanwhile, so that none of the heap's locks may be held.
pub fn next_operator(name: &CStr) -> Option<NonNull<c_void>> {
    // SAFETY: The names are C strings. Handles that are opened without loading
    // anything stay open, since the function that was found must stay.
    unsafe {
        if let Some(found) = NonNull::new(libc::dlsym(libc::RTLD_NEXT, name.as_ptr())) {
            return Some(found);
        }
        LIBRARIES.iter().find_map(|library| {
            let flags = libc::RTLD_LAZY | libc::RTLD_NOLOAD;
            let handle = libc::dlopen(library.as_ptr(), flags);
            NonNull::new(if handle.is_null() {
                ptr::null_mut()
            } else {
                libc::dlsym(handle, name.as_ptr())
            })
        })
    }
}
