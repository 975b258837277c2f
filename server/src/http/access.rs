//! Who may ask.
//!
//! With `http-password` every request but `/healthz` has to bring the password. Without one, requests are answered
//! only under an address or `localhost`: a site on the internet can have its own name lead to this machine, and a
//! browser would then let it read what is here. What changes anything needs a header that a browser adds for pages of
//! this server only.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};

use super::answer::{Answer, text};
use crate::commands::connection::same;
use crate::config::Config;
use crate::config::directive::Id;

/// Must come with whatever changes anything.
pub(super) const ACTION_HEADER: &str = "x-slabkv-action";

fn value(headers: &HeaderMap, name: impl header::AsHeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// The refusal of a request that may not be answered.
pub(super) fn refusal(config: &Config, headers: &HeaderMap) -> Option<Response<Answer>> {
    if !config.is_set(Id::HttpPassword) {
        let host = value(headers, header::HOST);
        return match host.is_none_or(is_own_host) {
            true => None,
            false => Some(text(
                StatusCode::FORBIDDEN,
                "Without http-password, ask by address or as localhost.\n",
            )),
        };
    }
    let expected = config.text(Id::HttpPassword);
    let given = value(headers, header::AUTHORIZATION).and_then(password);
    if given.is_some_and(|given| same(&expected, &given)) {
        return None;
    }
    let mut response = text(
        StatusCode::UNAUTHORIZED,
        "The password is missing or wrong.\n",
    );
    let scheme = HeaderValue::from_static("Basic realm=\"slabkv\", charset=\"UTF-8\"");
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, scheme);
    Some(response)
}

/// The refusal of a request that would change something, beyond [`refusal`].
pub(super) fn action_refusal(config: &Config, headers: &HeaderMap) -> Option<Response<Answer>> {
    if !allows_actions(config) {
        let why = "Actions need http-password, or http-actions yes.\n";
        return Some(text(StatusCode::FORBIDDEN, why));
    }
    let own = match value(headers, header::ORIGIN) {
        Some(origin) => origin
            .split_once("://")
            .is_some_and(|(_, host)| Some(host) == value(headers, header::HOST)),
        None => true,
    };
    if own && headers.contains_key(ACTION_HEADER) {
        return None;
    }
    let why = "An action has to come from this server's page, with the header x-slabkv-action.\n";
    Some(text(StatusCode::FORBIDDEN, why))
}

/// Whether pages may do something.
pub(super) fn allows_actions(config: &Config) -> bool {
    config.is_set(Id::HttpPassword) || config.is_set(Id::HttpActions)
}

/// The password of an `Authorization` header: of any user, or as a token.
fn password(header: &str) -> Option<Vec<u8>> {
    let (scheme, credentials) = header.split_once(' ')?;
    let credentials = credentials.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(credentials.as_bytes().to_vec());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = STANDARD.decode(credentials).ok()?;
    let colon = pair.iter().position(|&byte| byte == b':')?;
    Some(pair[colon + 1..].to_vec())
}

/// Whether a `Host` header names this machine in a way that nobody else can.
fn is_own_host(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_passwords_are_understood() {
        for host in [
            "localhost",
            "LOCALHOST:80",
            "127.0.0.1:7750",
            "[::1]:7750",
            "10.1.2.3",
        ] {
            assert!(is_own_host(host), "{host}");
        }
        for host in [
            "evil.example",
            "127.0.0.1.evil.example:80",
            "localhost.evil",
            "",
            "[x]",
        ] {
            assert!(!is_own_host(host), "{host}");
        }
        let given = |header| password(header).map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(given("Basic YTpiOmM=").as_deref(), Some("b:c"));
        assert_eq!(given("bearer  b:c ").as_deref(), Some("b:c"));
        for wrong in ["", "Basic", "Basic !", "Basic YQ==", "Digest YTpiOmM="] {
            assert_eq!(given(wrong), None, "{wrong}");
        }
    }
}
