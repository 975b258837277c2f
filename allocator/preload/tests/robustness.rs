//! The library as a part of the C library: threads that come and go, forks, limits.

mod preloaded;

use preloaded::{compile, preloaded, stdout};

#[test]
fn a_process_ends_with_the_last_thread_of_the_program() {
    if let Some(program) = compile("main_thread_ends.c", "main-thread-ends", &[]) {
        assert_eq!(stdout(&mut preloaded(program)), "ok\nok\n");
    }
}
