//! The words of directives whose values have a form of their own: checked, and turned into what is kept.

pub(super) fn within(value: i64, least: i64, most: i64) -> Result<i64, String> {
    if (least..=most).contains(&value) {
        Ok(value)
    } else {
        Err(format!(
            "argument must be between {least} and {most} inclusive"
        ))
    }
}

pub(super) fn one_of(names: &[&str]) -> String {
    format!(
        "argument(s) must be one of the following: {}",
        names.join(", ")
    )
}

pub(super) fn parse_options(names: &[&str], words: &[&[u8]]) -> Option<i64> {
    if words.is_empty() {
        return None;
    }
    words.iter().try_fold(0, |bits, word| {
        let place = names
            .iter()
            .position(|name| name.as_bytes().eq_ignore_ascii_case(word))?;
        Some(bits | (1 << place & !1))
    })
}

pub(super) fn show_options(names: &[&str], bits: i64) -> String {
    if bits == 0 {
        return names.first().copied().unwrap_or_default().to_owned();
    }
    let chosen = names
        .iter()
        .enumerate()
        .filter(|(place, _)| bits >> place & 1 == 1);
    chosen.map(|(_, name)| *name).collect::<Vec<_>>().join(" ")
}

pub(super) fn parse_save(words: &[&[u8]]) -> Result<Vec<u8>, &'static str> {
    let words = if words == [b""] { &[] } else { words };
    let (pairs, rest) = words.as_chunks::<2>();
    let valid = pairs.iter().all(|[seconds, changes]| {
        kvstore::parse_integer(seconds).is_some_and(|value| value >= 1)
            && kvstore::parse_integer(changes).is_some_and(|value| value >= 0)
    });
    if valid && rest.is_empty() {
        Ok(words.join(&b' '))
    } else {
        Err("Invalid save parameters")
    }
}

pub(super) fn parse_percentiles(words: &[&[u8]]) -> Result<String, &'static str> {
    let mut shown = Vec::new();
    for word in words {
        let value: Option<f64> = std::str::from_utf8(word)
            .ok()
            .and_then(|text| text.parse().ok());
        let value = value.ok_or("Invalid latency-tracking-info-percentiles parameters")?;
        if !(0.0..=100.0).contains(&value) {
            return Err(
                "latency-tracking-info-percentiles parameters should sit between [0.0,100.0]",
            );
        }
        shown.push(value.to_string());
    }
    Ok(shown.join(" "))
}

pub(super) fn parse_oom_scores(words: &[&[u8]]) -> Result<String, &'static str> {
    if words.len() != 3 {
        return Err("wrong number of arguments");
    }
    let mut shown = Vec::new();
    for word in words {
        let value = kvstore::parse_integer(word).filter(|value| (-2000..=2000).contains(value));
        let value = value
            .ok_or("Invalid oom-score-adj-values, elements must be between -2000 and 2000.")?;
        shown.push(value.to_string());
    }
    Ok(shown.join(" "))
}

pub(super) fn check_replica_of(words: &[&[u8]]) -> Result<(), &'static str> {
    match words {
        [] => Ok(()),
        [host, port] if host.eq_ignore_ascii_case(b"no") && port.eq_ignore_ascii_case(b"one") => {
            Ok(())
        }
        [_, port] => match kvstore::parse_integer(port) {
            Some(0..=65535) => Ok(()),
            _ => Err("Invalid master port"),
        },
        _ => Err("wrong number of arguments"),
    }
}

/// Whether each brace of a template of the process title holds a variable that Redis knows.
pub(super) fn is_title_template(template: &[u8]) -> bool {
    const VARIABLES: [&[u8]; 7] = [
        b"title",
        b"listen-addr",
        b"server-mode",
        b"port",
        b"tls-port",
        b"unixsocket",
        b"config-file",
    ];
    let mut rest = template;
    while let Some(open) = rest.iter().position(|&byte| byte == b'{') {
        let Some(close) = rest[open..].iter().position(|&byte| byte == b'}') else {
            return false;
        };
        if !VARIABLES.contains(&&rest[open + 1..open + close]) {
            return false;
        }
        rest = &rest[open + close + 1..];
    }
    !template.is_empty()
}
