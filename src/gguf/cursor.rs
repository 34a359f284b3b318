//! A cursor over the bytes of a GGUF header, shared by the checking pass and by the views of what it has checked.

/// A position in the bytes. A step beyond the end returns `None` and does not move.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    pos: usize,
    wide: bool,
}

impl<'a> Cursor<'a> {
    /// At the start of `bytes`; `wide` if lengths are u64, as from version 2 on.
    pub fn new(bytes: &'a [u8], wide: bool) -> Cursor<'a> {
        Cursor { bytes, pos: 0, wide }
    }

    pub fn at(self, pos: usize) -> Cursor<'a> {
        Cursor { pos, ..self }
    }

    pub fn pos(&self) -> usize {
        self.pos
    }

    pub fn is_wide(&self) -> bool {
        self.wide
    }

    /// The length of the bytes.
    pub fn end(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.pos..)?.get(..n)?;
        self.pos += n;
        Some(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let taken = self.bytes.get(self.pos..)?.first_chunk::<N>()?;
        self.pos += N;
        Some(*taken)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Reads a count, a length or a dimension.
    pub fn length(&mut self) -> Option<u64> {
        if self.wide { self.u64() } else { self.u32().map(u64::from) }
    }

    /// The bytes of a count, a length or a dimension: 8, or 4 in version 1.
    pub fn length_bytes(&self) -> usize {
        if self.wide { 8 } else { 4 }
    }

    /// Reads a length and that many bytes.
    pub fn string(&mut self) -> Option<&'a [u8]> {
        let start = self.pos;
        let taken = self.length().and_then(|n| usize::try_from(n).ok()).and_then(|n| self.take(n));
        if taken.is_none() {
            self.pos = start;
        }
        taken
    }
}
