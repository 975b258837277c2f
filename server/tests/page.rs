//! The page in a real browser: it loads, follows what happens, looks into a chunk, and its console stays empty.
//!
//! Drives Chromium by `chromedriver`. With `SLABKV_PICTURES` set to a folder, the pictures of the documents are taken.

mod live;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use live::web::{open_port, whole_request};
use live::{Client, Server, ok};
use serde_json::{Value, json};

/// A browser without a window.
struct Browser {
    driver: Child,
    port: u16,
    session: String,
    profile: PathBuf,
}

impl Browser {
    /// Starts one; `None` where there is none, unless tools are required.
    fn start() -> Option<Self> {
        let started = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut driver) = started else {
            let required = std::env::var_os("SLABKV_REQUIRE_TOOLS").is_some();
            assert!(!required, "chromedriver is required");
            eprintln!("passed over: there is no chromedriver");
            return None;
        };
        let mut lines = BufReader::new(driver.stdout.take().expect("it is piped")).lines();
        let port = loop {
            let line = lines.next().expect("it says its port").expect("text");
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                break port.trim_end_matches('.').parse().expect("a port");
            }
        };
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("slabkv-page-{}-{number}", std::process::id());
        let profile = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&profile);
        let mut browser = Self {
            driver,
            port,
            session: String::new(),
            profile,
        };
        let profile = format!("--user-data-dir={}", browser.profile.display());
        let options = json!({ "args": [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--disable-dev-shm-usage", "--window-size=1320,1000", profile,
        ] });
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let session = browser.send("POST", "/session", &wanted);
        let id = session["sessionId"].as_str().expect("a session");
        browser.session = format!("/session/{id}");
        Some(browser)
    }

    fn send(&self, method: &str, path: &str, body: &Value) -> Value {
        let text = whole_request(self.port, method, path, &body.to_string());
        let answer: Value = serde_json::from_str(&text).expect("JSON");
        let value = answer["value"].clone();
        assert!(value.get("error").is_none(), "{method} {path}: {value}");
        value
    }

    fn call(&self, path: &str, body: &Value) -> Value {
        self.send("POST", &format!("{}{path}", self.session), body)
    }

    fn run(&self, script: &str) -> Value {
        self.call("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Waits until an expression holds.
    fn wait(&self, expression: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.run(&format!("return Boolean({expression})")) != json!(true) {
            assert!(Instant::now() < deadline, "never: {expression}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn element(&self, selector: &str) -> String {
        let found = self.call(
            "/element",
            &json!({ "using": "css selector", "value": selector }),
        );
        let mut values = found.as_object().expect("an element").values();
        let id = values.next().and_then(Value::as_str).expect("its name");
        format!("/element/{id}")
    }

    fn click(&self, selector: &str) {
        self.call(&format!("{}/click", self.element(selector)), &json!({}));
    }

    /// Sends keys to an element.
    fn keys(&self, selector: &str, keys: &str) {
        self.call(
            &format!("{}/value", self.element(selector)),
            &json!({ "text": keys }),
        );
    }

    /// Has the pointer rest on a point of the window.
    fn point(&self, at: &Value) {
        let coordinate = |axis: &str| at[axis].as_f64().expect("a number").round() as i64;
        let step = json!({
            "type": "pointerMove", "duration": 0, "x": coordinate("x"), "y": coordinate("y"), "origin": "viewport"
        });
        let mouse = json!({ "type": "pointer", "id": "mouse", "actions": [step] });
        self.call("/actions", &json!({ "actions": [mouse] }));
    }

    fn devtools(&self, command: &str, params: &Value) -> Value {
        let call = json!({ "cmd": command, "params": params });
        self.call("/goog/cdp/execute", &call)
    }

    /// What the page holds after its garbage was collected: bytes of scripts, nodes and listeners of the document.
    fn holds(&self) -> [f64; 3] {
        self.devtools("Performance.enable", &json!({}));
        self.devtools("HeapProfiler.collectGarbage", &json!({}));
        let answer = self.devtools("Performance.getMetrics", &json!({}));
        let metrics = answer["metrics"].as_array().expect("a list");
        ["JSHeapUsedSize", "Nodes", "JSEventListeners"].map(|name| {
            let metric = metrics.iter().find(|metric| metric["name"] == name);
            let value = metric.and_then(|metric| metric["value"].as_f64());
            value.expect("Chromium counts it")
        })
    }

    /// Shows the window in this size.
    fn resize(&self, width: u32, height: u32) {
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics);
    }

    fn prefer(&self, scheme: &str) {
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.devtools(
            "Emulation.setEmulatedMedia",
            &json!({ "features": [feature] }),
        );
    }

    fn picture(&self, path: &Path) {
        use base64::Engine as _;
        let picture = self.send("GET", &format!("{}/screenshot", self.session), &json!({}));
        let picture = picture.as_str().expect("a picture");
        let engine = base64::engine::general_purpose::STANDARD;
        let bytes = engine.decode(picture).expect("a picture");
        std::fs::write(path, bytes).expect("it is written");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Without this the browser outlives its driver. It may fail where the test has.
        let end = || self.send("DELETE", &self.session, &json!({}));
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(end));
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}

/// Runs a command for each of these keys.
fn each(client: &mut Client, keys: impl Iterator<Item = usize> + Clone, words: &[&str]) {
    let keys: Vec<usize> = keys.collect();
    for part in keys.chunks(1000) {
        for key in part {
            let key = format!("key:{key}");
            let mut command = vec![words[0], &key];
            command.extend(&words[1..]);
            client.send(&command);
        }
        part.iter().for_each(|_| _ = client.read());
    }
}

#[test]
fn the_page_follows_the_server_in_a_browser() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let server = Server::start_with(&["--activedefrag", "no", "--io-threads", "2"]);
    let mut client = server.client();
    let port = open_port(&mut client);
    each(&mut client, 0..40_000, &["SET", &"v".repeat(200)]);

    browser.prefer("light");
    browser.call(
        "/url",
        &json!({ "url": format!("http://localhost:{port}/") }),
    );
    browser.wait("document.documentElement.dataset.seconds >= 2");
    assert_eq!(
        browser.run("return document.getElementById('now-keys').textContent"),
        "40.0 k"
    );
    assert_eq!(
        browser.run("return document.getElementById('state').textContent"),
        "live"
    );
    browser.wait("document.querySelectorAll('.uplot').length === 5");
    let live = "[...heap.cells].reduce((sum, cell) => sum + cell.tile.live, 0)";
    let before = browser
        .run(&format!("return {live}"))
        .as_f64()
        .expect("a number");
    // 40,000 entries of some 210 bytes are 8 MB, of 2 MiB each.
    assert!((3.0..8.0).contains(&before), "{before} chunks");
    assert_eq!(
        browser.run("return document.getElementById('actions').hidden"),
        true
    );

    // Keys go, and the page shows it by itself.
    each(
        &mut client,
        (0..40_000).filter(|key| key % 10 > 0),
        &["DEL"],
    );
    browser.wait("document.getElementById('now-keys').textContent === '4000'");
    browser.wait(&format!("{live} < {}", before / 3.0));
    browser.wait("document.getElementById('classes').rows.length > 0");

    // Into a chunk by the keyboard, and a slab under the pointer.
    browser.keys("#tiles", "\u{E014}\u{E014}\u{E007}");
    browser.wait("!document.getElementById('zoom').hidden");
    browser
        .wait("/slabs, .* slots in use/.test(document.getElementById('zoom-about').textContent)");
    browser.run("document.getElementById('pages').scrollIntoView({ block: 'center' })");
    let place = "const box = document.getElementById('pages').getBoundingClientRect(); \
                 return { x: box.left + 20, y: box.top + 10 }";
    browser.point(&browser.run(place));
    browser.wait("/Slab of \\d+-byte slots/.test(document.getElementById('tip').textContent)");

    browser.click("#colour [data-value=class]");
    browser.wait("/B/.test(document.getElementById('map-legend').textContent)");
    browser.click("#range [data-value='86400']");
    browser.click("#range [data-value='300']");
    browser.click("#theme");
    assert_eq!(
        browser.run("return document.documentElement.dataset.theme"),
        "dark"
    );

    // Compaction by the button, where that is allowed.
    assert_eq!(client.run("CONFIG SET http-actions yes"), ok());
    browser.call("/refresh", &json!({}));
    browser.wait("!document.getElementById('actions').hidden");
    browser.click("#compact");
    browser.wait("/^Compacted: [1-9]/.test(document.getElementById('note').textContent)");

    // Nothing sticks out on a phone.
    browser.resize(390, 800);
    browser.wait("document.documentElement.clientWidth === 390");
    browser.wait("document.documentElement.scrollWidth <= 390");
    let wide = "document.getElementById('about').textContent = 'a long line '.repeat(20); \
                return document.documentElement.scrollWidth <= 390";
    assert_eq!(browser.run(wide), true);

    let path = format!("{}/se/log", browser.session);
    let log = browser.send("POST", &path, &json!({ "type": "browser" }));
    assert_eq!(log, json!([]), "the console");

    if let Some(folder) = std::env::var_os("SLABKV_PICTURES") {
        pictures(&browser, Path::new(&folder));
    }
}

/// Has the page's own listeners get events: of so many seconds, each with a tile that changed, and this many greetings
/// before them, as a page gets that has lost its connection.
const SEND: &str = r#"
window.send = (greetings, seconds) => {
  const tell = (name, data) => source.dispatchEvent(new MessageEvent(name, { data }));
  for (let i = 0; i < greetings; i += 1) tell("hello", JSON.stringify(state.hello));
  for (let i = 0; i < seconds; i += 1) {
    sent += 1;
    const figures = state.second.figures.map((figure) => figure + sent % 7);
    const second = { ...state.second, t: begin + sent, figures, uptime: sent };
    tell("second", JSON.stringify(second));
    const tile = String.fromCharCode(sent % 250, 0, 0, 24, 0, sent % 255, 255, 0);
    tell("tiles", JSON.stringify([[0, btoa(tile)]]));
  }
};
window.loading = 0;
const loads = window.load;
window.load = (path) => {
  loading += 1;
  return loads(path).finally(() => { loading -= 1; });
};
window.sent = 0;
window.begin = state.second.t + 100;
"#;

#[test]
fn a_page_that_stays_open_for_a_day_holds_no_more_than_after_an_hour() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let server = Server::start();
    let client = &mut server.client();
    let port = open_port(client);
    each(client, 0..20_000, &["SET", &"v".repeat(200)]);
    let script = "const Source = EventSource; \
                  EventSource = class extends Source { constructor(url) { super(url); window.source = this; } };";
    browser.devtools(
        "Page.addScriptToEvaluateOnNewDocument",
        &json!({ "source": script }),
    );
    let url = format!("http://localhost:{port}/");
    browser.call("/url", &json!({ "url": url }));
    browser.wait("document.documentElement.dataset.seconds >= 2");
    browser.run("document.querySelector('#range [data-value=\"3600\"]').click()");
    browser.run(SEND);

    let pass = |hours: u32| {
        browser
            .run("Object.defineProperty(document, 'hidden', { value: true, configurable: true })");
        for _ in 0..hours * 2 {
            browser.run("send(1, 1800)");
        }
        // Some of it in front.
        browser.run("delete document.hidden");
        browser.run("send(3, 50)");
        // The greetings have asked for the past.
        browser.wait("loading === 0");
    };
    pass(2);
    let before = browser.holds();
    pass(22);
    let after = browser.holds();
    let rows = browser.run("return [state.times.length, state.rows.length, sent]");
    assert_eq!(rows[2], 24 * 3600 + 100);
    for length in [&rows[0], &rows[1]] {
        assert!(length.as_u64().is_some_and(|rows| rows <= 3660), "{rows}");
    }
    let [script, nodes, listeners] = [0, 1, 2].map(|at| after[at] - before[at]);
    // The rows of these 22 hours would be 20 MB at least, a chart's nodes and listeners for each greeting thousands and
    // hundreds; what has not been collected yet is less.
    let holds = script < 5e6 && nodes < 1000.0 && listeners < 200.0;
    assert!(holds, "{before:?} became {after:?}");
}

/// Takes pictures for the documents: a heap of several sizes, thinned out, and the same compacted.
fn pictures(browser: &Browser, folder: &Path) {
    let server = Server::start_with(&[
        "--activedefrag",
        "no",
        "--io-threads",
        "2",
        "--http-actions",
        "yes",
    ]);
    let client = &mut server.client();
    let port = open_port(client);
    browser.resize(1320, 1560);
    browser.call(
        "/url",
        &json!({ "url": format!("http://localhost:{port}/") }),
    );
    let busy = |client: &mut Client, seconds: u64| {
        let until = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < until {
            each(client, 500_000..504_000, &["SET", &"v".repeat(300)]);
            each(client, 500_000..503_000, &["GET"]);
            std::thread::sleep(Duration::from_millis(60));
        }
    };
    for (part, size) in [60, 120, 200, 450, 900, 2000, 9000].into_iter().enumerate() {
        let keys = part * 70_000..part * 70_000 + 70_000 / (1 + size / 300);
        each(client, keys, &["SET", &"v".repeat(size)]);
        busy(client, 3);
    }
    let thinned = (0..490_000).filter(|key| key % 7 > 1 && key % 70_000 < 50_000);
    each(client, thinned, &["DEL"]);
    busy(client, 15);
    browser.run("heap.select(heap.cells[Math.floor(heap.cells.length / 3)], true)");
    browser.run("scrollTo(0, 0)");
    for (scheme, name) in [("light", "page.png"), ("dark", "page-dark.png")] {
        browser.run(&format!("theme.set({}); redraw(true)", scheme == "dark"));
        busy(client, 2);
        if scheme == "dark" {
            assert_eq!(client.run("CONFIG SET activedefrag yes"), ok());
            busy(client, 15);
        }
        browser.picture(&folder.join(name));
    }
}
