//! The directory of a zip archive as PyTorch writes it: every entry is stored as it is, so that a tensor is a range of the file.
//!
//! The fields are those of PKWARE's APPNOTE 6.3.10. Only the central directory is believed; of an entry's own header only its length is
//! read. Sizes of 64 bits are in extra fields (4.5.3), with which torch.save always writes.

use super::GET_AGAIN;
use crate::error::{Error, Result, quoted};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

/// Entries of an archive, at most: a hundred times those of the largest shards.
const MAX_ENTRIES: u64 = 1 << 17;

/// Bytes of the fixed parts: an entry's own header, a directory entry, the two ends of the directory and the locator of the second.
const LOCAL: usize = 30;
const CENTRAL: usize = 46;
const END: usize = 22;
const END_64: usize = 56;
const LOCATOR: usize = 20;

/// The entries of an archive by name, each with the range of its bytes in the file.
pub(super) type Entries<'a> = BTreeMap<&'a str, Range<usize>>;

/// Reads the directory of the archive `bytes`, the whole file at `path`.
///
/// # Errors
/// If the file is cut off, a field contradicts the file's length, or an entry is compressed or encrypted.
pub(super) fn entries<'a>(path: &'a Path, bytes: &'a [u8]) -> Result<Entries<'a>> {
    Reader { path, bytes }.entries()
}

struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
}

/// Where the directory is.
struct Directory {
    start: u64,
    bytes: u64,
    entries: u64,
}

impl<'a> Reader<'a> {
    fn entries(&self) -> Result<Entries<'a>> {
        let Directory { start, bytes, entries: count } = self.directory()?;
        if count > MAX_ENTRIES {
            return Err(self.bad(start, format!("{count} entries; at most {MAX_ENTRIES} are read")));
        }
        let end = start.checked_add(bytes).filter(|&end| end <= self.bytes.len() as u64);
        let end = end.ok_or_else(|| self.bad(start, "the archive's directory is said to lie beyond the file's end"))?;
        let (mut at, mut entries) = (start, Entries::new());
        for _ in 0..count {
            let fixed = self.fixed::<CENTRAL>(at, *b"PK\x01\x02", "an entry of the archive's directory")?;
            let lens = [28, 30, 32].map(|i| u64::from(u16_at(fixed, i)));
            let name_at = at + CENTRAL as u64;
            let next = name_at + lens.iter().sum::<u64>();
            if next > end {
                return Err(self.bad(at, "an entry of the archive's directory is longer than the directory"));
            }
            let name = &self.bytes[name_at as usize..][..lens[0] as usize];
            let extra = &self.bytes[(name_at + lens[0]) as usize..][..lens[1] as usize];
            let name = str::from_utf8(name).map_err(|_| self.bad(name_at, "the name of an entry is not UTF-8"))?;
            let range = self.entry(at, name, fixed, extra)?;
            if entries.insert(name, range).is_some() {
                return Err(self.bad(at, format!("entry {} is there twice", quoted(name))));
            }
            at = next;
        }
        Ok(entries)
    }

    /// The bytes of the entry whose directory entry starts at `at`.
    fn entry(&self, at: u64, name: &str, fixed: &[u8; CENTRAL], extra: &[u8]) -> Result<Range<usize>> {
        let of = |problem: String| self.bad(at, format!("entry {} {problem}", quoted(name)));
        if u16_at(fixed, 8) & 1 != 0 {
            return Err(of("is encrypted".to_owned()));
        }
        let method = u16_at(fixed, 10);
        if method != 0 {
            let problem =
                format!("entry {} is compressed (method {method}), which torch.save never does", quoted(name));
            let remedy = "unpack the archive and load and save it again with torch.save";
            return Err(Error::invalid(self.path, format!("byte {at}"), problem, remedy));
        }
        let small = [24, 20, 42].map(|i| u32_at(fixed, i)); // length, length as stored, place
        let mut wide = wide_fields(extra);
        let fields = small.map(|field| match field {
            u32::MAX => wide.next(),
            field => Some(u64::from(field)),
        });
        let [Some(len), Some(stored), Some(local)] = fields else {
            return Err(of("has sizes of 64 bits and no field for them".to_owned()));
        };
        if len != stored {
            return Err(of(format!("has {len} bytes and {stored} as it is stored, though nothing is compressed")));
        }
        let header = self.fixed::<LOCAL>(local, *b"PK\x03\x04", "the header of an entry")?;
        let start = local + (LOCAL as u64) + u64::from(u16_at(header, 26)) + u64::from(u16_at(header, 28));
        let end = start.checked_add(len).filter(|&end| end <= self.bytes.len() as u64);
        let end = end.ok_or_else(|| of(format!("has {len} bytes from byte {start} on, beyond the file's end")))?;
        Ok(start as usize..end as usize)
    }

    /// Where the end of the file says that the directory is.
    fn directory(&self) -> Result<Directory> {
        let len = self.bytes.len();
        let first = len.saturating_sub(END + usize::from(u16::MAX));
        // The comment behind it reaches to the end of the file.
        let is_end = |&at: &usize| {
            let end = &self.bytes[at..];
            end.starts_with(b"PK\x05\x06") && END + usize::from(u16_at(end, 20)) == end.len()
        };
        let Some(at) = (first..(len + 1).saturating_sub(END)).rev().find(is_end) else {
            let problem = format!("the zip archive is cut off: its {len} bytes do not end with its directory");
            return Err(Error::invalid(self.path, "file", problem, GET_AGAIN));
        };
        let end = &self.bytes[at..];
        let (entries, bytes, start) = (u16_at(end, 10), u32_at(end, 12), u32_at(end, 16));
        let locator = at.checked_sub(LOCATOR).map(|at| &self.bytes[at..]).filter(|at| at.starts_with(b"PK\x06\x07"));
        let Some(locator) = locator else {
            return Ok(Directory { start: start.into(), bytes: bytes.into(), entries: entries.into() });
        };
        let end = self.fixed::<END_64>(u64_at(locator, 8), *b"PK\x06\x06", "the end of the directory of 64 bits")?;
        Ok(Directory { start: u64_at(end, 48), bytes: u64_at(end, 40), entries: u64_at(end, 32) })
    }

    /// `N` bytes at `at`, which start with `magic`.
    fn fixed<const N: usize>(&self, at: u64, magic: [u8; 4], what: &str) -> Result<&'a [u8; N]> {
        let bytes = usize::try_from(at).ok().and_then(|at| self.bytes.get(at..)?.first_chunk::<N>());
        bytes.filter(|bytes| bytes.starts_with(&magic)).ok_or_else(|| self.bad(at, format!("{what} is not there")))
    }

    fn bad(&self, at: u64, problem: impl Into<String>) -> Error {
        Error::invalid(self.path, format!("byte {at}"), problem, GET_AGAIN)
    }
}

/// The numbers of 64 bits of an entry's extra fields, in their order.
fn wide_fields(mut extra: &[u8]) -> impl Iterator<Item = u64> {
    let mut wide: &[u8] = &[];
    while let Some((head, rest)) = extra.split_first_chunk::<4>() {
        let (id, len) = (u16_at(head, 0), usize::from(u16_at(head, 2)).min(rest.len()));
        if id == 1 {
            wide = &rest[..len];
        }
        extra = &rest[len..];
    }
    wide.as_chunks().0.iter().map(|&bytes| u64::from_le_bytes(bytes))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}
