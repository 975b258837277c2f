//! Real programs under the library print what they print without it.

mod preloaded;

use preloaded::{has, is_installed, output, preloaded};
use std::path::Path;
use std::process::Command;

/// Runs the command line in a shell with and without the library, and compares all
/// that comes out.
fn same(tool: &str, line: &str) {
    if has(tool) {
        compare(line);
    }
}

fn compare(line: &str) {
    let shell = |mut command: Command| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let output = output(command.args(["-c", line]).current_dir(root));
        (output.status.code(), output.stdout, output.stderr)
    };
    let expected = shell(Command::new("/bin/bash"));
    assert_eq!(
        expected.0,
        Some(0),
        "{}",
        String::from_utf8_lossy(&expected.2)
    );
    let found = shell(preloaded("/bin/bash"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(found.0, expected.0, "{}", text(&found.2));
    assert_eq!(text(&found.1), text(&expected.1));
    assert_eq!(text(&found.2), text(&expected.2));
}

#[test]
fn bash_forks_and_grows_strings() {
    same(
        "bash",
        "for i in $(seq 1 2000); do x=\"$x$i\"; done; echo ${#x}; (exit 3); echo $?; \
         for i in 1 2 3 4 5; do echo $i | sort | tr 1-5 a-e & wait; done",
    );
}

#[test]
fn sort_uses_threads() {
    same(
        "sort",
        "seq 1 200000 | sort -R --random-source=/etc/passwd | sort --parallel=4 -n | md5sum",
    );
}

#[test]
fn awk_and_sed_grow_many_strings() {
    same(
        "awk",
        "awk 'BEGIN { for (i = 0; i < 200000; i++) a[i % 997] = a[i % 997] i; \
         for (k in a) n += length(a[k]); print n }'; seq 1 50000 | sed 's/1/one/g' | md5sum",
    );
}

#[test]
fn perl_builds_hashes_and_forks() {
    same(
        "perl",
        "perl -e 'my %h; $h{$_ % 5000} .= chr(65 + $_ % 26) for 1..200000; \
         print join(\",\", map { length $h{$_} } sort keys %h), \"\\n\"; \
         for my $i (1..3) { my $p = fork; exit $i unless $p; waitpid $p, 0; print $? >> 8 }'",
    );
}

#[test]
fn python_runs_threads_processes_and_plug_ins() {
    same(
        "python3",
        r#"python3 - <<'END'
import concurrent.futures, ctypes, gc, hashlib, json, os, re, subprocess, sys, threading, zlib
data = [{"key": str(i) * (i % 50), "n": [i] * (i % 20)} for i in range(20000)]
text = json.dumps(data)
print(hashlib.sha256(text.encode()).hexdigest(), json.loads(text) == data)
print(len(zlib.decompress(zlib.compress(text.encode()))), len(re.findall("9+", text)))
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    print(sum(pool.map(lambda n: len(str(3 ** n)), range(2000))))
pid = os.fork()
if pid == 0:
    data = [bytes(1000) for _ in range(50000)]
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(subprocess.run(["echo", "child"], capture_output=True).stdout)
# The main thread of the child is one that its parent started.
def child():
    pid = os.fork()
    if pid == 0:
        keep = [bytearray(100000) for _ in range(100)]
        del keep
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
thread = threading.Thread(target=child)
thread.start()
thread.join()
END"#,
    );
}

#[test]
fn git_reads_its_history() {
    same(
        "git",
        "export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory \
         GIT_CONFIG_VALUE_0='*'; git log --stat -30 | md5sum; git grep -n unsafe | md5sum; \
         git diff --no-index allocator/src/heap.rs allocator/src/slab.rs | md5sum",
    );
}

#[test]
fn compilers_write_the_same_code() {
    same(
        "cc",
        "cc -O2 -S -o - allocator/preload/tests/c/semantics.c 2>/dev/null | md5sum",
    );
    same(
        "c++",
        "c++ -O2 -std=c++17 -S -o - allocator/preload/tests/c/operators.cc | md5sum",
    );
    same(
        "rustc",
        "echo 'fn main() { println!(\"{:?}\", (1..9).map(|n| n.to_string()).collect::<Vec<_>>()) }' \
         | rustc --emit asm -o - - | md5sum",
    );
}

#[test]
fn sqlite_sorts_and_joins() {
    same(
        "sqlite3",
        "sqlite3 :memory: 'create table t(a integer primary key, b text); \
         with recursive c(x) as (select 1 union all select x + 1 from c where x < 100000) \
         insert into t select x, hex(x * 7919) from c; create index i on t(b); \
         select count(*), sum(length(b)), max(b) from t where b > 33; \
         select group_concat(b) from (select b from t order by b limit 20);'",
    );
}

#[test]
fn compressors_work_in_threads() {
    same("xz", "seq 1 300000 | xz -T2 -0 | xz -d | md5sum");
    same("gzip", "seq 1 300000 | gzip | gunzip | md5sum");
}

#[test]
fn node_collects_garbage() {
    if !is_installed("node") {
        return;
    }
    compare(
        "node -e 'let m = new Map(); for (let i = 0; i < 200000; i++) m.set(\"k\" + i, [i, i]); \
         console.log(m.size, require(\"zlib\").deflateSync(Buffer.alloc(1e6, \"abc\")).length); \
         require(\"crypto\").pbkdf2(\"a\", \"b\", 1000, 64, \"sha512\", \
         (e, k) => console.log(k.toString(\"hex\")))'",
    );
}

#[test]
fn java_starts_its_threads() {
    if is_installed("java") {
        compare("java -Xmx64m -version");
    }
}

#[test]
fn redis_serves_its_own_benchmark() {
    if !has("redis-server") || !has("redis-benchmark") {
        return;
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("redis");
    std::fs::create_dir_all(&folder).unwrap();
    let socket = folder.join("socket");
    let _ = std::fs::remove_file(&socket);
    let mut server = preloaded("redis-server")
        .current_dir(&folder)
        .args([
            "--port",
            "0",
            "--save",
            "",
            "--appendonly",
            "no",
            "--enable-debug-command",
            "local",
            "--unixsocket",
        ])
        .arg(&socket)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let client = |tool: &str, line: &str| {
        let mut command = Command::new(tool);
        command.arg("-s").arg(&socket).args(line.split(' '));
        output(&mut command)
    };
    let start = std::time::Instant::now();
    while !client("redis-cli", "ping").stdout.starts_with(b"PONG") {
        assert!(start.elapsed().as_secs() < 60, "the server does not answer");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let benchmark = client(
        "redis-benchmark",
        "-q -n 20000 -P 16 -r 5000 -d 100 -t set,get,lpush,lpop,sadd,hset,zadd",
    );
    assert!(benchmark.status.success(), "{benchmark:?}");
    // Writes everything out, frees it and reads it back.
    let saved = client("redis-cli", "debug reload");
    let keys = client("redis-cli", "dbsize");
    let _ = client("redis-cli", "shutdown nosave");
    let status = server.wait().unwrap();
    assert!(status.success(), "{status:?}");
    assert!(
        String::from_utf8_lossy(&saved.stdout).starts_with("OK"),
        "{saved:?}"
    );
    let keys: u64 = String::from_utf8_lossy(&keys.stdout)
        .trim()
        .parse()
        .unwrap();
    assert!(keys > 4000, "{keys}");
}
