//! redis-py against the real server: `redis_py.py` does what programs in Python do.
//!
//! Where there is no redis-py the test says so and passes, unless `SLABKV_REQUIRE_TOOLS` is set.

mod live;

use std::process::Command;

use live::Server;

/// A Python that has redis-py: the first in the path, or the system's.
fn python() -> Option<&'static str> {
    let found = ["python3", "/usr/bin/python3"].into_iter().find(|python| {
        let check = Command::new(python).args(["-c", "import redis"]).output();
        check.is_ok_and(|output| output.status.success())
    });
    if found.is_none() {
        let required = std::env::var_os("SLABKV_REQUIRE_TOOLS").is_some();
        assert!(!required, "redis-py is required");
        eprintln!("passed over: there is no redis-py");
    }
    found
}

#[test]
fn programs_in_python_work() {
    let Some(python) = python() else {
        return;
    };
    let server = Server::start();
    let output = Command::new(python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/redis_py.py"))
        .arg(server.socket())
        .output()
        .expect("it starts");
    let [said, errors] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{said}\n{errors}");
    assert!(said.contains("RESP2: all as expected"), "{said}");
}
