//! Glob patterns, as `KEYS`, `SCAN`, `CONFIG GET`, `COMMAND LIST` and ACLs understand them.
//!
//! | pattern | matches |
//! |---|---|
//! | `*` | any bytes, also none |
//! | `?` | one byte |
//! | `[abx-z]` | one of these bytes; a range may be written either way round |
//! | `[^a]` | one byte other than these |
//! | `\x` | the byte `x` itself, also inside of brackets |
//!
//! Three corners that clients can see are Redis's: a bracket that is never closed ends with the
//! pattern, a backslash at the very end stands for itself, and a pattern of stars alone does not
//! match the *empty* string ([`Pattern::matches_all`] is what `KEYS *` asks first).
//!
//! A pattern of more than 1000 stars matches nothing that it takes all of them to match, as in Redis.
//!
//! Matching takes O(pattern x text) steps at worst and no memory: of several stars only the last
//! one seen can need another try, since whatever the earlier ones matched can stay as it is.

/// Most stars that are followed in one match; several in a row count as one.
const STARS_MAX: usize = 1000;

/// Whether case counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Case {
    /// Bytes must be equal.
    Sensitive,
    /// ASCII letters are equal to their other case.
    Insensitive,
}

/// A pattern, which borrows its text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pattern<'a> {
    text: &'a [u8],
    case: Case,
}

impl<'a> Pattern<'a> {
    /// A pattern whose letters match exactly.
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self {
            text,
            case: Case::Sensitive,
        }
    }

    /// A pattern that ignores the case of ASCII letters.
    pub(crate) fn ignoring_case(text: &'a [u8]) -> Self {
        Self {
            text,
            case: Case::Insensitive,
        }
    }

    /// Whether the pattern is the single star, which callers may take as "no pattern".
    pub(crate) fn matches_all(&self) -> bool {
        self.text == b"*"
    }

    /// Whether `text` as a whole matches.
    pub(crate) fn matches(&self, text: &[u8]) -> bool {
        if text.is_empty() {
            return self.text.is_empty();
        }
        // Where to go on after a mismatch: the pattern behind the last star, and the text
        // position that this star would have to swallow next.
        let mut retry: Option<(usize, usize)> = None;
        let (mut p, mut t) = (0, 0);
        let mut stars = 0;
        while t < text.len() {
            if self.text.get(p) == Some(&b'*') {
                p += self.text[p..]
                    .iter()
                    .take_while(|&&byte| byte == b'*')
                    .count();
                if p == self.text.len() {
                    return true;
                }
                stars += 1;
                if stars > STARS_MAX {
                    return false;
                }
                retry = Some((p, t));
                continue;
            }
            match self.step(p, text[t]) {
                Some(next) => {
                    p = next;
                    t += 1;
                }
                None => match retry {
                    Some((after_star, swallowed)) => {
                        p = after_star;
                        t = swallowed + 1;
                        retry = Some((after_star, t));
                    }
                    None => return false,
                },
            }
        }
        self.text[p..].iter().all(|&byte| byte == b'*')
    }

    /// Matches one byte against the pattern element at `p`, which is no star; returns where the
    /// next element starts.
    fn step(&self, p: usize, byte: u8) -> Option<usize> {
        match *self.text.get(p)? {
            b'?' => Some(p + 1),
            b'[' => self.step_class(p + 1, byte),
            b'\\' if p + 1 < self.text.len() => self.equal(self.text[p + 1], byte).then_some(p + 2),
            literal => self.equal(literal, byte).then_some(p + 1),
        }
    }

    /// Like [`Self::step`] for a bracket, whose inside starts at `p`.
    fn step_class(&self, mut p: usize, byte: u8) -> Option<usize> {
        let pattern = self.text;
        let negated = pattern.get(p) == Some(&b'^');
        p += usize::from(negated);
        let mut found = false;
        let next = loop {
            match pattern[p..] {
                [] => break p,
                [b'\\', escaped, ..] => {
                    // Inside of brackets an escaped byte matches only itself, in either mode.
                    found |= escaped == byte;
                    p += 2;
                }
                [b']', ..] => break p + 1,
                [first, b'-', last, ..] => {
                    let (low, high) = (first.min(last), first.max(last));
                    found |= (self.fold(low)..=self.fold(high)).contains(&self.fold(byte));
                    p += 3;
                }
                [single, ..] => {
                    found |= self.equal(single, byte);
                    p += 1;
                }
            }
        };
        (found != negated).then_some(next)
    }

    fn fold(&self, byte: u8) -> u8 {
        match self.case {
            Case::Sensitive => byte,
            Case::Insensitive => byte.to_ascii_lowercase(),
        }
    }

    fn equal(&self, a: u8, b: u8) -> bool {
        self.fold(a) == self.fold(b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, text: &str) -> bool {
        Pattern::new(pattern.as_bytes()).matches(text.as_bytes())
    }

    #[test]
    fn elements() {
        for (pattern, text, expected) in [
            ("hello", "hello", true),
            ("hello", "hellO", false),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h*llo", "hllo", true),
            ("h*llo", "heeeello", true),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-b]llo", "hbllo", true),
            ("h[b-a]llo", "hbllo", true),
            ("h[a-b]llo", "hcllo", false),
            (r"h\?llo", "h?llo", true),
            (r"h\?llo", "hello", false),
            (r"h[\]]llo", "h]llo", true),
            (r"h[a\-z]llo", "h-llo", true),
            (r"h[a\-z]llo", "hbllo", false),
            ("a*b*c", "aXbXc", true),
            ("a*b*c", "aXbX", false),
            ("*", "x", true),
            ("a*", "a", true),
            ("a**", "a", true),
            ("*a", "ba", true),
            ("*a*", "a", true),
            ("a?", "a", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn corners_are_those_of_redis() {
        assert!(matches("", ""));
        assert!(!matches("*", ""));
        assert!(!matches("", "x"));
        assert!(matches("\\", "\\"));
        assert!(matches("a[b", "ab"));
        assert!(!matches("a[", "ab"));
        assert!(matches("a[^", "ab"));
        assert!(!matches("a[]", "ab"));
        assert!(matches("a[^]", "ab"));
        assert!(matches("a[a-", "a-"));
        assert!(matches("[a-]", "a"));
        assert!(matches("a[\\", "a\\"));
    }

    #[test]
    fn case_may_be_ignored() {
        let pattern = Pattern::ignoring_case(b"MAX[a-c]*");
        assert!(pattern.matches(b"maxBytes"));
        assert!(pattern.matches(b"maxc"));
        assert!(!pattern.matches(b"maxd"));
        assert!(Pattern::new(b"*").matches_all());
        assert!(!Pattern::new(b"**").matches_all());
    }

    #[test]
    fn a_thousand_stars_are_followed_and_no_more() {
        let text = "a".repeat(3000);
        assert!(matches(&"*a".repeat(1000), &text));
        assert!(!matches(&"*a".repeat(1001), &text));
        assert!(matches(&format!("{}*", "*a".repeat(1000)), &text));
        assert!(matches(&"*".repeat(3000), &text));
    }

    #[test]
    fn many_stars_stay_cheap() {
        let text = "a".repeat(30_000);
        let pattern = format!("{}b", "a*".repeat(50));
        let start = std::time::Instant::now();
        assert!(!matches(&pattern, &text));
        assert!(start.elapsed().as_secs() < 5);
    }

    /// The definition, straight and exponential.
    fn matches_by_definition(pattern: &[u8], text: &[u8]) -> bool {
        match pattern {
            [] => text.is_empty(),
            [b'*', rest @ ..] => {
                (0..=text.len()).any(|skip| matches_by_definition(rest, &text[skip..]))
            }
            _ => text.split_first().is_some_and(|(&byte, rest)| {
                Pattern::new(pattern)
                    .step(0, byte)
                    .is_some_and(|next| matches_by_definition(&pattern[next..], rest))
            }),
        }
    }

    proptest! {
        #[test]
        fn one_retry_position_is_enough(pattern in r"[ab*?\[\]^\\-]{0,10}", text in r"[ab\[-]{1,10}") {
            prop_assert_eq!(
                matches(&pattern, &text),
                matches_by_definition(pattern.as_bytes(), text.as_bytes())
            );
        }

        #[test]
        fn never_panics(pattern: Vec<u8>, text: Vec<u8>) {
            Pattern::new(&pattern).matches(&text);
            Pattern::ignoring_case(&pattern).matches(&text);
        }
    }
}
