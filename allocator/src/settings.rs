//! What a user may set about the process heap, and how the environment says it.
//!
//! ```text
//! SLAB_ALLOC_OPTIONS=profile:low,purge_delay_ms:250,stats_at_exit:text
//! ```
//!
//! Items are `name:value`, separated by commas; spaces around names and values do
//! not count. The profile is applied first, wherever it stands, then the other items
//! in order, so that the last one of a name holds.
//!
//! | name | value | `low` | `server` | `throughput` |
//! |---|---|---|---|---|
//! | `profile` | `low`, `server` or `throughput` | | by default | |
//! | `purge_delay_ms` | 0 to 86400000: milliseconds within which free pages go back to the system, up to 8 times as many where the heap is smaller than 64 MiB or pages come straight back; 0 is as soon as possible | 0 | 1000 | 10000 |
//! | `background_thread` | `true` or `false`: whether a thread of the heap's gives pages back; else calls of the program do so now and then, and an idle program keeps them | `true` | `true` | `true` |
//! | `cache_bytes` | 0 to 4194304: most bytes of free objects that a thread keeps at hand, 2 to 16 objects of each size aside | 65536 | 1048576 | 4194304 |
//! | `huge_pages` | `off`, or `dense`: whether chunks of 2 MiB that have been in use in full for some seconds get huge pages | `off` | `off` | `dense` |
//! | `stats_at_exit` | `text` (or `true`), `json` or `false`: whether and how statistics are written to standard error when the program exits | `false` | `false` | `false` |
//! | `heap_profile` | 0 to 1073741824: bytes between two samples of the [heap profile](crate::SlabAlloc::start_heap_profile) on average; 0 is none, 1 is every allocation | 0 | 0 | 0 |
//! | `heap_profile_file` | the start of a path, of at most 255 bytes: the heap profile is written to a file `PATH.PID.pb.gz` when the program exits | | | |
//!
//! An item that is none of these is ignored, and one line on standard error says so.
//! The variable is read once, when the heap is first used, and not at all in a
//! program that runs with other rights than its caller's (setuid).

/// The variable's name.
pub(crate) const VARIABLE: &core::ffi::CStr = c"SLAB_ALLOC_OPTIONS";

const PURGE_DELAY_MS_MAX: u32 = 86_400_000;
const CACHE_BYTES_MAX: u32 = 4 << 20;
const SAMPLE_BYTES_MAX: u32 = 1 << 30;
/// Longest start of a file's path, in bytes.
pub(crate) const PATH_BYTES_MAX: usize = 255;
/// The name of the option that has one.
pub(crate) const HEAP_PROFILE_FILE: &str = "heap_profile_file";

/// What a program wants of the heap, in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// Memory first: free pages go back at once, and little stays at hand.
    Low,
    /// A program that shall shrink within a second when it is idle.
    #[default]
    Server,
    /// Time first: free pages stay for ten seconds, and much is at hand.
    Throughput,
}

/// Which memory of the heap the system may put huge pages behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// None.
    #[default]
    Off,
    /// Chunks of 2 MiB all of whose pages have been in use for some seconds, as long as
    /// they are. The heap never gets larger by it. Needs the background thread.
    Dense,
}

/// What is written to standard error when the program exits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExitReport {
    /// Nothing.
    #[default]
    None,
    /// Statistics as text, with `slabkv: ` before each line.
    Text,
    /// Statistics as one line of JSON.
    Json,
}

/// What can be set about the process heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Milliseconds within which free pages go back to the system.
    pub purge_delay_ms: u32,
    /// Whether a thread of the heap's gives pages back.
    pub background_thread: bool,
    /// Most bytes of free objects that a thread keeps at hand.
    pub cache_bytes: usize,
    /// Which memory gets huge pages.
    pub huge_pages: HugePages,
    /// What is written to standard error when the program exits.
    pub stats_at_exit: ExitReport,
    /// Bytes between two samples of the heap profile on average; 0 while it is off.
    pub heap_profile: u32,
}

impl Profile {
    /// What the profile stands for.
    ///
    /// ```
    /// use slab_allocator::Profile;
    ///
    /// assert_eq!(Profile::Low.settings().purge_delay_ms, 0);
    /// ```
    pub const fn settings(self) -> Settings {
        let (purge_delay_ms, cache_bytes, huge_pages) = match self {
            Profile::Low => (0, 64 << 10, HugePages::Off),
            Profile::Server => (1000, 1 << 20, HugePages::Off),
            Profile::Throughput => (10_000, 4 << 20, HugePages::Dense),
        };
        Settings {
            purge_delay_ms,
            background_thread: true,
            cache_bytes,
            huge_pages,
            stats_at_exit: ExitReport::None,
            heap_profile: 0,
        }
    }
}

impl Default for Settings {
    /// Those of the default profile.
    fn default() -> Settings {
        Profile::default().settings()
    }
}

/// An option: its name, what its values are, and what a value does. False where the
/// value is none.
struct Setting {
    name: &'static str,
    expected: &'static str,
    set: fn(&mut Settings, &[u8]) -> bool,
}

/// All options; the profile is the first.
const TABLE: [Setting; 8] = [
    Setting {
        name: "profile",
        expected: "profile takes low, server or throughput",
        set: |settings, value| {
            let profile = match value {
                b"low" => Profile::Low,
                b"server" => Profile::Server,
                b"throughput" => Profile::Throughput,
                _ => return false,
            };
            *settings = profile.settings();
            true
        },
    },
    Setting {
        name: "purge_delay_ms",
        expected: "purge_delay_ms takes a number from 0 to 86400000",
        set: |settings, value| {
            number(value, PURGE_DELAY_MS_MAX).is_some_and(|ms| {
                settings.purge_delay_ms = ms;
                true
            })
        },
    },
    Setting {
        name: "background_thread",
        expected: "background_thread takes true or false",
        set: |settings, value| switch(value, &mut settings.background_thread),
    },
    Setting {
        name: "cache_bytes",
        expected: "cache_bytes takes a number from 0 to 4194304",
        set: |settings, value| {
            number(value, CACHE_BYTES_MAX).is_some_and(|bytes| {
                settings.cache_bytes = bytes as usize;
                true
            })
        },
    },
    Setting {
        name: "huge_pages",
        expected: "huge_pages takes off or dense",
        set: |settings, value| {
            settings.huge_pages = match value {
                b"off" => HugePages::Off,
                b"dense" => HugePages::Dense,
                _ => return false,
            };
            true
        },
    },
    Setting {
        name: "stats_at_exit",
        expected: "stats_at_exit takes text, json or false",
        set: |settings, value| {
            settings.stats_at_exit = match value {
                b"text" | b"true" => ExitReport::Text,
                b"json" => ExitReport::Json,
                b"false" => ExitReport::None,
                _ => return false,
            };
            true
        },
    },
    Setting {
        name: "heap_profile",
        expected: "heap_profile takes a number from 0 to 1073741824",
        set: |settings, value| {
            number(value, SAMPLE_BYTES_MAX).is_some_and(|bytes| {
                settings.heap_profile = bytes;
                true
            })
        },
    },
    Setting {
        name: HEAP_PROFILE_FILE,
        expected: "heap_profile_file takes the start of a path, of at most 255 bytes",
        // Whoever needs it asks for the value.
        set: |_, value| !value.is_empty() && value.len() <= PATH_BYTES_MAX,
    },
];

/// What a line says of an item whose name is none of the table's.
const UNKNOWN: &str = "the options are profile, purge_delay_ms, background_thread, cache_bytes, \
                       huge_pages, stats_at_exit, heap_profile and heap_profile_file, each \
                       followed by a colon and a value";

/// The settings that the text stands for. Calls `complain` with each item that is
/// none, and with what would be right.
pub(crate) fn parse(text: &[u8], mut complain: impl FnMut(&[u8], &'static str)) -> Settings {
    let mut settings = Settings::default();
    let mut wrong = |item: &[u8], expected| complain(item, expected);
    for is_profile in [true, false] {
        for item in text.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            let (name, value) = split(item);
            let at = TABLE.iter().position(|known| known.name.as_bytes() == name);
            // What is nobody's comes with the rest.
            if item.is_empty() || (at == Some(0)) != is_profile {
                continue;
            }
            match at {
                Some(at) if (TABLE[at].set)(&mut settings, value) => {}
                Some(at) => wrong(item, TABLE[at].expected),
                None => wrong(item, UNKNOWN),
            }
        }
    }
    settings
}

/// The last value of an option that is within its bounds.
#[cfg(all(feature = "pprof", not(loom)))]
pub(crate) fn value_of<'a>(text: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let known = TABLE.iter().find(|known| known.name == name)?;
    text.split(|byte| *byte == b',')
        .map(|item| split(item.trim_ascii()))
        .rfind(|(found, value)| {
            *found == name.as_bytes() && (known.set)(&mut Settings::default(), value)
        })
        .map(|(_, value)| value)
}

/// The name and the value of an item.
fn split(item: &[u8]) -> (&[u8], &[u8]) {
    match item.iter().position(|byte| *byte == b':') {
        Some(colon) => (item[..colon].trim_ascii(), item[colon + 1..].trim_ascii()),
        None => (item, &[][..]),
    }
}

/// A decimal number of at most `max`.
fn number(text: &[u8], max: u32) -> Option<u32> {
    if text.is_empty() {
        return None;
    }
    text.iter()
        .try_fold(0_u32, |number, byte| {
            let digit = byte.wrapping_sub(b'0');
            let larger = number.checked_mul(10)?.checked_add(u32::from(digit))?;
            (digit < 10).then_some(larger)
        })
        .filter(|number| *number <= max)
}

fn switch(text: &[u8], on: &mut bool) -> bool {
    *on = match text {
        b"true" => true,
        b"false" => false,
        _ => return false,
    };
    true
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> (Settings, Vec<String>) {
        let mut wrong = Vec::new();
        let settings = parse(text.as_bytes(), |item, _| {
            wrong.push(String::from_utf8_lossy(item).into_owned());
        });
        (settings, wrong)
    }

    #[test]
    fn the_profile_comes_first_wherever_it_stands() {
        let expected = Settings {
            purge_delay_ms: 7,
            ..Profile::Throughput.settings()
        };
        for text in [
            "profile:throughput,purge_delay_ms:7",
            " purge_delay_ms : 7 ,, profile: throughput,",
            "profile:low,purge_delay_ms:9,purge_delay_ms:7,profile:throughput",
        ] {
            assert_eq!(parsed(text), (expected, vec![]), "{text}");
        }
        assert_eq!(parsed(""), (Settings::default(), vec![]));
    }

    #[test]
    fn what_is_wrong_is_named_and_changes_nothing() {
        for item in [
            "profile:fast",
            "profile",
            "purge_delay_ms:-1",
            "purge_delay_ms:86400001",
            "purge_delay_ms:99999999999999999999",
            "purge_delay_ms:",
            "purge_delay_ms:1s",
            "background_thread:yes",
            "cache_bytes:4194305",
            "huge_pages:always",
            "stats_at_exit:TRUE",
            "heap_profile:1073741825",
            "heap_profile:on",
            "heap_profile_file:",
            "cache_byte:1",
            ":",
            "true",
        ] {
            let (settings, wrong) = parsed(&format!("cache_bytes:5,{item}"));
            assert_eq!(settings.cache_bytes, 5);
            let others = Settings {
                cache_bytes: Settings::default().cache_bytes,
                ..settings
            };
            assert_eq!(
                (others, wrong),
                (Settings::default(), vec![item.to_owned()])
            );
        }
    }

    #[cfg(feature = "pprof")]
    #[test]
    fn the_last_value_within_bounds_is_found() {
        let long = "x".repeat(PATH_BYTES_MAX + 1);
        let text = format!(
            "heap_profile_file:a,profile:low, heap_profile_file : /b/c ,\
                            heap_profile_file:{long},heap_profile_file"
        );
        let value =
            |text: &str| value_of(text.as_bytes(), HEAP_PROFILE_FILE).map(|value| value.to_vec());
        assert_eq!(value(&text).as_deref(), Some(&b"/b/c"[..]));
        assert_eq!(value("heap_profile:1"), None);
    }

    #[test]
    fn the_last_line_names_every_option() {
        for setting in &TABLE {
            assert!(UNKNOWN.contains(setting.name));
            assert!(setting.expected.starts_with(setting.name));
        }
    }

    /// The settings as a text of the above form.
    fn written(settings: &Settings) -> Vec<String> {
        vec![
            format!("purge_delay_ms:{}", settings.purge_delay_ms),
            format!("background_thread:{}", settings.background_thread),
            format!("cache_bytes:{}", settings.cache_bytes),
            format!(
                "huge_pages:{}",
                match settings.huge_pages {
                    HugePages::Off => "off",
                    HugePages::Dense => "dense",
                }
            ),
            match settings.stats_at_exit {
                ExitReport::None => "stats_at_exit:false",
                ExitReport::Text => "stats_at_exit:text",
                ExitReport::Json => "stats_at_exit:json",
            }
            .to_owned(),
            format!("heap_profile:{}", settings.heap_profile),
        ]
    }

    prop_compose! {
        fn settings()(
            purge_delay_ms in 0..=PURGE_DELAY_MS_MAX,
            background_thread in any::<bool>(),
            cache_bytes in 0..=CACHE_BYTES_MAX as usize,
            huge_pages in prop::sample::select(vec![HugePages::Off, HugePages::Dense]),
            stats_at_exit in prop::sample::select(
                vec![ExitReport::None, ExitReport::Text, ExitReport::Json]
            ),
            heap_profile in 0..=SAMPLE_BYTES_MAX,
        ) -> Settings {
            Settings {
                purge_delay_ms, background_thread, cache_bytes, huge_pages, stats_at_exit,
                heap_profile,
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..<_>::default() })]

        /// What is written is read back, in any order, after any profile and any
        /// earlier values.
        #[test]
        fn settings_are_read_back(
            wanted in settings(),
            earlier in settings(),
            items in Just(vec![0, 1, 2, 3, 4, 5]).prop_shuffle(),
            profile in prop::sample::select(vec!["low", "server", "throughput"]),
            place in 0_usize..13,
        ) {
            let mut all = written(&earlier);
            all.extend(items.iter().map(|at| written(&wanted)[*at].clone()));
            all.insert(place, format!("profile:{profile}"));
            prop_assert_eq!(parsed(&all.join(",")), (wanted, vec![]));
        }

        /// Any bytes at all give settings within their bounds, and every complaint
        /// is about a piece of them.
        #[test]
        fn any_bytes_give_settings(
            text in prop::collection::vec(
                prop_oneof![
                    any::<u8>().prop_map(|byte| vec![byte]),
                    prop::sample::select(TABLE.map(|setting| setting.name).to_vec())
                        .prop_map(|name| name.as_bytes().to_vec()),
                    prop::sample::select(vec![":", ",", "true", "low", "12", "99999999999"])
                        .prop_map(|piece| piece.as_bytes().to_vec()),
                ],
                0..40,
            ).prop_map(|pieces| pieces.concat()),
        ) {
            let items = text.split(|byte| *byte == b',').count();
            let mut complaints = 0;
            let settings = parse(&text, |item, expected| {
                assert!(text.windows(item.len()).any(|part| part == item));
                assert!(!expected.is_empty());
                complaints += 1;
            });
            prop_assert!(complaints <= items);
            prop_assert!(settings.purge_delay_ms <= PURGE_DELAY_MS_MAX);
            prop_assert!(settings.cache_bytes <= CACHE_BYTES_MAX as usize);
            prop_assert!(settings.heap_profile <= SAMPLE_BYTES_MAX);
        }
    }
}
