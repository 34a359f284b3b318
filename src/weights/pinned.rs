//! The pinned rows: they stay in memory until other programs need it.
//!
//! The system cannot take back our memory as it does the page cache: when programs ask for more than there is, it kills one of them. So
//! pinned rows are released before, the last layers first. They are read through the map of the file from then on: slower, and the same
//! bytes.

use crate::stream::memory::Buffer;
use crate::stream::pressure::Pressure;
use std::ops::Range;

/// The pinned first rows of the matrices of all layers.
pub struct Pinned {
    buffer: Buffer,
    layers: Vec<Range<usize>>, // in the buffer, in their order
    held: usize,               // layers: those after have been given back
    pressure: Pressure,
}

impl Pinned {
    /// `layers` are the ranges of the layers' rows in `buffer`.
    pub fn new(buffer: Buffer, layers: Vec<Range<usize>>, pressure: Pressure) -> Pinned {
        Pinned { buffer, held: layers.len(), layers, pressure }
    }

    /// The bytes of all rows; zeros where a layer was released.
    pub fn bytes(&self) -> &[u8] {
        self.buffer.bytes()
    }

    /// True unless layer `i` was released.
    pub fn holds(&self, i: usize) -> bool {
        i < self.held
    }

    /// Bytes that were released.
    pub fn released(&self) -> u64 {
        self.layers[self.held..].iter().map(|layer| layer.len() as u64).sum()
    }

    /// Releases the last layers under memory pressure, and returns their bytes.
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
