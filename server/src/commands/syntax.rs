//! From the syntax line of a command to the argument tree of `COMMAND DOCS`.
//!
//! The line is what a manual would print, with names and versions added where clients need them:
//!
//! ```text
//! key value [condition=NX | XX]@2.6.12 [GET]@6.2.0 [expiration=EX seconds | PX milliseconds]
//! ```
//!
//! | written | meaning |
//! |---|---|
//! | `name`, `name:type` | a value; the type follows from the name or is given |
//! | `TOKEN`, `TOKEN value`, `TOKEN <...>` | a word in capitals, alone or in front of a value or group |
//! | `[...]` | may be left out |
//! | `<...>` | belongs together |
//! | `label=` at the start of a bracket | the name of a choice or of a group of several arguments |
//! | `a \| b` | one of these |
//! | `x...` | once or more; behind a bracket that starts with a token, the token is repeated too |
//! | `x@1.2.3`, `x@1.2.3-4.5.6`, `x@-4.5.6` | since this version, until deprecated in that one |
//! | `name"text"` | shown to humans as `text` |
//! | `name#1` | a key of the command's second key spec (of the first if nothing is said) |

/// What kind of argument this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Any bytes.
    String,
    /// A whole number.
    Integer,
    /// A floating point number.
    Double,
    /// A key.
    Key,
    /// A glob pattern.
    Pattern,
    /// Seconds or milliseconds since 1970.
    UnixTime,
    /// A word that stands for itself.
    PureToken,
    /// One of several.
    OneOf,
    /// Several together.
    Block,
}

impl Kind {
    /// The name in `COMMAND DOCS`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Integer => "integer",
            Self::Double => "double",
            Self::Key => "key",
            Self::Pattern => "pattern",
            Self::UnixTime => "unix-time",
            Self::PureToken => "pure-token",
            Self::OneOf => "oneof",
            Self::Block => "block",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [
            Self::String,
            Self::Integer,
            Self::Double,
            Self::Key,
            Self::Pattern,
            Self::UnixTime,
        ]
        .into_iter()
        .find(|kind| kind.name() == name)
    }

    /// What a value's name says about its type, where nothing else is said.
    fn suggested_by(name: &str) -> Self {
        match name {
            "key" | "key1" | "key2" | "newkey" => Self::Key,
            "pattern" => Self::Pattern,
            "client-id" | "count" | "cursor" | "db" | "decrement" | "end" | "increment"
            | "index" | "milliseconds" | "min-match-len" | "offset" | "seconds" | "start"
            | "timeout" => Self::Integer,
            _ if name.starts_with("unix-time") => Self::UnixTime,
            _ => Self::String,
        }
    }
}

/// One argument, or a choice or group of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Argument<'a> {
    /// The name.
    pub(crate) name: String,
    /// The kind.
    pub(crate) kind: Kind,
    /// What humans are shown; nothing for choices and groups.
    pub(crate) display: Option<String>,
    /// The word in front of it, or for a [`Kind::PureToken`] the word itself.
    pub(crate) token: Option<&'a str>,
    /// Which of the command's key specs finds it, if it is a key.
    pub(crate) key_spec: Option<usize>,
    /// The first version that had it, if later than the command.
    pub(crate) since: Option<&'a str>,
    /// The version that discouraged it.
    pub(crate) deprecated_since: Option<&'a str>,
    /// Whether it may be left out.
    pub(crate) optional: bool,
    /// Whether it may be repeated.
    pub(crate) multiple: bool,
    /// Whether its token is repeated with it.
    pub(crate) multiple_token: bool,
    /// Of a choice or group, what is in it.
    pub(crate) arguments: Vec<Argument<'a>>,
}

impl Argument<'_> {
    /// Appends the argument as a manual would print it: `<value>`, `TOKEN <value>`, `[<optional>]`, `(a | b)`.
    pub(crate) fn write_synopsis(&self, out: &mut String) {
        if self.optional {
            out.push('[');
        }
        if let Some(token) = self.token {
            out.push_str(token);
            if self.kind != Kind::PureToken {
                out.push(' ');
            }
        }
        let repeated = out.len();
        let separator = match self.kind {
            Kind::OneOf => " | ",
            _ => " ",
        };
        let grouped = self.kind == Kind::OneOf && !self.optional;
        if grouped {
            out.push('(');
        }
        for (index, argument) in self.arguments.iter().enumerate() {
            if index > 0 {
                out.push_str(separator);
            }
            argument.write_synopsis(out);
        }
        if grouped {
            out.push(')');
        }
        if let (Some(display), true) = (&self.display, self.kind != Kind::PureToken) {
            out.push('<');
            out.push_str(display);
            out.push('>');
        }
        if self.multiple && self.kind == Kind::OneOf {
            out.push_str(" ...");
        } else if self.multiple {
            let again = out[repeated..].to_owned();
            out.push_str(" [");
            out.push_str(&again);
            out.push_str(" ...]");
        }
        if self.optional {
            out.push(']');
        }
    }
}

/// Why a syntax line is wrong, and where (a byte offset).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    /// What was expected.
    pub(crate) expected: &'static str,
    /// Where.
    pub(crate) at: usize,
}

/// Reads a syntax line. Cost: linear in its length.
pub(crate) fn parse(line: &str) -> Result<Vec<Argument<'_>>, SyntaxError> {
    let mut parser = Parser { line, at: 0 };
    let arguments = parser.sequence()?;
    if parser.at < line.len() {
        return Err(parser.expected("an argument or the end"));
    }
    Ok(arguments)
}

struct Parser<'a> {
    line: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn expected(&self, expected: &'static str) -> SyntaxError {
        SyntaxError {
            expected,
            at: self.at,
        }
    }

    fn rest(&self) -> &'a str {
        &self.line[self.at..]
    }

    fn skip_spaces(&mut self) {
        self.at = self.line.len() - self.rest().trim_start_matches(' ').len();
    }

    fn eat(&mut self, text: &str) -> bool {
        let found = self.rest().starts_with(text);
        if found {
            self.at += text.len();
        }
        found
    }

    /// The longest run of bytes that satisfy `belongs`, which may be empty.
    fn run(&mut self, belongs: impl Fn(u8) -> bool) -> &'a str {
        let rest = self.rest();
        let length = rest
            .bytes()
            .position(|byte| !belongs(byte))
            .unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    fn sequence(&mut self) -> Result<Vec<Argument<'a>>, SyntaxError> {
        let mut arguments = Vec::new();
        loop {
            self.skip_spaces();
            match self.rest().as_bytes().first() {
                None | Some(b']' | b'>' | b'|') => return Ok(arguments),
                Some(b'[') => {
                    self.at += 1;
                    let mut argument = self.alternatives("]")?;
                    argument.optional = true;
                    arguments.push(self.suffixes(argument)?);
                }
                Some(b'<') => {
                    self.at += 1;
                    let argument = self.alternatives(">")?;
                    arguments.push(self.suffixes(argument)?);
                }
                Some(byte) if byte.is_ascii_uppercase() => arguments.push(self.token()?),
                Some(_) => {
                    let value = self.value()?;
                    arguments.push(self.suffixes(value)?);
                }
            }
        }
    }

    /// The inside of a bracket, up to and including `close`.
    fn alternatives(&mut self, close: &str) -> Result<Argument<'a>, SyntaxError> {
        let start = self.at;
        let label = self.run(is_name_byte);
        let label = if !label.is_empty() && self.eat("=") {
            Some(label)
        } else {
            self.at = start;
            None
        };
        let mut alternatives = vec![self.sequence()?];
        while self.eat("|") {
            alternatives.push(self.sequence()?);
        }
        if !self.eat(close) {
            return Err(self.expected("the closing bracket"));
        }
        let one_each = alternatives.iter().all(|sequence| sequence.len() == 1);
        let (kind, mut arguments) = match (alternatives.len(), one_each) {
            (1, _) => (Kind::Block, alternatives.remove(0)),
            (_, true) => (Kind::OneOf, alternatives.into_iter().flatten().collect()),
            (_, false) => return Err(self.expected("exactly one argument per alternative")),
        };
        if kind == Kind::Block && arguments.len() == 1 && label.is_none() {
            return Ok(arguments.remove(0));
        }
        match label {
            Some(label) if !arguments.is_empty() => Ok(Argument {
                arguments,
                ..blank(label.to_owned(), kind)
            }),
            Some(_) => Err(self.expected("an argument in the bracket")),
            None => Err(self.expected("a label for the bracket")),
        }
    }

    /// A word in capitals, with the value or group that may follow it.
    fn token(&mut self) -> Result<Argument<'a>, SyntaxError> {
        let token = self.run(|byte| {
            byte.is_ascii_uppercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.')
        });
        // The three dots of a repetition are no part of the word.
        let dots = token.len() - token.trim_end_matches('.').len();
        self.at -= dots;
        let token = &token[..token.len() - dots];
        let after_token = self.at;
        self.skip_spaces();
        let argument = match self.rest().as_bytes().first() {
            Some(b'<') if self.at > after_token => {
                self.at += 1;
                self.alternatives(">")?
            }
            Some(byte) if self.at > after_token && byte.is_ascii_lowercase() => self.value()?,
            _ => {
                self.at = after_token;
                blank(token.to_ascii_lowercase(), Kind::PureToken)
            }
        };
        self.suffixes(Argument {
            token: Some(token),
            ..argument
        })
    }

    fn value(&mut self) -> Result<Argument<'a>, SyntaxError> {
        let name = self.run(is_name_byte);
        if name.is_empty() {
            return Err(self.expected("a name"));
        }
        let mut value = blank(name.to_owned(), Kind::suggested_by(name));
        if self.eat(":") {
            let kind = self.run(is_name_byte);
            value.kind = Kind::from_name(kind).ok_or_else(|| self.expected("a type"))?;
        }
        if self.eat("\"") {
            value.display = Some(self.run(|byte| byte != b'"').to_owned());
            if !self.eat("\"") {
                return Err(self.expected("the closing quote"));
            }
        }
        if value.kind == Kind::Key {
            value.key_spec = Some(0);
        }
        if self.eat("#") {
            let number = self.run(|byte| byte.is_ascii_digit());
            value.key_spec = Some(number.parse().map_err(|_| self.expected("a number"))?);
        }
        Ok(value)
    }

    fn suffixes(&mut self, mut argument: Argument<'a>) -> Result<Argument<'a>, SyntaxError> {
        loop {
            if self.eat("...") {
                argument.multiple = true;
                argument.multiple_token = argument.optional && argument.token.is_some();
            } else if self.eat("@") {
                if !self.rest().starts_with('-') {
                    argument.since = Some(self.version()?);
                }
                if self.eat("-") {
                    argument.deprecated_since = Some(self.version()?);
                }
            } else {
                return Ok(argument);
            }
        }
    }

    fn version(&mut self) -> Result<&'a str, SyntaxError> {
        let version = self.run(|byte| byte.is_ascii_digit() || byte == b'.');
        if version.split('.').count() != 3 || version.split('.').any(str::is_empty) {
            return Err(self.expected("a version of three numbers"));
        }
        Ok(version)
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
}

fn blank<'a>(name: String, kind: Kind) -> Argument<'a> {
    let display = (!matches!(kind, Kind::OneOf | Kind::Block)).then(|| name.clone());
    Argument {
        name,
        kind,
        display,
        token: None,
        key_spec: None,
        since: None,
        deprecated_since: None,
        optional: false,
        multiple: false,
        multiple_token: false,
        arguments: Vec::new(),
    }
}

/// How many words such arguments take at least, and at most if there is a bound.
#[cfg(test)]
pub(crate) fn word_counts(arguments: &[Argument<'_>]) -> (usize, Option<usize>) {
    let counts = arguments.iter().map(|argument| {
        let token = usize::from(argument.token.is_some());
        let (least, most) = match argument.kind {
            Kind::PureToken => (0, Some(0)),
            Kind::Block => word_counts(&argument.arguments),
            Kind::OneOf => {
                // Where an alternative is marked as optional, so that it can be left out for another,
                // still one of them has to be there.
                let alternatives = argument.arguments.iter().map(|alternative| {
                    word_counts(&[Argument {
                        optional: false,
                        ..alternative.clone()
                    }])
                });
                let (least, most): (Vec<_>, Vec<_>) = alternatives.unzip();
                let most = most.into_iter().collect::<Option<Vec<_>>>();
                (
                    least.into_iter().min().unwrap_or(0),
                    most.and_then(|most| most.into_iter().max()),
                )
            }
            _ => (1, Some(1)),
        };
        let least = if argument.optional { 0 } else { least + token };
        (
            least,
            if argument.multiple {
                None
            } else {
                most.map(|most| most + token)
            },
        )
    });
    counts.fold((0, Some(0)), |(least, most), (more_least, more_most)| {
        (least + more_least, most.zip(more_most).map(|(a, b)| a + b))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(name: &str, kind: Kind) -> Argument<'static> {
        let key_spec = (kind == Kind::Key).then_some(0);
        Argument {
            key_spec,
            ..blank(name.to_owned(), kind)
        }
    }

    fn token(word: &'static str) -> Argument<'static> {
        let name = word.to_ascii_lowercase();
        Argument {
            token: Some(word),
            ..blank(name, Kind::PureToken)
        }
    }

    #[test]
    fn values_take_their_type_from_their_name_or_from_what_is_written() {
        assert_eq!(
            parse("key source:key#1 seconds increment:double unix-time-seconds pattern").unwrap(),
            vec![
                value("key", Kind::Key),
                Argument {
                    key_spec: Some(1),
                    ..value("source", Kind::Key)
                },
                value("seconds", Kind::Integer),
                value("increment", Kind::Double),
                value("unix-time-seconds", Kind::UnixTime),
                value("pattern", Kind::Pattern),
            ]
        );
        assert_eq!(
            parse("addr\"ip:port\"").unwrap()[0].display.as_deref(),
            Some("ip:port")
        );
        assert_eq!(parse("").unwrap(), vec![]);
    }

    #[test]
    fn choices_groups_and_tokens_nest() {
        assert_eq!(
            parse("[condition=NX | XX]@2.6.12 [EX seconds@1.0.0-2.0.0] [GET]").unwrap(),
            vec![
                Argument {
                    optional: true,
                    since: Some("2.6.12"),
                    arguments: vec![token("NX"), token("XX")],
                    ..blank("condition".to_owned(), Kind::OneOf)
                },
                Argument {
                    optional: true,
                    token: Some("EX"),
                    since: Some("1.0.0"),
                    deprecated_since: Some("2.0.0"),
                    ..value("seconds", Kind::Integer)
                },
                Argument {
                    optional: true,
                    ..token("GET")
                },
            ]
        );
        assert_eq!(
            parse("AUTH <auth=username password> <data=key value>...").unwrap(),
            vec![
                Argument {
                    token: Some("AUTH"),
                    arguments: vec![
                        value("username", Kind::String),
                        value("password", Kind::String)
                    ],
                    ..blank("auth".to_owned(), Kind::Block)
                },
                Argument {
                    multiple: true,
                    arguments: vec![value("key", Kind::Key), value("value", Kind::String)],
                    ..blank("data".to_owned(), Kind::Block)
                },
            ]
        );
    }

    #[test]
    fn versions_may_stand_alone_or_in_pairs() {
        let versions = |line| {
            let argument = &parse(line).unwrap()[0];
            (argument.since, argument.deprecated_since)
        };
        assert_eq!(versions("a@1.0.0"), (Some("1.0.0"), None));
        assert_eq!(versions("a@1.0.0-2.0.0"), (Some("1.0.0"), Some("2.0.0")));
        assert_eq!(versions("[X a]@-2.0.0"), (None, Some("2.0.0")));
    }

    #[test]
    fn repetition_includes_the_token_where_the_bracket_is_repeated() {
        let arguments = parse("[ID client-id...] [GET pattern]... [section...]").unwrap();
        let flags = |a: &Argument<'_>| (a.optional, a.multiple, a.multiple_token);
        assert_eq!(
            arguments.iter().map(flags).collect::<Vec<_>>(),
            [(true, true, false), (true, true, true), (true, true, false)]
        );
    }

    #[test]
    fn mistakes_are_found_where_they_are() {
        for (line, expected, at) in [
            ("[key", "the closing bracket", 4),
            ("key]", "an argument or the end", 3),
            ("[NX | XX]", "a label for the bracket", 9),
            ("[x=]", "an argument in the bracket", 4),
            ("[x=a b | c]", "exactly one argument per alternative", 11),
            ("a:wrong", "a type", 7),
            ("a@1.2", "a version of three numbers", 5),
            ("a\"b", "the closing quote", 3),
            ("a#x", "a number", 2),
            ("%", "a name", 0),
        ] {
            assert_eq!(parse(line), Err(SyntaxError { expected, at }), "{line}");
        }
    }

    #[test]
    fn a_synopsis_reads_like_a_manual() {
        let synopsis = |line| {
            let mut out = String::new();
            parse(line).unwrap()[0].write_synopsis(&mut out);
            out
        };
        assert_eq!(synopsis("key"), "<key>");
        assert_eq!(synopsis("[name...]"), "[<name> [<name> ...]]");
        assert_eq!(
            synopsis("<data=key value>..."),
            "<key> <value> [<key> <value> ...]"
        );
        assert_eq!(synopsis("<mode=ON | OFF>"), "(ON | OFF)");
        assert_eq!(
            synopsis("[ID client-id...]"),
            "[ID <client-id> [<client-id> ...]]"
        );
        assert_eq!(synopsis("[c=NX | EX seconds]"), "[NX | EX <seconds>]");
    }

    #[test]
    fn words_are_counted() {
        let count = |line| word_counts(&parse(line).unwrap());
        assert_eq!(
            count("key value [c=NX | XX] [e=EX seconds | KEEPTTL]"),
            (2, Some(5))
        );
        assert_eq!(count("<data=key value>..."), (2, None));
        assert_eq!(
            count("<attr=LIB-NAME libname | LIB-VER libver>"),
            (2, Some(2))
        );
    }
}
