"""What programs in Python do with redis-py, against a server whose Unix socket is the argument."""

import sys
import threading

import redis

VERSION = int(redis.__version__.split(".")[0])


def strings(r):
    assert r.set("greeting", "hello")
    assert r.get("greeting") == "hello"
    assert r.set("greeting", "again", nx=True) is None
    assert r.set("greeting", "new", get=True) == "hello"
    assert r.append("greeting", "est") == 6 and r.strlen("greeting") == 6
    assert r.getrange("greeting", 0, 2) == "new" and r.setrange("greeting", 3, "er") == 6
    assert r.getex("greeting", px=100_000) == "newert" and 0 < r.pttl("greeting") <= 100_000
    assert r.persist("greeting") and r.ttl("greeting") == -1
    assert r.getdel("greeting") == "newert" and r.get("greeting") is None
    assert r.mset({"a": 1, "b": 2}) and r.mget("a", "b", "c") == ["1", "2", None]
    assert r.msetnx({"c": 3, "a": 9}) is False
    assert r.incr("a", 41) == 42 and r.decr("a") == 41 and r.incrbyfloat("a", 0.5) == 41.5
    assert r.set("short", "v", ex=1000) and r.expire("b", 1000) and r.ttl("b") == 1000
    assert r.rename("b", "bb") and r.exists("b", "bb") == 1 and r.type("bb") == "string"
    assert r.copy("bb", "copy") and r.touch("bb", "copy") == 2 and r.unlink("copy") == 1
    binary = bytes(range(256)) * 1000
    raw = redis.Redis(unix_socket_path=sys.argv[1])
    assert raw.set(b"\x00\xff", binary) and raw.get(b"\x00\xff") == binary
    assert raw.delete(b"\x00\xff") == 1


def scans(r):
    with r.pipeline(transaction=False) as pipe:
        for n in range(5000):
            pipe.set(f"n:{n}", n)
        assert pipe.execute() == [True] * 5000
    found = list(r.scan_iter(match="n:*", count=100))
    assert len(found) == 5000 and set(found) == {f"n:{n}" for n in range(5000)}
    assert sorted(r.keys("n:49?")) == [f"n:49{n}" for n in range(10)]
    assert r.dbsize() >= 5000 and r.randomkey() is not None


def transactions(r):
    r.set("counter", 0)

    def add():
        own = redis.Redis(unix_socket_path=sys.argv[1], decode_responses=True)
        for _ in range(50):
            own.transaction(lambda pipe: step(pipe), "counter")

    def step(pipe):
        now = int(pipe.get("counter"))
        pipe.multi()
        pipe.set("counter", now + 1)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert r.get("counter") == "200", r.get("counter")
    with r.pipeline() as pipe:
        pipe.watch("counter")
        pipe.multi()
        pipe.incr("counter")
        r.set("counter", 7)
        try:
            pipe.execute()
            raise AssertionError("the watched key had changed")
        except redis.WatchError:
            pass
    try:
        r.execute_command("NOSUCHTHING")
        raise AssertionError("there is no such command")
    except redis.ResponseError as error:
        assert "unknown command" in str(error)


def introspection(r):
    info = r.info()
    assert isinstance(info["used_memory"], int) and isinstance(info["mem_fragmentation_ratio"], float)
    assert info["db0"]["keys"] == r.dbsize() and info["redis_mode"] == "standalone"
    assert r.info("memory")["used_memory_dataset"] > 0
    assert r.info("commandstats")["cmdstat_set"]["calls"] >= 5000
    if VERSION < 5:
        # It takes each field whose name begins with "db." for a table, as Redis 7.2 and later have one that is not.
        r.set_response_callback("MEMORY STATS", lambda reply, **_: dict(zip(reply[::2], reply[1::2])))
    stats = r.memory_stats()
    assert stats["keys.count"] == r.dbsize() and stats["total.allocated"] > stats["dataset.bytes"] > 0
    assert 10 < r.memory_usage("n:1") < 200 and r.memory_usage("absent") is None
    assert r.memory_usage("n:1", samples=0) == r.memory_usage("n:1")
    assert isinstance(r.memory_malloc_stats(), str) and r.memory_purge()
    assert isinstance(r.execute_command("MEMORY DOCTOR"), str)
    assert r.client_setname("py") and r.client_getname() == "py"
    assert [c["name"] for c in r.client_list() if c["name"]] == ["py"]
    assert r.client_info()["name"] == "py" and r.client_id() > 0
    assert r.config_get("maxmemory")["maxmemory"] == "0"
    assert r.config_set("slowlog-log-slower-than", 0) and r.ping()
    entry = r.slowlog_get(10)[0]
    assert entry["duration"] >= 0 and entry["command"]
    assert r.slowlog_len() > 0 and r.slowlog_reset()
    assert r.config_set("slowlog-log-slower-than", 10000) and r.config_resetstat()
    assert r.command_count() == len(r.command()) and r.command()["get"]["arity"] == 2
    assert r.command_getkeys("MSET", "a", "1", "b", "2") == ["a", "b"]
    assert r.object("encoding", "n:1") == "int" and r.object("idletime", "n:1") >= 0
    assert r.execute_command("LATENCY LATEST") == [] and len(r.time()) == 2
    assert r.execute_command("LATENCY HISTORY", "command") == [] and r.execute_command("LATENCY RESET") == 0
    assert r.lolwut() and r.echo("there") == "there"
    with r.monitor() as monitor:
        r.set("seen", "by monitor")
        assert monitor.next_command()["command"] == "SET seen by monitor"
    assert r.swapdb(0, 1) and r.dbsize() == 0 and r.swapdb(0, 1)
    assert r.flushdb() and r.dbsize() == 0 and r.flushall(asynchronous=True)


for protocol in (2, 3):
    options = {"unix_socket_path": sys.argv[1], "decode_responses": True}
    if protocol == 3:
        if VERSION < 5:
            # It speaks RESP2 only.
            break
        options["protocol"] = 3
    r = redis.Redis(**options)
    for part in (strings, scans, transactions, introspection):
        part(r)
    print(f"RESP{protocol}: all as expected")
