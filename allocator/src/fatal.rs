//! The end of the process when the heap can no longer be trusted.
//!
//! A corrupted heap must not go on, and must not allocate on its way out: the
//! message is put together on the stack and written with one `write`.

/// What the program has done, in the words of the messages.
pub(crate) const DOUBLE_FREE: &str = "double free";
pub(crate) const INTERIOR: &str = "free of a pointer into the middle of an object";
pub(crate) const NOT_ALLOCATED: &str = "free of a pointer that was not allocated";
pub(crate) const WRONG_SIZE: &str =
    "free of a pointer with another size than it was allocated with";

/// Writes `slabkv: <what> (0x<value>)` to standard error and aborts.
///
/// `value` is the address or number that the message is about.
#[cold]
#[inline(never)]
pub(crate) fn fatal(what: &'static str, value: usize) -> ! {
    let mut message = Message::<160>::begin();
    message.text(what);
    message.text(" (0x");
    message.hexadecimal(value);
    message.text(")\n");
    message.write_and_abort()
}

/// Writes `slabkv: <what> (0x<object>, class of <bytes> bytes)` to standard error and
/// aborts: what a program has done to an object in a slot of that many bytes.
#[cold]
#[inline(never)]
pub(crate) fn misuse(what: &'static str, object: usize, slot_bytes: u32) -> ! {
    let mut message = Message::<160>::begin();
    message.text(what);
    message.text(" (0x");
    message.hexadecimal(object);
    message.text(", class of ");
    message.decimal(slot_bytes);
    message.text(" bytes)\n");
    message.write_and_abort()
}

/// Writes `slabkv: <where>: "<item>" is ignored: <what>` to standard error. What is not
/// printable of the item shows as a question mark, and only its start if it is long.
#[cold]
pub(crate) fn complain(place: &str, item: &[u8], what: &'static str) {
    const ITEM_BYTES_MAX: usize = 48;
    let mut message = Message::<320>::begin();
    message.text(place);
    message.text(": \"");
    message.printable(&item[..item.len().min(ITEM_BYTES_MAX)]);
    message.text("\" is ignored: ");
    message.text(what);
    message.text("\n");
    message.write();
}

struct Message<const BYTES: usize> {
    bytes: [u8; BYTES],
    length: usize,
}

impl<const BYTES: usize> Message<BYTES> {
    /// A message that says whose it is.
    fn begin() -> Self {
        let mut message = Self {
            bytes: [0; BYTES],
            length: 0,
        };
        message.text("slabkv: ");
        message
    }

    /// Appends as much as there is room for.
    fn text(&mut self, text: &str) {
        for (to, from) in self.bytes.iter_mut().skip(self.length).zip(text.bytes()) {
            *to = from;
            self.length += 1;
        }
    }

    fn write(&self) {
        // SAFETY: The buffer is valid for `length` bytes. A write that fails leaves
        // nothing better to try.
        unsafe { libc::write(libc::STDERR_FILENO, self.bytes.as_ptr().cast(), self.length) };
    }

    fn write_and_abort(&self) -> ! {
        self.write();
        // SAFETY: It may be called at any time.
        unsafe { libc::abort() }
    }

    fn decimal(&mut self, value: u32) {
        let digits = value.checked_ilog10().unwrap_or(0);
        for at in (0..=digits).rev() {
            let digit = [b'0' + (value / 10_u32.pow(at) % 10) as u8];
            self.text(core::str::from_utf8(&digit).unwrap_or("?"));
        }
    }

    fn printable(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let shown = [if byte.is_ascii_graphic() || *byte == b' ' {
                *byte
            } else {
                b'?'
            }];
            self.text(core::str::from_utf8(&shown).unwrap_or("?"));
        }
    }

    fn hexadecimal(&mut self, value: usize) {
        let digits = (usize::BITS - value.leading_zeros()).div_ceil(4).max(1);
        for at in (0..digits).rev() {
            let digit = (value >> (4 * at) & 0xf) as u8;
            let letter = if digit < 10 {
                b'0' + digit
            } else {
                b'a' + digit - 10
            };
            if let Some(to) = self.bytes.get_mut(self.length) {
                *to = letter;
                self.length += 1;
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn written(build: impl FnOnce(&mut Message<160>)) -> String {
        let mut message = Message {
            bytes: [0; 160],
            length: 0,
        };
        build(&mut message);
        String::from_utf8(message.bytes[..message.length].to_vec()).unwrap()
    }

    #[test]
    fn numbers_are_hexadecimal() {
        for value in [0, 1, 9, 10, 15, 16, 0xdead_beef, usize::MAX] {
            assert_eq!(written(|m| m.hexadecimal(value)), format!("{value:x}"));
        }
    }

    #[test]
    fn bytes_are_decimal() {
        for value in [0, 1, 9, 10, 99, 100, 14_336, u32::MAX] {
            assert_eq!(written(|m| m.decimal(value)), value.to_string());
        }
    }

    #[test]
    fn what_cannot_be_printed_is_a_question_mark() {
        assert_eq!(written(|m| m.printable(b"a b\n\x80\0:")), "a b???:");
    }

    #[test]
    fn a_long_message_is_cut() {
        let long = "x".repeat(300);
        let text = written(|m| {
            m.text(&long);
            m.hexadecimal(7);
        });
        assert_eq!(text, "x".repeat(160));
    }
}
