//! The options of SET and GETEX: conditions, and what becomes of the expiration.

use crate::commands::CommandResult;
use crate::commands::args::Args;
use crate::commands::context::Context;
use crate::commands::error::CommandError;

/// When SET writes at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// In any case.
    Always,
    /// If the key is not there.
    IfMissing,
    /// If the key is there.
    IfPresent,
}

/// What an option says about the expiration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// Nothing is said.
    Default,
    /// It stays as it is.
    Keep,
    /// There is to be none.
    Persist,
    /// It is set.
    Until(Time),
}

/// What a time is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
}

/// What a time is counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// When the command runs.
    Now,
    /// 1970.
    Epoch,
}

/// A point in time, as argument `at` gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Time {
    /// What it is counted in.
    pub(crate) unit: Unit,
    /// What it is counted from.
    pub(crate) origin: Origin,
    /// The argument that holds the number.
    pub(crate) at: usize,
}

impl Time {
    /// Milliseconds of Unix time. Zero, negative and overflowing times are refused.
    pub(crate) fn instant_ms(self, ctx: &Context<'_>, args: Args<'_>) -> Result<u64, CommandError> {
        let given = args.integer(self.at)?;
        let scaled = match self.unit {
            Unit::Seconds => given.checked_mul(1000),
            Unit::Milliseconds => Some(given),
        };
        let origin = match self.origin {
            Origin::Now => ctx.now_ms as i64,
            Origin::Epoch => 0,
        };
        let instant = scaled
            .filter(|scaled| *scaled > 0)
            .and_then(|scaled| scaled.checked_add(origin));
        instant
            .map(|instant| instant as u64)
            .ok_or_else(|| ctx.invalid_expire_time())
    }
}

/// Whose options they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    /// `SET`
    Set,
    /// `GETEX`
    GetEx,
}

/// The options of SET and GETEX. An option may be repeated, but not contradicted.
pub(crate) struct Options {
    /// When to write.
    pub(crate) condition: Condition,
    /// Whether the old value is asked for.
    pub(crate) get: bool,
    /// What becomes of the expiration.
    pub(crate) lifetime: Lifetime,
}

impl Options {
    /// Reads the options from argument `start` on.
    pub(crate) fn parse(args: Args<'_>, start: usize, of: Of) -> Result<Self, CommandError> {
        let mut options = Self {
            condition: Condition::Always,
            get: false,
            lifetime: Lifetime::Default,
        };
        let mut at = start;
        while at < args.len() {
            let has_value = at + 1 < args.len();
            let set = of == Of::Set;
            if set && args.is(at, "nx") && options.condition != Condition::IfPresent {
                options.condition = Condition::IfMissing;
            } else if set && args.is(at, "xx") && options.condition != Condition::IfMissing {
                options.condition = Condition::IfPresent;
            } else if set && args.is(at, "get") {
                options.get = true;
            } else if set && args.is(at, "keepttl") {
                options.limit(Lifetime::Keep)?;
            } else if !set && args.is(at, "persist") {
                options.limit(Lifetime::Persist)?;
            } else if let Some((unit, origin)) = time_option(args.get(at)).filter(|_| has_value) {
                at += 1;
                options.limit(Lifetime::Until(Time { unit, origin, at }))?;
            } else {
                return Err(CommandError::SYNTAX);
            }
            at += 1;
        }
        Ok(options)
    }

    /// Takes what an option says about the expiration, unless another option said otherwise.
    fn limit(&mut self, lifetime: Lifetime) -> CommandResult {
        let agree = match (self.lifetime, lifetime) {
            (Lifetime::Default, _) => true,
            (Lifetime::Until(old), Lifetime::Until(new)) => {
                (old.unit, old.origin) == (new.unit, new.origin)
            }
            (old, new) => old == new,
        };
        self.lifetime = lifetime;
        if agree {
            Ok(())
        } else {
            Err(CommandError::SYNTAX)
        }
    }
}

fn time_option(word: &[u8]) -> Option<(Unit, Origin)> {
    const WORDS: [(&[u8], Unit, Origin); 4] = [
        (b"ex", Unit::Seconds, Origin::Now),
        (b"px", Unit::Milliseconds, Origin::Now),
        (b"exat", Unit::Seconds, Origin::Epoch),
        (b"pxat", Unit::Milliseconds, Origin::Epoch),
    ];
    let found = WORDS
        .iter()
        .find(|(name, ..)| word.eq_ignore_ascii_case(name));
    found.map(|&(_, unit, origin)| (unit, origin))
}
