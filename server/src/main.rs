//! `slabkv-server`: a key-value server that speaks RESP, gives memory back and says where it is.
//!
//! # Layers
//!
//! A file imports only from rows above its own; `tests/layers.rs` holds the order.
//!
//! | row | files |
//! |---|---|
//! | words | `clock` `extended` `glob` `lcs` `number` |
//! | wire | `resp` |
//! | settings | `config` |
//! | sockets | `net` |
//! | clients | `clients`, then `session` |
//! | figures | `observe` |
//! | commands | `commands` |
//! | engine | `worker`, then `server`, then `main` |

#![allow(dead_code)]

mod clients;
mod clock;
mod commands;
mod config;
mod extended;
mod glob;
mod lcs;
mod net;
mod number;
mod observe;
mod resp;
mod server;
mod session;
mod worker;

use std::process::ExitCode;

fn main() -> ExitCode {
    clock::start();
    let mut config = config::Config::defaults();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--port" {
            config.port = words
                .next()
                .and_then(|port| port.parse().ok())
                .unwrap_or(config.port);
        }
    }
    match server::serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
