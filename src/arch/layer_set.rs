//! Some of the layers of a model.

use super::hyperparameters::MAX_LAYERS;

const WORD: usize = u64::BITS as usize;

/// A set of layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerSet([u64; MAX_LAYERS / WORD]);

impl LayerSet {
    /// No layer.
    pub const EMPTY: LayerSet = LayerSet([0; MAX_LAYERS / WORD]);

    /// Those of `layers` layers that `wanted` accepts.
    ///
    /// # Panics
    /// If there are more layers than any model has.
    pub fn of(layers: usize, wanted: impl Fn(usize) -> bool) -> LayerSet {
        let mut set = LayerSet::EMPTY;
        (0..layers).filter(|i| wanted(*i)).for_each(|i| set.0[i / WORD] |= 1 << (i % WORD));
        set
    }

    /// Whether a layer is one of them.
    pub fn contains(&self, layer: usize) -> bool {
        self.0[layer / WORD] >> (layer % WORD) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_wanted() {
        let set = LayerSet::of(130, |i| i % 3 == 0);
        assert!((0..MAX_LAYERS).all(|i| set.contains(i) == (i < 130 && i % 3 == 0)));
        assert_eq!(LayerSet::of(MAX_LAYERS, |_| false), LayerSet::EMPTY);
        assert!(LayerSet::of(MAX_LAYERS, |_| true).contains(MAX_LAYERS - 1));
    }
}
