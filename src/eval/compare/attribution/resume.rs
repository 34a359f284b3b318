//! How far an attribution is: what it has found and the states that it goes on from, and the file that keeps all of it, so that a run that
//! is stopped or killed is resumed after a layer of its longest step.

use super::MATRICES;
use super::result::LayerError;
use super::tally::Tally;
use super::work::Work;
use crate::error::Result;
use crate::eval::compare::StateFile;
use crate::model::States;

/// What is known so far.
#[derive(Default)]
pub struct Done {
    /// The hidden states `(tokens, hidden)` of the reference and of every candidate, after as many layers as there are errors of.
    pub ends: Vec<States>,
    /// The errors in the layers so far of every candidate.
    pub errors: Vec<Vec<LayerError>>,
    /// The divergence of every candidate; none before all are known.
    pub measured: Vec<f64>,
    /// What the walks of the first candidates gave, see [`Walk::tallies`].
    pub walked: Vec<Vec<Vec<Tally>>>,
    /// The divergences of single tensors so far, in the order of measuring.
    pub verified: Vec<f64>,
    /// The walk of the next candidate, as it was saved.
    pub walk: Option<Walk>,
}

/// The walk of a candidate.
pub struct Walk {
    /// The layers that the gradients have not yet passed.
    pub layers: usize,
    /// The gradients of all probes and of the vector of the whole candidate by what these give: `(tokens, hidden)`.
    pub dh: Vec<States>,
    /// The sums of all tensors of all variants: of the embedding, of the output, and of the matrices of all layers.
    pub tallies: Vec<Vec<Tally>>,
}

/// The variants that the walk of an attribution is for: a candidate, and the same in larger types.
pub const VARIANTS: usize = 2;

/// The place of the first matrix among the sums of a variant.
pub const LAYERS_AT: usize = 2;

/// The file, and the sizes of what it keeps.
pub struct Resume {
    file: StateFile,
    candidates: usize,
    layers: usize,
    chunks: usize,
    probes: usize,
    variants: usize, // of each walk
}

impl Resume {
    /// The file of work on so many candidates, each with so many probes and variants.
    pub fn new(file: StateFile, work: &Work<'_>, candidates: usize, (probes, variants): (usize, usize)) -> Resume {
        let layers = work.reference.hyperparameters().layers;
        Resume { file, candidates, layers, chunks: work.lengths.len(), probes, variants }
    }

    /// What the file keeps; nothing at first.
    ///
    /// # Errors
    /// If it cannot be read or is something else, or states cannot be made.
    pub fn load(&self, work: &Work<'_>) -> Result<Done> {
        match self.file.load(1 + self.candidates + self.probes + 1, || work.states())? {
            None => Ok(Done { errors: vec![Vec::new(); self.candidates], ..Done::default() }),
            Some(saved) => {
                let done = lists(&saved.known).and_then(|lists| self.done(saved.step, lists, saved.states));
                done.ok_or_else(|| self.file.refused())
            }
        }
    }

    /// Saves what is known and a walk that is under way, if it is time to.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, done: &mut Done, walk: Option<&mut Walk>) -> Result<()> {
        if !self.file.is_due() {
            return Ok(());
        }
        let errors = |errors: &Vec<LayerError>| errors.iter().flat_map(|e| [e.local, e.accumulated]).collect();
        let mut lists: Vec<Vec<f64>> = done.errors.iter().map(errors).collect();
        lists.extend([done.measured.clone(), done.verified.clone()]);
        let step = walk.as_ref().map_or(0, |walk| 1 + walk.layers as u64);
        let tallies = done.walked.iter().chain(walk.as_ref().map(|walk| &walk.tallies));
        lists.extend(tallies.flatten().flatten().map(Tally::to_list));
        let lanes = done.ends.iter_mut().chain(walk.into_iter().flat_map(|walk| &mut walk.dh));
        self.file.save(step, &bytes(&lists), &mut lanes.collect::<Vec<_>>())
    }

    /// Removes the file: all is done.
    pub fn remove(&self) {
        self.file.remove();
    }

    /// What the lists and states of a file are.
    fn done(&self, step: u64, lists: Vec<Vec<f64>>, mut states: Vec<States>) -> Option<Done> {
        let mut lists = lists.into_iter();
        let errors = |list: Vec<f64>| {
            let pairs = list.as_chunks().0.iter().enumerate();
            pairs.map(|(layer, &[local, accumulated])| LayerError { layer, local, accumulated }).collect()
        };
        let errors: Vec<Vec<LayerError>> = lists.by_ref().take(self.candidates).map(errors).collect();
        let (measured, verified) = (lists.next()?, lists.next()?);
        let tallies: Vec<Tally> =
            lists.map(|list| Tally::of_list(self.probes, self.chunks, &list)).collect::<Option<_>>()?;
        let tensors = LAYERS_AT + self.layers * MATRICES;
        let variants: Vec<Vec<Tally>> = tallies.chunks(tensors).map(<[Tally]>::to_vec).collect();
        let mut walked: Vec<Vec<Vec<Tally>>> = variants.chunks(self.variants).map(<[_]>::to_vec).collect();
        let whole = tallies.len() == walked.len() * self.variants * tensors && walked.len() <= self.candidates;
        let layers = errors.first().map_or(0, Vec::len);
        let same = errors.iter().all(|errors| errors.len() == layers) && layers <= self.layers;
        let all = measured.len() == self.candidates || measured.is_empty() && walked.is_empty() && step == 0;
        if states.len() < 1 + self.candidates {
            return None;
        }
        let dh = states.split_off(1 + self.candidates);
        let walk = match usize::try_from(step).ok()?.checked_sub(1) {
            None if dh.is_empty() => None,
            Some(layers) if layers <= self.layers && dh.len() == self.probes + 1 => {
                Some(Walk { layers, dh, tallies: walked.pop()? })
            }
            _ => return None,
        };
        (whole && same && all).then_some(Done { ends: states, errors, measured, walked, verified, walk })
    }
}

/// Lists of numbers, each with its length before it, little-endian.
fn bytes(lists: &[Vec<f64>]) -> Vec<u8> {
    let list = |list: &Vec<f64>| {
        let values = list.iter().flat_map(|value| value.to_le_bytes());
        (list.len() as u64).to_le_bytes().into_iter().chain(values).collect::<Vec<u8>>()
    };
    lists.iter().flat_map(list).collect()
}

/// The lists of [`bytes`].
fn lists(mut bytes: &[u8]) -> Option<Vec<Vec<f64>>> {
    let mut lists = Vec::new();
    while !bytes.is_empty() {
        let (len, rest) = bytes.split_first_chunk::<8>()?;
        let len = usize::try_from(u64::from_le_bytes(*len)).ok()?.checked_mul(8)?;
        let (list, rest) = rest.split_at_checked(len)?;
        lists.push(list.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect());
        bytes = rest;
    }
    Some(lists)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_come_back_or_are_refused() {
        let all = [vec![], vec![1.0 / 3.0, -0.0, f64::MIN_POSITIVE], vec![f64::MAX]];
        let file = bytes(&all);
        assert_eq!(lists(&file).unwrap(), all);
        assert_eq!(lists(&[]).unwrap(), Vec::<Vec<f64>>::new());
        for len in 1..file.len() {
            // A list may end where the file is cut.
            assert!(lists(&file[..len]).is_none_or(|lists| lists.len() < all.len()), "{len}");
        }
        assert!(lists(&u64::MAX.to_le_bytes()).is_none() && lists(&(u64::MAX / 8).to_le_bytes()).is_none());
    }
}
