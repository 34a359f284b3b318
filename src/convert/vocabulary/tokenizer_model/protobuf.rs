//! The fields of a message of Protocol Buffers, as they lie in a file: number, type and value (protobuf.dev, "Encoding"). Nothing is copied.

use super::wrong;
use crate::error::Result;
use std::path::Path;

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    /// An integer or a flag.
    Integer(u64),
    /// Four bytes, as floats are.
    Four([u8; 4]),
    /// Eight bytes.
    Eight,
    /// A text or a message.
    Bytes(&'a [u8]),
}

/// The fields of a message.
pub(super) struct Fields<'a> {
    path: &'a Path,
    base: usize, // of the message in the file
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    /// The fields of the message `bytes`, which starts at byte `base` of the file at `path`.
    pub fn new(path: &'a Path, base: usize, bytes: &'a [u8]) -> Fields<'a> {
        Fields { path, base, bytes, at: 0 }
    }

    /// The offset in the file that is read next.
    pub fn offset(&self) -> usize {
        self.base + self.at
    }

    /// The next field: its number and value.
    ///
    /// # Errors
    /// If the message is cut off or has a type that does not exist.
    pub fn next(&mut self) -> Result<Option<(u64, Value<'a>)>> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let start = self.offset();
        let tag = self.integer()?;
        let value = match tag & 7 {
            0 => Value::Integer(self.integer()?),
            1 => self.take(8).map(|_| Value::Eight)?,
            2 => {
                let len = self.integer()?;
                Value::Bytes(self.take(len)?)
            }
            5 => Value::Four(self.take(4)?.try_into().expect("`take` returns as many bytes as it was asked for")),
            other => {
                return Err(wrong(
                    self.path,
                    start,
                    format!("a field of type {other}: this is no SentencePiece model"),
                ));
            }
        };
        Ok(Some((tag >> 3, value)))
    }

    /// An integer in groups of 7 bits, the lowest first.
    fn integer(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for i in 0..10 {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f).checked_shl(7 * i).unwrap_or(0);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(wrong(self.path, self.offset(), "an integer has more than 64 bits: this is no SentencePiece model"))
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        match usize::try_from(len).ok().and_then(|len| rest.get(..len)) {
            Some(bytes) => {
                self.at += bytes.len();
                Ok(bytes)
            }
            None => Err(wrong(self.path, self.offset(), format!("{len} bytes are said to follow, {} do", rest.len()))),
        }
    }
}
