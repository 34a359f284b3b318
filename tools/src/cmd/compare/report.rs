//! The figures of all candidates: in each mode, on all texts and on each.

use std::ops::Range;
use strata::eval::compare::summary::{Pair, Resamples, Summary, pair, summarize};
use strata::eval::compare::{Comparison, Mode, ModeScores};

/// All that is reported of a comparison.
pub struct Report<'c> {
    /// The comparison.
    pub comparison: &'c Comparison,
    /// Its modes.
    pub modes: Vec<ModeReport>,
}

/// The figures in one mode.
pub struct ModeReport {
    /// The mode.
    pub mode: Mode,
    /// On all texts.
    pub all: Section,
    /// On each text, if there are several.
    pub texts: Vec<Section>,
}

/// The figures on some of the chunks.
pub struct Section {
    /// The name of the text, or of all.
    pub text: String,
    /// Mean negative log-likelihood of the reference.
    pub reference_nll: f64,
    /// Of each candidate.
    pub summaries: Vec<Summary>,
    /// Every two candidates.
    pub pairs: Vec<(usize, usize, Pair)>,
}

impl<'c> Report<'c> {
    /// Of a comparison.
    pub fn of(comparison: &'c Comparison) -> Report<'c> {
        let ranges = comparison.ranges();
        let names: Vec<&str> = comparison.text.texts.iter().map(|text| text.name.as_str()).collect();
        let chunks = || comparison.chunks_of_texts().into_iter().zip(&names).filter(|(chunks, _)| !chunks.is_empty());
        let several = chunks().count() > 1;
        let mode = |scores: &ModeScores| ModeReport {
            mode: scores.mode,
            all: Section::of(names.join(", "), scores, &ranges),
            texts: chunks()
                .filter(|_| several)
                .map(|(chunks, name)| Section::of((*name).to_owned(), scores, &ranges[chunks]))
                .collect(),
        };
        Report { comparison, modes: comparison.modes.iter().map(mode).collect() }
    }
}

impl Section {
    fn of(text: String, scores: &ModeScores, chunks: &[Range<usize>]) -> Section {
        let (b, all, resamples) = (&scores.reference, &scores.candidates, Resamples::new(chunks.len()));
        let summaries = all.iter().map(|c| summarize(b, c, chunks, &resamples)).collect();
        let places = (0..all.len()).flat_map(|i| (i + 1..all.len()).map(move |j| (i, j)));
        let pairs = places.map(|(i, j)| (i, j, pair(&all[i], &all[j], chunks, &resamples))).collect();
        let nll = chunks.iter().cloned().flat_map(|chunk| &b.nll[chunk]);
        let reference_nll = nll.clone().sum::<f64>() / nll.count() as f64;
        Section { text, reference_nll, summaries, pairs }
    }
}
