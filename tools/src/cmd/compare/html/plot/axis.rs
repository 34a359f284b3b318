//! Axes: their range, their ticks, and the words on these.

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use std::ops::Range;

/// An axis of a plot. A logarithmic one is drawn over the logarithms of its values.
pub struct Axis {
    low: f64,
    high: f64,
    log: bool,
    ticks: Vec<f64>, // as they are drawn
    words: fn(f64) -> String,
}

impl Axis {
    /// From `low` to `high`, widened to hold `share` of that on either side, with about `wanted` ticks.
    pub fn linear((low, high): (f64, f64), share: f64, wanted: usize, words: fn(f64) -> String) -> Axis {
        // One value stands in the middle.
        let around = if high > low { 0.0 } else { 0.25 * low.abs() + f64::from(u8::from(low == 0.0)) };
        let (low, high) = (low - around, high + around);
        let width = high - low;
        let (low, high) = (low - share * width, high + share * width);
        let step = nice_step((high - low) / wanted.max(1) as f64);
        let first = (low / step).ceil() as i64;
        let ticks = (first..first + 100).map(|i| i as f64 * step).take_while(|tick| *tick <= high).collect();
        Axis { low, high, log: false, ticks, words }
    }

    /// From `low` to `high`, both positive, widened by a share of an order of magnitude, with at most `most` ticks.
    pub fn log((low, high): (f64, f64), share: f64, most: usize, words: fn(f64) -> String) -> Axis {
        let share = if high > low { share } else { share.max(0.15) };
        let (low, high) = (low.log10() - share, high.log10() + share);
        // Within half an order of magnitude, round numbers are those of a linear axis.
        if high - low < 0.5 {
            let ends = (10f64.powf(low), 10f64.powf(high));
            let ticks = Axis::linear(ends, 0.0, most.saturating_sub(1), words).ticks;
            let ticks = ticks.into_iter().filter(|tick| *tick > 0.0).map(f64::log10).collect();
            return Axis { low, high, log: true, ticks, words };
        }
        let between = |steps: &[f64]| -> Vec<f64> {
            let decades = low.floor() as i32..=high.ceil() as i32;
            let all = decades.flat_map(|decade| steps.iter().map(move |step| f64::from(decade) + step.log10()));
            all.filter(|tick| (low..=high).contains(tick)).collect()
        };
        let steps: [&[f64]; 4] = [&[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0], &[1.0, 2.0, 5.0], &[1.0, 3.0], &[1.0]];
        let mut ticks = steps.iter().map(|steps| between(steps)).find(|ticks| ticks.len() <= most).unwrap_or_default();
        if ticks.is_empty() {
            let (all, every) = (between(&[1.0]), between(&[1.0]).len().div_ceil(most.max(1)).max(1));
            ticks = all.into_iter().step_by(every).collect();
        }
        Axis { low, high, log: true, ticks, words }
    }

    /// The place of a value on the axis, at most at its ends.
    pub fn at(&self, value: f64) -> f64 {
        let place = if self.log { value.max(f64::MIN_POSITIVE).log10() } else { value };
        place.clamp(self.low, self.high)
    }

    /// The upper end, as a place.
    pub fn high(&self) -> f64 {
        self.high
    }

    /// The ticks, each as its share of the way from the lower end to the upper, and its words.
    pub fn marks(&self) -> impl Iterator<Item = (f64, String)> {
        self.ticks.iter().map(|tick| ((tick - self.low) / (self.high - self.low), self.words(*tick)))
    }

    /// True if the value is within the axis.
    pub fn holds(&self, value: f64) -> bool {
        let place = if self.log { value.log10() } else { value };
        (self.low..=self.high).contains(&place)
    }

    /// The same axis in other units, each `factor` of this one's.
    pub fn scaled(&self, factor: f64, wanted: usize, words: fn(f64) -> String) -> Axis {
        Axis::linear((self.low * factor, self.high * factor), 0.0, wanted, words)
    }

    /// For plotters.
    pub fn range(&self) -> Places {
        Places { low: self.low, high: self.high, ticks: self.ticks.clone() }
    }

    /// The words at a place.
    pub fn words(&self, place: f64) -> String {
        (self.words)(if self.log { 10f64.powf(place) } else { place })
    }
}

/// The places of an axis and its ticks, as plotters wants them.
#[derive(Clone)]
pub struct Places {
    low: f64,
    high: f64,
    ticks: Vec<f64>,
}

impl Ranged for Places {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, place: &f64, (first, last): (i32, i32)) -> i32 {
        first + ((place - self.low) / (self.high - self.low) * f64::from(last - first)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

/// 1, 2 or 5 times a power of ten, at least `step`.
fn nice_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|n| n * power).find(|nice| *nice >= step * 0.999).unwrap_or(step)
}

/// The first and last of some finite values; `None` without any.
pub fn extent(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter(|value| value.is_finite()).fold(None, |extent, value| {
        let (low, high) = extent.unwrap_or((value, value));
        Some((low.min(value), high.max(value)))
    })
}

/// A number with three digits, without zeros that say nothing; small and large ones as powers of ten.
pub fn plain(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let power = value.abs().log10().floor();
    if (-4.0..5.0).contains(&power) {
        let text = format!("{value:.*}", (2.0 - power).max(0.0) as usize);
        return if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text };
    }
    let (digits, power) = (value / 10f64.powf(power), power as i32);
    let digits = if (digits - 1.0).abs() < 1e-6 { String::new() } else { format!("{}\u{d7}", plain(digits)) };
    format!("{digits}10{}", power.to_string().chars().map(superscript).collect::<String>())
}

fn superscript(c: char) -> char {
    match c {
        '-' => '\u{207b}',
        '1' => '\u{b9}',
        '2' => '\u{b2}',
        '3' => '\u{b3}',
        digit => char::from_u32(0x2070 + digit.to_digit(10).unwrap_or(0)).unwrap_or(digit),
    }
}

/// A share in percent.
pub fn percent(share: f64) -> String {
    format!("{} %", plain(100.0 * share))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        let words = |axis: &Axis| axis.ticks.iter().map(|tick| axis.words(*tick)).collect::<Vec<_>>();
        assert_eq!(
            words(&Axis::log((0.0012, 0.3), 0.0, 8, plain)),
            ["0.002", "0.005", "0.01", "0.02", "0.05", "0.1", "0.2"]
        );
        assert_eq!(words(&Axis::log((1e-6, 10.0), 0.0, 4, plain)), ["10\u{207b}\u{2076}", "0.0001", "0.01", "1"]);
        assert_eq!(words(&Axis::log((0.31, 0.34), 0.0, 4, plain)), ["0.31", "0.32", "0.33", "0.34"]);
        assert_eq!(words(&Axis::linear((256.0, 511.0), 0.0, 3, plain)), ["300", "400", "500"]);
        assert_eq!(Axis::linear((5.0, 5.0), 0.1, 4, plain).ticks.len(), 3);
        assert_eq!(words(&Axis::linear((0.0, 0.0), 0.0, 2, percent)), ["-100 %", "0 %", "100 %"]);
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in
            [(0.0, "0"), (0.05, "0.05"), (1.0, "1"), (0.00031, "0.00031"), (2e-5, "2\u{d7}10\u{207b}\u{2075}")]
        {
            assert_eq!(plain(value), text);
        }
        assert_eq!((plain(1e-12).as_str(), percent(0.001).as_str()), ("10\u{207b}\u{b9}\u{b2}", "0.1 %"));
    }
}
