//! From the sums of all tensors to their costs.

use super::MATRICES;
use super::resume::LAYERS_AT;
use super::tally::Tally;
use super::work::{Variant, Work};
use crate::arch::{Architecture, Role};
use crate::error::{Error, Result};
use crate::weights;

/// Where a tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The token embedding.
    Embedding {
        /// True if it gives the logits as well.
        tied: bool,
    },
    /// A matrix of a layer, by its place in [`crate::weights::Layer::linears`].
    Matrix {
        /// The layer, from 0.
        layer: usize,
        /// The place.
        matrix: usize,
    },
    /// The output matrix.
    Output,
}

impl Place {
    /// What the tensor is for.
    pub fn role(self) -> Role {
        match self {
            Place::Embedding { .. } => Role::TokenEmbedding,
            Place::Matrix { matrix, .. } => weights::MATRICES[matrix],
            Place::Output => Role::Output,
        }
    }

    /// Its layer, if it is in one.
    pub fn layer(self) -> Option<usize> {
        if let Place::Matrix { layer, .. } = self { Some(layer) } else { None }
    }

    /// The name of the tensor.
    pub fn name(self, architecture: &Architecture) -> String {
        architecture.spec(self.role()).name(self.layer())
    }
}

/// The sums of all tensors of a variant, of which a walk has those of the embedding, of the output, and of all matrices.
pub fn tallies(work: &Work<'_>, variant: &Variant<'_>, walked: &[Tally]) -> Result<Vec<(Place, Tally)>> {
    let ([embedding, output], layers) = walked.split_first_chunk::<LAYERS_AT>().expect("a walk has all tensors");
    let mut all = match variant.is_tied() {
        true => vec![(Place::Embedding { tied: true }, output.clone().and(embedding))],
        false => vec![(Place::Embedding { tied: false }, embedding.clone()), (Place::Output, output.clone())],
    };
    let place = |i| Place::Matrix { layer: i / MATRICES, matrix: i % MATRICES };
    all.extend(layers.iter().enumerate().map(|(i, tally)| (place(i), tally.clone())));
    match all.iter().find(|(_, tally)| !tally.is_finite()) {
        None => Ok(all),
        Some((place, _)) => {
            let name = place.name(work.reference.architecture());
            let problem = "the gradients are too large for single precision";
            let remedy = "the weights are of no working model; get or convert it again";
            Err(Error::invalid(work.reference.gguf().path(), name, problem, remedy))
        }
    }
}

/// The shares of all tensors in the divergence, in nats per scored token, of which `alone` is what they cost by themselves.
///
/// With `dz_i` what a tensor does to the logits, `1/2 dz_i' F dz` is what it costs by itself and half of what it costs together with each
/// other tensor (the shares of Aumann and Shapley, 1974, of a quadratic form). They sum to the divergence. Of one tensor, what it costs
/// together with others is chance, and differs from text to text, for roles as well (SmolLM2 in Q4_0: rank correlation with tensors measured
/// one at a time 0.54, that of `alone` 0.98). The sum is not chance: so it is shared out as tensors cost by themselves.
pub fn shares(all: &[(Place, Tally)], alone: &[f64], scored: usize) -> Vec<f64> {
    let sum: f64 = alone.iter().sum();
    let whole = 0.5 * all.iter().map(|(_, tally)| tally.whole()).sum::<f64>() / scored as f64;
    alone.iter().map(|cost| if sum > 0.0 { cost * whole / sum } else { 0.0 }).collect()
}

/// What the errors of all tensors cost by themselves, in nats per scored token.
///
/// The square of a chunk's sum is unbiased and has one degree of freedom for each chunk and probe. The sum of the squares of tokens has many
/// more, and leaves out that errors at several tokens add up, the more the way attention mixes them: values have half as much again. How much
/// that is differs by role more than by layer. So the latter, brought to the former's sum over a role, is a second estimate of little noise;
/// the two are mixed by their errors: `2 / n` of `n` degrees of freedom, and `2 / PRIOR` for what layers of a role differ.
pub fn alone(all: &[(Place, Tally)], scored: usize) -> Vec<f64> {
    const PRIOR: f64 = 64.0;
    let n = all.first().map_or(0, |(_, tally)| tally.random().len()) as f64;
    let own = n / (n + PRIOR);
    let whole: Vec<f64> = all.iter().map(|(_, tally)| tally.square()).collect();
    let share = |(i, (place, tally)): (usize, &(Place, Tally))| {
        let of_role = || all.iter().zip(&whole).filter(|((other, _), _)| other.role() == place.role());
        let (wholes, squares) = of_role()
            .fold((0.0, 0.0), |(wholes, squares), ((_, tally), whole)| (wholes + whole, squares + tally.squares));
        let by_role = if squares > 0.0 { tally.squares * wholes / squares } else { 0.0 };
        0.5 * (own * whole[i] + (1.0 - own) * by_role) / (tally.probes() * scored) as f64
    };
    all.iter().enumerate().map(share).collect()
}

/// The values of a tensor.
pub fn values(work: &Work<'_>, place: Place) -> u64 {
    let (rows, cols) = work.reference.architecture().spec(place.role()).shape(work.reference.hyperparameters());
    rows as u64 * cols as u64
}
