//! Plain HTTP to a server under test, byte by byte where a test wants it so.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use super::{Client, ok};

/// Has the server serve HTTP on a port that nobody uses, and returns the port.
pub(crate) fn open_port(client: &mut Client) -> u16 {
    loop {
        let probe = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = probe.local_addr().expect("an address").port();
        drop(probe);
        // Somebody else may have taken it meanwhile.
        if client.run(&format!("CONFIG SET http-port {port}")) == ok() {
            return port;
        }
    }
}

/// A connection.
pub(crate) fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("the server accepts");
    let timeout = Some(Duration::from_secs(60));
    stream.set_read_timeout(timeout).expect("a timeout");
    stream
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// Sends a request with these further header lines, each ended by a line break, and reads all of the response.
pub(crate) fn request(port: u16, line: &str, headers: &str) -> Response {
    let mut stream = connect(port);
    let text =
        format!("{line} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(text.as_bytes()).expect("it is taken");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("a response");
    let text = String::from_utf8(bytes).expect("it is text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    Response {
        status: status.expect("a status"),
        head: head.to_owned(),
        body: match head.to_lowercase().contains("transfer-encoding: chunked") {
            true => whole(body),
            false => body.to_owned(),
        },
    }
}

/// A body that comes in chunks, each behind its length.
fn whole(mut chunks: &str) -> String {
    let mut body = String::new();
    while let Some((length, rest)) = chunks.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).expect("a length");
        body.push_str(&rest[..length]);
        chunks = rest[length..].trim_start_matches("\r\n");
    }
    body
}

/// The body of a page that has to be there.
pub(crate) fn get(port: u16, path: &str) -> String {
    let response = request(port, &format!("GET {path}"), "");
    assert_eq!(response.status, 200, "{path}: {response:?}");
    response.body
}

/// Sends a request with a body and returns the body of the response, whatever its status.
pub(crate) fn whole_request(port: u16, method: &str, path: &str, body: &str) -> String {
    let length = body.len();
    let mut stream = connect(port);
    let text = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(text.as_bytes()).expect("it is taken");
    // Not everybody closes the connection: the head says how long the body is.
    let mut reader = BufReader::new(stream);
    let (mut line, mut length) = (String::new(), 0);
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).expect("a head");
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().expect("a length");
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    String::from_utf8(body).expect("it is text")
}
