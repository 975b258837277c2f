//! What is answered to which request.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use kvstore::MapCursor;

use super::answer::{Answer, respond, text, whole};
use super::{Hall, access, heap_map, json, live};
use crate::clock::{unix_us, uptime};
use crate::heap;
use crate::observe::history::{ROWS_MAX, Step, names};
use crate::observe::metrics::{self, More};

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const JSON: &str = "application/json";

/// The files of the page, which needs nothing from anywhere else.
static FILES: &[(&str, &str, &str)] = &[
    ("/", HTML, include_str!("assets/page.html")),
    ("/page.css", CSS, include_str!("assets/page.css")),
    ("/page.js", SCRIPT, include_str!("assets/page.js")),
    ("/map.js", SCRIPT, include_str!("assets/map.js")),
    (
        "/uplot.js",
        SCRIPT,
        include_str!("assets/uPlot.iife.min.js"),
    ),
    ("/uplot.css", CSS, include_str!("assets/uPlot.min.css")),
    (
        "/icon.svg",
        "image/svg+xml",
        include_str!("assets/icon.svg"),
    ),
];

/// Answers kept, whatever they are.
const KEPT_MAX: usize = 16;

/// Answers of the second at hand, which are made once for all who ask for them.
#[derive(Default)]
pub(super) struct Kept {
    second: u64,
    answers: Vec<(String, Option<Bytes>)>,
}

/// The answer to a request.
pub(super) async fn answer(hall: &Arc<Hall>, request: Request<Incoming>) -> Response<Answer> {
    let path = request.uri().path();
    if path == "/healthz" {
        return text(StatusCode::OK, "ok\n");
    }
    let config = &hall.services.config;
    if let Some(refusal) = access::refusal(config, request.headers()) {
        return refusal;
    }
    match (request.method(), path) {
        (&Method::POST, "/purge" | "/compact") => {
            match access::action_refusal(config, request.headers()) {
                Some(refusal) => refusal,
                None => act(hall, path == "/compact").await,
            }
        }
        (_, "/purge" | "/compact") => not_allowed("POST"),
        (&Method::GET | &Method::HEAD, _) => {
            let accepted = request.headers().get(header::ACCEPT);
            let open = accepted.and_then(|value| value.to_str().ok());
            let open = open.is_some_and(|value| value.contains("application/openmetrics-text"));
            read(hall, path, request.uri().query(), open)
        }
        _ => not_allowed("GET, HEAD"),
    }
}

fn not_allowed(methods: &'static str) -> Response<Answer> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "No such method here.\n");
    let methods = HeaderValue::from_static(methods);
    response.headers_mut().insert(header::ALLOW, methods);
    response
}

/// What is there to read; metrics as OpenMetrics if they are wanted so.
fn read(hall: &Hall, path: &str, query: Option<&str>, open: bool) -> Response<Answer> {
    let number = |name: &str| -> Option<u64> {
        let pairs = query?.split('&').filter_map(|pair| pair.split_once('='));
        let (_, value) = pairs.into_iter().find(|(known, _)| *known == name)?;
        value.parse().ok()
    };
    if let Some((_, content_type, file)) = FILES.iter().find(|(known, ..)| *known == path) {
        let mut response = whole(content_type, file.as_bytes());
        let revalidate = HeaderValue::from_static("no-cache");
        response
            .headers_mut()
            .insert(header::CACHE_CONTROL, revalidate);
        return response;
    }
    let found = match path {
        "/events" => {
            return match hall.live.open(&hall.services) {
                Some(events) => respond(
                    StatusCode::OK,
                    "text/event-stream; charset=utf-8",
                    Answer::Events(events),
                ),
                None => text(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "Too many pages are open.\n",
                ),
            };
        }
        "/metrics" => keep(hall, "metrics".to_owned(), || Some(metrics_text(hall))).map(|bytes| {
            whole(
                if open {
                    metrics::OPEN_METRICS
                } else {
                    metrics::PLAIN
                },
                bytes,
            )
        }),
        "/history" => {
            let Some((step, rows)) = span(query) else {
                let usage = "Ask for /history?seconds=N or /history?minutes=N, N a whole number from 1 on.\n";
                return text(StatusCode::BAD_REQUEST, usage);
            };
            let rows = (rows as usize).min(ROWS_MAX[step as usize]);
            let name = format!("history {} {rows}", step.seconds());
            keep(hall, name, || Some(history(hall, step, rows))).map(|bytes| whole(JSON, bytes))
        }
        "/chunk" => {
            let at = MapCursor {
                shard: number("shard").map_or(usize::MAX, |shard| shard as usize),
                chunk: number("chunk").map_or(u32::MAX, |chunk| chunk as u32),
            };
            let name = format!("chunk {} {}", at.shard, at.chunk);
            keep(hall, name, || heap_map::chunk(&hall.services.keyspace, at))
                .map(|bytes| whole(JSON, bytes))
        }
        _ => None,
    };
    found.unwrap_or_else(|| text(StatusCode::NOT_FOUND, "There is nothing here.\n"))
}

/// How much of the history is asked for: `seconds=N` or `minutes=N`, or nothing, which is five minutes by the second;
/// `None` for anything else.
fn span(query: Option<&str>) -> Option<(Step, u64)> {
    let Some(query) = query.filter(|query| !query.is_empty()) else {
        return Some((Step::Second, 300));
    };
    let (name, count) = query.split_once('=')?;
    let step = match name {
        "seconds" => Step::Second,
        "minutes" => Step::Minute,
        _ => return None,
    };
    // More than there is means all of it.
    let is_number = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
    let rows = is_number.then(|| count.parse().unwrap_or(u64::MAX))?;
    (rows > 0).then_some((step, rows))
}

/// An answer of this second, if it is known, or what `make` makes.
fn keep(hall: &Hall, name: String, make: impl FnOnce() -> Option<String>) -> Option<Bytes> {
    let second = uptime().as_secs();
    {
        let mut kept = hall.kept.lock();
        if kept.second != second {
            kept.second = second;
            kept.answers = Vec::new();
        }
        if let Some((_, answer)) = kept.answers.iter().find(|(known, _)| *known == name) {
            return answer.clone();
        }
    }
    let answer = make().map(Bytes::from);
    let mut kept = hall.kept.lock();
    if kept.answers.len() < KEPT_MAX {
        kept.answers.push((name, answer.clone()));
    }
    answer
}

fn metrics_text(hall: &Hall) -> String {
    let services = &hall.services;
    let sources = services.sources(services.databases(), services.memory_report());
    let more = More {
        slowlog: &services.slowlog,
        latency: &services.latency,
        classes: live::classes(services),
        http: (hall.connections(), hall.live.pages()),
    };
    metrics::text(&sources, &more)
}

/// `{"start":..,"step":..,"figures":{"rss":[..],..}}`
fn history(hall: &Hall, step: Step, rows: usize) -> String {
    let services = &hall.services;
    services.look();
    let now = uptime();
    let read = services.history.read(step, rows, now);
    let started = (unix_us() / 1_000_000).saturating_sub(now.as_secs());
    let seconds = u64::from(step.seconds());
    let start = started + u64::from(read.start) * seconds;
    let mut out = format!("{{\"start\":{start},\"step\":{seconds},\"figures\":{{");
    for (at, (name, _)) in names().enumerate() {
        let comma = if at > 0 { "," } else { "" };
        // Writing to a string cannot fail.
        let _ = write!(out, "{comma}\"{name}\":");
        json::list(&mut out, read.column(at));
    }
    out.push_str("}}");
    out
}

/// Purges, or compacts and purges, on a thread beside this one.
async fn act(hall: &Arc<Hall>, compact: bool) -> Response<Answer> {
    if hall.acting.swap(true, Ordering::Acquire) {
        return text(StatusCode::CONFLICT, "An action is at work already.\n");
    }
    let worker = Arc::clone(hall);
    let done = tokio::task::spawn_blocking(move || {
        let keyspace = &worker.services.keyspace;
        let (ledger, purged) = if compact {
            let ledger = keyspace.compact();
            (ledger, ledger.purged_bytes)
        } else {
            (Default::default(), keyspace.purge())
        };
        heap::purge();
        worker.acting.store(false, Ordering::Release);
        format!(
            "{{\"moved_objects\":{},\"moved_bytes\":{},\"freed_pages\":{},\"purged_bytes\":{purged},\"us\":{}}}",
            ledger.moved_objects,
            ledger.moved_bytes,
            ledger.freed_pages,
            ledger.time_ns / 1000
        )
    });
    match done.await {
        Ok(json) => whole(JSON, json),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "It did not work.\n"),
    }
}
