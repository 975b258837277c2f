//! How the text of a setting becomes a value, and a value a text: pure, and with Redis's error texts.

use std::fmt::Write as _;

/// Reads a size in bytes: digits and one of the units b, k, kb, m, mb, g, gb, without regard to case.
pub(crate) fn parse_memory(text: &[u8]) -> Option<u64> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.to_ascii_lowercase().as_slice() {
        b"" | b"b" => 1,
        b"k" => 1_000,
        b"kb" => 1 << 10,
        b"m" => 1_000_000,
        b"mb" => 1 << 20,
        b"g" => 1_000_000_000,
        b"gb" => 1 << 30,
        _ => return None,
    };
    let number: u64 = std::str::from_utf8(number).ok()?.parse().ok()?;
    number.checked_mul(factor)
}

/// Writes a size as a configuration file has it: in the largest unit that divides it.
pub(crate) fn format_memory(bytes: i64) -> String {
    const UNITS: [(i64, &str); 3] = [(1 << 30, "gb"), (1 << 20, "mb"), (1 << 10, "kb")];
    match UNITS
        .iter()
        .find(|(unit, _)| bytes > 0 && bytes % unit == 0)
    {
        Some((unit, name)) => format!("{}{name}", bytes / unit),
        None => bytes.to_string(),
    }
}

/// Puts a text in double quotes with escapes, as it can stand in a configuration file.
pub(crate) fn quote(text: &[u8]) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for &byte in text {
        match byte {
            b'\\' | b'"' => {
                quoted.push('\\');
                quoted.push(char::from(byte));
            }
            b'\n' => quoted.push_str("\\n"),
            b'\r' => quoted.push_str("\\r"),
            b'\t' => quoted.push_str("\\t"),
            0x07 => quoted.push_str("\\a"),
            0x08 => quoted.push_str("\\b"),
            0x20..=0x7e => quoted.push(char::from(byte)),
            other => {
                // Writing to a string cannot fail.
                let _ = write!(quoted, "\\x{other:02x}");
            }
        }
    }
    quoted.push('"');
    quoted
}

/// Classes of keyspace events: the letter and its bit.
const EVENT_CLASSES: [(u8, u32); 15] = [
    (b'g', 1 << 0),
    (b'$', 1 << 1),
    (b'l', 1 << 2),
    (b's', 1 << 3),
    (b'h', 1 << 4),
    (b'z', 1 << 5),
    (b'x', 1 << 6),
    (b'e', 1 << 7),
    (b't', 1 << 8),
    (b'd', 1 << 9),
    (b'n', 1 << 10),
    (b'K', 1 << 11),
    (b'E', 1 << 12),
    (b'm', 1 << 13),
    (b'A', EVENTS_ALL),
];

/// What the letter A stands for: all classes but key misses and new keys.
const EVENTS_ALL: u32 = (1 << 10) - 1;

/// Reads `notify-keyspace-events`.
pub(crate) fn parse_events(text: &[u8]) -> Option<u32> {
    text.iter().try_fold(0, |bits, letter| {
        let (_, bit) = EVENT_CLASSES.iter().find(|(class, _)| class == letter)?;
        Some(bits | bit)
    })
}

/// Writes `notify-keyspace-events` in the order that Redis uses.
pub(crate) fn format_events(bits: u32) -> String {
    let mut text = String::new();
    let all = bits & EVENTS_ALL == EVENTS_ALL;
    if all {
        text.push('A');
    }
    for (letter, bit) in EVENT_CLASSES {
        let covered = all && bit & (EVENTS_ALL | 1 << 10) != 0;
        if letter != b'A' && !covered && bits & bit != 0 {
            text.push(char::from(letter));
        }
    }
    text
}

/// Limits of waiting replies for one class of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct OutputLimit {
    /// Beyond this the client is cut off at once, in bytes; 0 for no limit.
    pub(crate) hard_bytes: u64,
    /// Beyond this the client is cut off after `soft_seconds`, in bytes; 0 for no limit.
    pub(crate) soft_bytes: u64,
    /// How long the soft limit may be exceeded, in seconds.
    pub(crate) soft_seconds: u64,
}

/// The classes of `client-output-buffer-limit`, in the order in which CONFIG GET shows them.
pub(crate) const OUTPUT_CLASSES: [&str; 3] = ["normal", "slave", "pubsub"];

/// Reads `client-output-buffer-limit` over the limits in force: classes that are not named keep theirs.
pub(crate) fn parse_output_limits(
    words: &[&[u8]],
    mut limits: [OutputLimit; 3],
) -> Result<[OutputLimit; 3], &'static str> {
    let (classes, rest) = words.as_chunks::<4>();
    if !rest.is_empty() {
        return Err("Wrong number of arguments in buffer limit configuration.");
    }
    for [class, hard, soft, seconds] in classes {
        let class = match class.to_ascii_lowercase().as_slice() {
            b"normal" => 0,
            b"slave" | b"replica" => 1,
            b"pubsub" => 2,
            _ => return Err("Invalid client class specified in buffer limit configuration."),
        };
        let seconds = std::str::from_utf8(seconds)
            .ok()
            .and_then(|text| text.parse().ok());
        let (Some(hard_bytes), Some(soft_bytes), Some(soft_seconds)) =
            (parse_memory(hard), parse_memory(soft), seconds)
        else {
            return Err(
                "Error in hard, soft or soft_seconds setting in buffer limit configuration.",
            );
        };
        limits[class] = OutputLimit {
            hard_bytes,
            soft_bytes,
            soft_seconds,
        };
    }
    Ok(limits)
}

/// Writes `client-output-buffer-limit` as CONFIG GET shows it.
pub(crate) fn format_output_limits(limits: &[OutputLimit; 3]) -> String {
    let classes = OUTPUT_CLASSES.iter().zip(limits).map(|(class, limit)| {
        format!(
            "{class} {} {} {}",
            limit.hard_bytes, limit.soft_bytes, limit.soft_seconds
        )
    });
    classes.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::parse::split_words;

    #[test]
    fn sizes_have_units() {
        let cases: [(&str, Option<u64>); 9] = [
            ("100", Some(100)),
            ("1k", Some(1000)),
            ("1Kb", Some(1024)),
            ("2mb", Some(2 << 20)),
            ("1g", Some(1_000_000_000)),
            ("3GB", Some(3 << 30)),
            ("1x", None),
            ("", None),
            ("99999999999999999999", None),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_memory(text.as_bytes()), bytes, "{text}");
        }
        for bytes in [0, 1, 1000, 1024, 3 << 20, 5 << 30, 700 << 20] {
            assert_eq!(
                parse_memory(format_memory(bytes).as_bytes()),
                u64::try_from(bytes).ok()
            );
        }
    }

    #[test]
    fn event_classes_are_read_and_written() {
        for (given, shown) in [
            ("", ""),
            ("KEA", "AKE"),
            ("Elg", "glE"),
            ("g$lshzxetdKEm", "AKEm"),
            ("An", "A"),
        ] {
            assert_eq!(
                format_events(parse_events(given.as_bytes()).unwrap()),
                shown,
                "{given}"
            );
        }
        assert_eq!(parse_events(b"Q"), None);
    }

    #[test]
    fn quoted_texts_read_back() {
        for text in [&b"plain"[..], b"a \"b\" \\c\n\r\t\x07\x08\x00\xff"] {
            assert_eq!(
                split_words(quote(text).as_bytes()),
                Some(vec![text.to_vec()])
            );
        }
    }

    #[test]
    fn output_limits_change_only_the_classes_named() {
        let start = [OutputLimit::default(); 3];
        let words: Vec<&[u8]> = vec![b"replica", b"2mb", b"1mb", b"60"];
        let limits = parse_output_limits(&words, start).unwrap();
        assert_eq!(
            format_output_limits(&limits),
            "normal 0 0 0 slave 2097152 1048576 60 pubsub 0 0 0"
        );
        assert!(parse_output_limits(&words[..3], start).is_err());
        assert!(parse_output_limits(&[b"other", b"1", b"1", b"1"], start).is_err());
        assert!(parse_output_limits(&[b"normal", b"1", b"1", b"-1"], start).is_err());
    }
}
