//! What the server can say about itself: counters, histograms, the slow log, latency events, and the texts of INFO.

pub(crate) mod clients;
pub(crate) mod compact;
pub(crate) mod doctor;
pub(crate) mod heap_picture;
pub(crate) mod histogram;
pub(crate) mod history;
pub(crate) mod info;
pub(crate) mod latency;
pub(crate) mod memory;
pub(crate) mod metrics;
pub(crate) mod rates;
pub(crate) mod slowlog;
pub(crate) mod standing;
pub(crate) mod stats;
