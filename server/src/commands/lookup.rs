//! From a name to its command, in a few nanoseconds.
//!
//! Names of up to 16 bytes are folded to lower case and packed into one 128-bit number, whose product with an odd
//! constant picks a place in an open-addressed index with at most a quarter of its places taken. Longer names, of which
//! there are a handful, are compared one by one.

use kvstore::Key;

use crate::commands::args::Args;
use crate::commands::table::{BeginSearch, CommandSpec, FindKeys, KeySpec};
use crate::observe::clients::CommandNames;

/// A command or subcommand in the table that was made for this process.
#[derive(Debug)]
pub(crate) struct Command {
    /// Its record.
    pub(crate) spec: &'static CommandSpec,
    /// Its place in the table.
    pub(crate) index: u16,
    /// Its name as clients call it; of a subcommand with its container, `config|get`.
    pub(crate) name: Box<str>,
    /// Places of its subcommands in the table.
    pub(crate) subcommands: Box<[u16]>,
    /// Place of its container, if it is a subcommand.
    pub(crate) container: Option<u16>,
    keys: KeyLayout,
}

/// Where the keys are, in the forms that nearly all commands have.
#[derive(Clone, Copy, Debug)]
enum KeyLayout {
    None,
    One(usize),
    Range {
        first: usize,
        last: i32,
        step: usize,
    },
    Specs,
}

impl KeyLayout {
    fn of(specs: &[KeySpec]) -> Self {
        match specs {
            [] => Self::None,
            [
                KeySpec {
                    begin: BeginSearch::Index(first),
                    find:
                        FindKeys::Range {
                            last: 0, limit: 0, ..
                        },
                    ..
                },
            ] => Self::One(*first),
            [
                KeySpec {
                    begin: BeginSearch::Index(first),
                    find:
                        FindKeys::Range {
                            last,
                            step,
                            limit: 0,
                        },
                    ..
                },
            ] => Self::Range {
                first: *first,
                last: *last,
                step: *step,
            },
            _ => Self::Specs,
        }
    }
}

/// What a command name led to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Found<'t> {
    /// This command.
    Command(&'t Command),
    /// Nothing.
    UnknownCommand,
    /// A container, but none of its subcommands.
    UnknownSubcommand(&'t Command),
}

/// All commands, ready for lookup.
#[derive(Debug)]
pub(crate) struct CommandTable {
    commands: Vec<Command>,
    /// Place in `commands` plus 1, or 0.
    index: Box<[u16]>,
    /// Commands with names of more than 16 bytes.
    long: Vec<u16>,
}

/// Longest name that is packed into a number, in bytes.
const PACKED_BYTES: usize = 16;

/// Places of the index; a power of two.
const INDEX_LEN: usize = 1024;

#[inline]
fn pack(name: &[u8]) -> Option<u128> {
    let mut bytes = [0u8; PACKED_BYTES];
    bytes.get_mut(..name.len())?.copy_from_slice(name);
    let raw = u128::from_le_bytes(bytes);
    // Bit 5 turns capital letters into small ones. It also maps a few other bytes onto one another, which the
    // comparison that follows tells apart.
    const CASE: u128 = u128::from_le_bytes([0x20; PACKED_BYTES]);
    Some(raw | CASE)
}

#[inline]
fn place(packed: u128) -> usize {
    let folded = (packed as u64) ^ ((packed >> 64) as u64).rotate_left(29);
    (folded.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - INDEX_LEN.trailing_zeros())) as usize
}

impl CommandNames for CommandTable {
    fn name(&self, index: u16) -> &str {
        &self.get(index).name
    }
}

impl CommandTable {
    /// Builds the table from its records.
    pub(crate) fn new(families: &'static [&'static [CommandSpec]]) -> Self {
        let mut commands = Vec::new();
        for spec in families.iter().copied().flatten() {
            add(&mut commands, spec, None);
        }
        let mut table = Self {
            commands,
            index: vec![0; INDEX_LEN].into(),
            long: Vec::new(),
        };
        table.build_index();
        table
    }

    fn build_index(&mut self) {
        self.index.fill(0);
        self.long.clear();
        for at in 0..self.commands.len() {
            let command = &self.commands[at];
            if command.container.is_some() || command.name.is_empty() {
                continue;
            }
            let entry = command.index;
            match pack(command.name.as_bytes()) {
                Some(packed) => {
                    let mut place = place(packed);
                    while self.index[place] != 0 {
                        place = (place + 1) % INDEX_LEN;
                    }
                    self.index[place] = entry + 1;
                }
                None => self.long.push(entry),
            }
        }
    }

    /// Lets a command go by another name, or by none if that is empty.
    ///
    /// # Errors
    /// There is no such command, or the new name is taken; as a text for people.
    pub(crate) fn rename(&mut self, from: &[u8], to: &[u8]) -> Result<(), String> {
        let command = self
            .by_name(from)
            .ok_or("No such command in rename-command")?
            .index;
        if self.by_name(to).is_some() {
            return Err("Target command name already exists".into());
        }
        let name = String::from_utf8_lossy(to).to_ascii_lowercase();
        self.commands[usize::from(command)].name = name.into();
        self.build_index();
        Ok(())
    }

    /// Number of commands and subcommands.
    pub(crate) fn len(&self) -> usize {
        self.commands.len()
    }

    /// The command at `index`.
    #[inline]
    pub(crate) fn get(&self, index: u16) -> &Command {
        &self.commands[usize::from(index)]
    }

    /// All commands and subcommands, each container before its subcommands.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Command> {
        self.commands.iter()
    }

    /// The command of this name, not a subcommand.
    #[inline]
    pub(crate) fn by_name(&self, name: &[u8]) -> Option<&Command> {
        let Some(packed) = pack(name) else {
            let found = self
                .long
                .iter()
                .find(|&&at| self.get(at).name.as_bytes().eq_ignore_ascii_case(name));
            return found.map(|&at| self.get(at));
        };
        let mut place = place(packed);
        loop {
            let entry = self.index[place];
            if entry == 0 {
                return None;
            }
            let command = self.get(entry - 1);
            if command.name.as_bytes().eq_ignore_ascii_case(name) {
                return Some(command);
            }
            place = (place + 1) % INDEX_LEN;
        }
    }

    /// The subcommand of `container` with this name.
    pub(crate) fn subcommand(&self, container: &Command, name: &[u8]) -> Option<&Command> {
        let candidates = container.subcommands.iter().map(|&at| self.get(at));
        candidates
            .into_iter()
            .find(|command| command.spec.name.as_bytes().eq_ignore_ascii_case(name))
    }

    /// The command or subcommand that these arguments call.
    #[inline]
    pub(crate) fn find(&self, args: Args<'_>) -> Found<'_> {
        let Some(command) = args.try_get(0).and_then(|name| self.by_name(name)) else {
            return Found::UnknownCommand;
        };
        if command.subcommands.is_empty() {
            return Found::Command(command);
        }
        match args.try_get(1) {
            None => Found::Command(command),
            Some(name) => match self.subcommand(command, name) {
                Some(subcommand) => Found::Command(subcommand),
                None => Found::UnknownSubcommand(command),
            },
        }
    }
}

fn add(commands: &mut Vec<Command>, spec: &'static CommandSpec, container: Option<(u16, &str)>) {
    let Ok(index) = u16::try_from(commands.len()) else {
        return;
    };
    let name = match container {
        None => spec.name.to_owned(),
        Some((_, container)) => format!("{container}|{}", spec.name),
    };
    let full_name = name.clone();
    commands.push(Command {
        spec,
        index,
        name: name.into(),
        subcommands: Box::default(),
        container: container.map(|(at, _)| at),
        keys: KeyLayout::of(spec.keys),
    });
    let mut subcommands = Vec::new();
    for subcommand in spec.subcommands {
        subcommands.push(u16::try_from(commands.len()).unwrap_or(u16::MAX));
        add(commands, subcommand, Some((index, &full_name)));
    }
    commands[usize::from(index)].subcommands = subcommands.into();
}

impl Command {
    /// Whether `count` arguments, the name included, are what it takes.
    #[inline]
    pub(crate) fn takes(&self, count: usize) -> bool {
        match usize::try_from(self.spec.arity) {
            Ok(exact) => count == exact,
            Err(_) => count >= self.spec.arity.unsigned_abs() as usize,
        }
    }

    /// Calls `visit` with the position of each key among the arguments, in the order of the key specs. Arguments that
    /// do not fit the specs have no keys.
    #[inline]
    pub(crate) fn each_key(&self, args: Args<'_>, mut visit: impl FnMut(usize)) {
        match self.keys {
            KeyLayout::None => {}
            KeyLayout::One(at) => {
                if at < args.len() {
                    visit(at);
                }
            }
            KeyLayout::Range { first, last, step } => {
                each_in_range(first, last, step, 0, args.len(), &mut visit);
            }
            KeyLayout::Specs => {
                for spec in self.spec.keys {
                    each_of_spec(spec, args, &mut visit);
                }
            }
        }
    }

    /// Like [`Command::each_key`], with the key spec that found each key.
    pub(crate) fn each_key_and_spec(&self, args: Args<'_>, mut visit: impl FnMut(usize, &KeySpec)) {
        for spec in self.spec.keys {
            each_of_spec(spec, args, &mut |at| visit(at, spec));
        }
    }

    /// Appends the keys among the arguments to `keys`.
    #[inline]
    pub(crate) fn collect_keys<'a>(
        &self,
        keyspace: &kvstore::Keyspace,
        args: Args<'a>,
        keys: &mut impl Extend<Key<'a>>,
    ) {
        self.each_key(args, |at| {
            keys.extend(std::iter::once(keyspace.key(args.get(at))))
        });
    }
}

fn each_in_range(
    first: usize,
    last: i32,
    step: usize,
    limit: usize,
    count: usize,
    visit: &mut impl FnMut(usize),
) {
    let last = match usize::try_from(last) {
        Ok(offset) => first + offset,
        Err(_) => {
            let end = count.saturating_sub(last.unsigned_abs() as usize);
            // With a limit only the first part of the remaining arguments are keys.
            if limit > 1 && end >= first {
                first + (end - first + 1) / limit - 1
            } else {
                end
            }
        }
    };
    let mut at = first;
    while at <= last && at < count {
        visit(at);
        at += step.max(1);
    }
}

fn each_of_spec(spec: &KeySpec, args: Args<'_>, visit: &mut impl FnMut(usize)) {
    let first = match spec.begin {
        BeginSearch::Index(at) => at,
        BeginSearch::Keyword { keyword, from } => {
            let matches = |at: &usize| args.get(*at).eq_ignore_ascii_case(keyword.as_bytes());
            let found = match usize::try_from(from) {
                Ok(from) => (from..args.len()).find(matches),
                Err(_) => {
                    let from = args.len().saturating_sub(from.unsigned_abs() as usize);
                    (1..=from.min(args.len().saturating_sub(1)))
                        .rev()
                        .find(matches)
                }
            };
            let Some(at) = found else { return };
            at + 1
        }
        BeginSearch::Unknown => return,
    };
    match spec.find {
        FindKeys::Range { last, step, limit } => {
            each_in_range(first, last, step, limit, args.len(), visit)
        }
        FindKeys::KeyNum {
            keynum,
            first: offset,
            step,
        } => {
            let count = args
                .try_get(first + keynum)
                .and_then(kvstore::parse_integer);
            let Some(count) = count.and_then(|count| usize::try_from(count).ok()) else {
                return;
            };
            let keys = (0..count).map_while(|key| {
                let at = key.checked_mul(step.max(1))?.checked_add(first + offset)?;
                (at < args.len()).then_some(at)
            });
            keys.for_each(visit);
        }
        FindKeys::Unknown => {}
    }
}
