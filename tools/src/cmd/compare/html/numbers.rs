//! Figures in cells: the digits that the interval leaves, the interval below, and the whole number for whoever copies the table.

use super::plot::axis::plain;
use maud::{Markup, html};
use strata::eval::compare::summary::Figure;

/// A cell of a figure in units of `1 / scale`.
pub fn cell(figure: &Figure, scale: f64) -> Markup {
    cell_with(figure, scale, 0)
}

/// The same with at least so many decimals, which are of use where the same tokens make two figures uncertain alike.
pub fn cell_with(figure: &Figure, scale: f64, least: usize) -> Markup {
    let [value, low, high] = [figure.value, figure.low, figure.high].map(|x| x * scale);
    if !(value.is_finite() && low.is_finite()) {
        return plain_cell(value, least);
    }
    if !high.is_finite() {
        let digits = decimals(value, value - low).max(least);
        return html! {
            td.n data-v=(value) data-low=(low) { span.v { (number(value, digits)) } span.i { "from " (number(low, digits)) } }
        };
    }
    let digits = decimals(value, (high - low) / 2.0).max(least);
    html! {
        td.n data-v=(value) data-low=(low) data-high=(high) {
            span.v { (number(value, digits)) }
            span.i { (interval(low, high, digits)) }
        }
    }
}

/// A cell of a number that has no interval, with at least so many decimals.
pub fn plain_cell(value: f64, least: usize) -> Markup {
    // The correlation of what is constant.
    if !value.is_finite() {
        return html! { td.n { span aria-label="undefined" { "\u{2013}" } } };
    }
    html! { td.n data-v=(value) { span.v { (number(value, decimals(value, value.abs() / 50.0).max(least))) } } }
}

/// `0.0301 – 0.0326`; with a word where a sign would be read as the dash.
pub fn interval(low: f64, high: f64, digits: usize) -> String {
    let dash = if low < 0.0 || high < 0.0 { "to" } else { "\u{2013}" };
    format!("{} {dash} {}", number(low, digits), number(high, digits))
}

/// Decimals that show two digits of an uncertainty.
pub fn decimals(value: f64, uncertainty: f64) -> usize {
    let of = if uncertainty > 0.0 { uncertainty } else { value.abs() / 50.0 };
    if of > 0.0 && of.is_finite() { (1.0 - of.log10().floor()).clamp(0.0, 8.0) as usize } else { 0 }
}

/// A number with the sign that is as wide as a digit.
pub fn number(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let zero = text.chars().all(|c| "-0.".contains(c));
    match text.strip_prefix('-') {
        Some(rest) if zero => rest.to_owned(),
        Some(rest) => format!("\u{2212}{rest}"),
        None => text,
    }
}

/// A probability in percent.
pub fn probability(p: f64) -> String {
    match 100.0 * p {
        percent if percent >= 9.95 => format!("{percent:.0} %"),
        percent if percent >= 0.095 => format!("{percent:.1} %"),
        percent if percent > 0.0 => format!("{} %", plain(format!("{percent:.0e}").parse().unwrap_or(percent))),
        _ => "0 %".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_follow_the_interval() {
        for (value, low, high, text) in [
            (0.03131, 0.0301, 0.0326, "0.0313|0.0301 \u{2013} 0.0326"),
            (12.3456, 11.0, 14.0, "12.3|11.0 \u{2013} 14.0"),
            (-0.001, -0.02, 0.018, "\u{2212}0.001|\u{2212}0.020 to 0.018"),
            (0.0, 0.0, 0.0, "0|0 \u{2013} 0"),
        ] {
            let digits = decimals(value, (high - low) / 2.0);
            assert_eq!(format!("{}|{}", number(value, digits), interval(low, high, digits)), text);
        }
        assert_eq!(number(-0.0001, 2), "0.00");
        let all = [0.5, 0.031, 0.00002, 0.0].map(probability);
        assert_eq!(all, ["50 %", "3.1 %", "0.002 %", "0 %"]);
    }
}
