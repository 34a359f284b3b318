//! Small multiples: a panel for each candidate, in which its own line stands out and those of the others are the background.

use super::axis::{Axis, extent, percent, plain};
use super::*;
use std::ops::Range;

/// A line of a candidate.
pub type Line = Vec<(f64, f64)>;

/// The size of a panel: two stand side by side on a phone.
const PANEL: Size = Size { width: 200, height: 150 };

/// A panel for each of `lines`. `label(i)` is what screen readers call it.
pub fn draw(lines: &[Line], x: &Axis, y: &Axis, title: &str, label: impl Fn(usize) -> String) -> Result<Vec<Markup>> {
    let panel = |i: usize| {
        svg(PANEL, &label(i), |area| {
            let frame = Frame { left: 46, bottom: 34, top: 6, right: 8, text: 11 };
            let mut chart = chart(area, &frame, x, y, title)?;
            let placed = |line: &Line| line.iter().map(|(a, b)| (x.at(*a), y.at(*b))).collect::<Vec<_>>();
            for other in lines.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, line)| line) {
                drawn(chart.draw_series([PathElement::new(placed(other), line(GHOST, 10))]))?;
            }
            drawn(chart.draw_series([PathElement::new(placed(&lines[i]), line(ACCENT, 20))]))?;
            Ok(())
        })
    };
    (0..lines.len()).map(panel).collect()
}

/// Mean divergence by the place of a token in its chunk, in bins of equal width: the middle of each and its mean.
pub fn by_place(places: &[usize], kld: &[f64], bins: &[Range<usize>]) -> Line {
    let mut sums = vec![(0.0, 0usize); bins.len()];
    for (place, kld) in places.iter().zip(kld) {
        let bin = bins.partition_point(|bin| bin.end <= *place);
        if let Some(sum) = sums.get_mut(bin) {
            *sum = (sum.0 + kld, sum.1 + 1);
        }
    }
    let filled = bins.iter().zip(sums).filter(|(_, (_, n))| *n > 0);
    filled.map(|(bin, (sum, n))| ((bin.start + bin.end - 1) as f64 / 2.0, sum / n as f64)).collect()
}

/// At most `most` bins over all places.
pub fn bins(places: &[usize], most: usize) -> Vec<Range<usize>> {
    let (Some(first), Some(last)) = (places.iter().min(), places.iter().max()) else { return Vec::new() };
    let width = (last - first + 1).div_ceil(most).max(1);
    (*first..=*last).step_by(width).map(|start| start..start + width).collect()
}

/// The axes of divergence along the context.
pub fn along_axes(lines: &[Line]) -> Option<(Axis, Axis)> {
    let places = extent(lines.iter().flatten().map(|(place, _)| *place))?;
    Some((Axis::linear(places, 0.02, 3, plain), Axis::log(positive(lines, 1e-6), 0.05, 4, plain)))
}

/// The share of tokens that diverge more than so much, at round values of the divergence.
pub fn shares_above(kld: &[f64], thresholds: &[f64]) -> Line {
    let mut sorted = kld.to_vec();
    sorted.sort_by(f64::total_cmp);
    let above = |threshold: &f64| {
        let above = sorted.len() - sorted.partition_point(|kld| kld <= threshold);
        (above > 0).then_some((*threshold, above as f64 / sorted.len() as f64))
    };
    thresholds.iter().filter_map(above).collect()
}

/// Ten values in each order of magnitude that the divergences reach, from a ten-thousandth of the largest.
pub fn thresholds(all: &[&[f64]]) -> Vec<f64> {
    let largest = all.iter().flat_map(|kld| kld.iter()).fold(0.0f64, |a, b| a.max(*b));
    let last = if largest > 0.0 { (largest.log10() * 10.0).ceil() as i32 } else { 0 };
    (last - 50..=last).map(|tenth| 10f64.powf(f64::from(tenth) / 10.0)).collect()
}

/// The axes of the distribution.
pub fn share_axes(lines: &[Line]) -> Option<(Axis, Axis)> {
    let x = extent(lines.iter().flatten().map(|(kld, _)| *kld))?;
    let shares = extent(lines.iter().flatten().map(|(_, share)| *share))?;
    Some((Axis::log(x, 0.0, 3, plain), Axis::log((shares.0, 1.0), 0.05, 4, percent)))
}

/// The extent of the positive values of lines.
pub fn positive(lines: &[Line], otherwise: f64) -> (f64, f64) {
    let values = lines.iter().flatten().map(|(_, value)| *value).filter(|value| *value > 0.0);
    extent(values).unwrap_or((otherwise, otherwise))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_hold_every_place_once() {
        let places = [4, 5, 6, 7, 8, 4, 5];
        let bins = bins(&places, 3);
        assert_eq!(bins, [4..6, 6..8, 8..10]);
        let line = by_place(&places, &[1.0, 2.0, 3.0, 5.0, 7.0, 1.0, 4.0], &bins);
        assert_eq!(line, [(4.5, 2.0), (6.5, 4.0), (8.5, 7.0)]);
        assert!(super::bins(&[], 3).is_empty());
    }

    #[test]
    fn shares_fall() {
        let line = shares_above(&[0.1, 0.2, 0.3, 0.4], &[0.05, 0.1, 0.35, 0.4, 1.0]);
        assert_eq!(line, [(0.05, 1.0), (0.1, 0.75), (0.35, 0.25)]);
        let thresholds = thresholds(&[&[0.5, 3.0], &[0.0]]);
        assert!(thresholds.len() == 51 && thresholds[50] >= 3.0 && thresholds[49] < 3.0);
        assert_eq!(super::thresholds(&[&[0.0]]).len(), 51);
    }
}
