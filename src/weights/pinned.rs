//! The rows that stay in memory, until others need it.
//!
//! Memory of our own is nothing that the system can take back as it does the page cache: when programs ask for more than there is, it ends
//! one of them. So what is pinned is given back before, the last layers first. Their rows are read from the map of the file from then on,
//! from memory where the page cache keeps them and from disk where it does not: slower, and the same bytes.

use crate::stream::memory::Buffer;
use crate::stream::pressure::Pressure;
use std::ops::Range;

/// The first rows of the matrices of all layers.
pub struct Pinned {
    buffer: Buffer,
    layers: Vec<Range<usize>>, // in the buffer, in their order
    held: usize,               // layers: those after have been given back
    pressure: Pressure,
}

impl Pinned {
    /// `layers` says where in `buffer` the rows of each layer are.
    pub fn new(buffer: Buffer, layers: Vec<Range<usize>>, pressure: Pressure) -> Pinned {
        Pinned { buffer, held: layers.len(), layers, pressure }
    }

    /// All rows; zeros where a layer is not held.
    pub fn bytes(&self) -> &[u8] {
        self.buffer.bytes()
    }

    /// True unless layer `i` has been given back.
    pub fn holds(&self, i: usize) -> bool {
        i < self.held
    }

    /// Bytes that have been given back.
    pub fn released(&self) -> u64 {
        self.layers[self.held..].iter().map(|layer| layer.len() as u64).sum()
    }

    /// Gives back the last layers if others need the memory: how many bytes.
    pub fn relieve(&mut self) -> u64 {
        let (shortage, mut given) = (self.pressure.shortage(), 0);
        while given < shortage && self.held > 0 {
            self.held -= 1;
            let layer = self.layers[self.held].clone();
            given += layer.len() as u64;
            self.buffer.release(layer);
        }
        given
    }
}
