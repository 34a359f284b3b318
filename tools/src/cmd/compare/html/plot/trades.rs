//! Divergence against size: every candidate with its interval, its name beside it, and the front of best trades.

use super::axis::{Axis, extent, plain};
use super::place::{Box, place};
use super::*;
use crate::output;
use strata::eval::compare::summary::Figure;

/// A candidate in the plot.
pub struct Trade<'a> {
    /// Its short name.
    pub label: &'a str,
    /// Its bytes.
    pub bytes: u64,
    /// Its divergence, in nats.
    pub kld: Figure,
}

/// For each, whether no other is at most as large and diverges at most as much, and less in one of both.
pub fn on_front(trades: &[Trade<'_>]) -> Vec<bool> {
    let beats = |a: &Trade<'_>, b: &Trade<'_>| {
        a.bytes <= b.bytes && a.kld.value <= b.kld.value && (a.bytes < b.bytes || a.kld.value < b.kld.value)
    };
    trades.iter().map(|trade| !trades.iter().any(|other| beats(other, trade))).collect()
}

/// The plot. The upper axis has bits per weight of a model with `weights` weights.
pub fn draw(trades: &[Trade<'_>], weights: u64, size: Size, label: &str) -> Result<Markup> {
    let (x, y) = axes(trades, size);
    let bits = x.scaled(8.0 / weights.max(1) as f64, 6, plain);
    svg(size, label, |area| {
        let frame = Frame { left: 60, bottom: 40, top: 4, right: 10, text: 13 };
        let (upper, rest) = area.split_vertically(38 * SCALE);
        let mut chart = chart(&rest, &frame, &x, &y, "size")?;
        drawn(upper_axis(&upper, &frame, &chart, &bits))?;
        let front = on_front(trades);
        let steps = staircase(trades, &x, &y);
        let dashes = DashedLineSeries::new(steps.clone(), 5 * SCALE, 4 * SCALE, line(ACCENT, 12));
        drawn(chart.draw_series(dashes))?;
        for (trade, front) in trades.iter().zip(&front) {
            drawn(draw_point(&mut chart, trade, *front, &x, &y))?;
        }
        drawn(draw_names(&rest, &chart, trades, &steps, &x, &y))
    })
}

fn axes(trades: &[Trade<'_>], size: Size) -> (Axis, Axis) {
    let bytes = extent(trades.iter().map(|trade| trade.bytes as f64)).unwrap_or((1.0, 1.0));
    let ends = trades.iter().flat_map(|trade| [trade.kld.low, trade.kld.value, trade.kld.high]);
    let (low, high) = extent(ends.filter(|kld| *kld > 0.0)).unwrap_or((1e-6, 1.0));
    // An interval that nearly reaches zero would take the whole logarithmic axis.
    let least = extent(trades.iter().map(|trade| trade.kld.value).filter(|kld| *kld > 0.0)).map_or(1e-6, |kld| kld.0);
    let zero = trades.iter().any(|trade| trade.kld.value <= 0.0);
    // An arrow needs room above its point.
    let high = if trades.iter().any(|trade| is_open(&trade.kld)) { high * (high / low).powf(0.1) } else { high };
    let low = low.max(least / 5.0) / if zero { 2.0 } else { 1.0 };
    (
        Axis::linear(bytes, 0.12, size.width as usize / 75, |bytes| output::bytes(bytes as u64)),
        Axis::log((low, high), 0.08, 9, plain),
    )
}

type Done = Result<(), DrawingAreaErrorKind<std::io::Error>>;

fn upper_axis(area: &Area<'_>, frame: &Frame, chart: &Chart<'_>, bits: &Axis) -> Done {
    let bottom = 37 * SCALE;
    let words = anchored(frame.text, MUTED, HPos::Center, VPos::Bottom);
    let ends = chart.plotting_area().get_pixel_range().0;
    area.draw(&PathElement::new([(ends.start, bottom), (ends.end, bottom)], line(GHOST, 10)))?;
    for (at, text) in bits.marks() {
        let place = ends.start + (f64::from(ends.end - ends.start) * at) as i32;
        area.draw(&PathElement::new([(place, bottom), (place, bottom - 4 * SCALE)], line(GHOST, 10)))?;
        area.draw(&Text::new(text, (place, bottom - 6 * SCALE), words.clone()))?;
    }
    let title = Text::new("bits per weight", ((ends.start + ends.end) / 2, bottom - 22 * SCALE), words);
    area.draw(&title)
}

/// The front as a staircase, as places: what is possible with so many bytes.
fn staircase(trades: &[Trade<'_>], x: &Axis, y: &Axis) -> Vec<(f64, f64)> {
    let front = on_front(trades);
    let mut best: Vec<(u64, f64)> =
        trades.iter().zip(&front).filter(|(_, front)| **front).map(|(t, _)| (t.bytes, t.kld.value)).collect();
    best.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)));
    let mut steps: Vec<(f64, f64)> = Vec::new();
    for (bytes, kld) in best {
        let at = (x.at(bytes as f64), y.at(kld));
        steps.extend(steps.last().map(|last| (at.0, last.1)));
        steps.push(at);
    }
    steps.extend(steps.last().map(|last| (x.high(), last.1)));
    steps
}

/// True if the interval has no upper end.
fn is_open(kld: &Figure) -> bool {
    kld.low.is_finite() && !kld.high.is_finite()
}

/// The interval of a candidate, as far as it is on the axis, and its point. What has an end has a cap there; what has none goes on to the
/// frame, as an arrow.
fn draw_point(chart: &mut Chart<'_>, trade: &Trade<'_>, front: bool, x: &Axis, y: &Axis) -> Done {
    let (at, kld) = (x.at(trade.bytes as f64), &trade.kld);
    if kld.low.is_finite() {
        let open = is_open(kld);
        let (low, high) = (y.at(kld.low), if open { y.high() } else { y.at(kld.high) });
        chart.draw_series([PathElement::new([(at, low), (at, high)], line(INK, 13))])?;
        let caps = [(low, kld.low), (high, kld.high)].into_iter().filter(|(_, end)| y.holds(*end));
        chart.draw_series(caps.map(|(place, _)| {
            EmptyElement::at((at, place)) + PathElement::new([(-4 * SCALE, 0), (4 * SCALE, 0)], line(INK, 13))
        }))?;
        let head = [(-4 * SCALE, 7 * SCALE), (0, 0), (4 * SCALE, 7 * SCALE)];
        let head = open.then(|| EmptyElement::at((at, high)) + PathElement::new(head, line(INK, 13)));
        chart.draw_series(head)?;
    }
    let ground = if front { ACCENT } else { PAPER };
    let edge = if front { ACCENT } else { INK };
    chart.draw_series([Circle::new((at, y.at(kld.value)), 4 * SCALE, ground.filled())])?;
    chart.draw_series([Circle::new((at, y.at(kld.value)), 4 * SCALE, line(edge, 15))])?;
    Ok(())
}

fn draw_names(
    area: &Area<'_>,
    chart: &Chart<'_>,
    trades: &[Trade<'_>],
    steps: &[(f64, f64)],
    x: &Axis,
    y: &Axis,
) -> Done {
    const TEXT: i32 = 13;
    let pixel = |bytes: u64, kld: f64| {
        let (x, y) = chart.backend_coord(&(x.at(bytes as f64), y.at(kld)));
        (x / SCALE, y / SCALE)
    };
    let offset = area.get_pixel_range();
    let (left, top) = (offset.0.start, offset.1.start);
    let inside = chart.plotting_area().get_pixel_range();
    let within = Box {
        left: inside.0.start / SCALE,
        top: inside.1.start / SCALE,
        right: inside.0.end / SCALE,
        bottom: inside.1.end / SCALE,
    };
    let end = |kld: &Figure| if is_open(kld) { f64::INFINITY } else { kld.high };
    let points: Vec<(i32, i32)> = trades.iter().map(|trade| pixel(trade.bytes, trade.kld.value)).collect();
    let names: Vec<String> = trades.iter().map(name).collect();
    let sizes: Vec<(i32, i32)> = names.iter().map(|name| (width(name, TEXT), TEXT + 3)).collect();
    let mut taken: Vec<Box> = points.iter().map(|point| Box::around(*point, 6, 6)).collect();
    taken.extend(trades.iter().filter(|trade| trade.kld.low.is_finite()).map(|trade| {
        let ((x, bottom), (_, top)) = (pixel(trade.bytes, trade.kld.low), pixel(trade.bytes, end(&trade.kld)));
        Box { left: x - 5, top, right: x + 5, bottom }
    }));
    let corner = |at: &(f64, f64)| chart.backend_coord(at);
    taken.extend(steps.windows(2).map(|ends| {
        let [(left, top), (right, bottom)] = [corner(&ends[0]), corner(&ends[1])].map(|(x, y)| (x / SCALE, y / SCALE));
        Box { left: left - 2, top: top.min(bottom) - 2, right: right + 2, bottom: top.max(bottom) + 2 }
    }));
    for ((name, point), place) in names.into_iter().zip(&points).zip(place(&points, &sizes, within, taken)) {
        let middle = (place.top + place.bottom) / 2;
        let near = point.0.clamp(place.left, place.right);
        if (near - point.0).abs() > 12 || (middle - point.1).abs() > 18 {
            let ends = [*point, (near, middle)].map(|(x, y)| (x * SCALE - left, y * SCALE - top));
            area.draw(&PathElement::new(ends, line(GHOST, 10)))?;
        }
        let style = anchored(TEXT, INK, HPos::Left, VPos::Center);
        area.draw(&Text::new(name, (place.left * SCALE - left, middle * SCALE - top), style))?;
    }
    Ok(())
}

/// A logarithmic axis has no place for zero: it stands at its lower end, and says so.
fn name(trade: &Trade<'_>) -> String {
    if trade.kld.value > 0.0 { trade.label.to_owned() } else { format!("{} (0)", trade.label) }
}

/// About how wide a text is, in any common font; ideographs are as wide as they are high.
fn width(text: &str, size: i32) -> i32 {
    let tenths: i32 = text.chars().map(|c| if c > '\u{2e7f}' { 10 } else { 6 }).sum();
    tenths * size / 10 + 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_has_what_nothing_beats() {
        let figure = |value| Figure { value, low: value, high: value };
        let trade = |(bytes, kld)| Trade { label: "", bytes, kld: figure(kld) };
        let trades = [(10, 0.5), (20, 0.1), (15, 0.6), (20, 0.2), (20, 0.1), (30, 0.05), (40, 0.05)].map(trade);
        assert_eq!(on_front(&trades), [true, true, false, false, true, true, false]);
    }

    #[test]
    fn an_interval_without_an_upper_end_goes_on_to_the_frame() {
        let lines = |high: f64| -> Vec<Vec<(i32, i32)>> {
            let figure = |value, high| Figure { value, low: 0.9 * value, high };
            let trades = [(10, figure(0.5, 0.55)), (20, figure(0.1, high))];
            let trades = trades.map(|(bytes, kld)| Trade { label: "a", bytes, kld });
            let svg = draw(&trades, 100, Size { width: 600, height: 400 }, "a plot").unwrap().into_string();
            let ink = regex::Regex::new(r##"<polyline [^>]*stroke="#1F242B"[^>]*points="([^"]*)"##).unwrap();
            let number = |text: &str| text.parse::<i32>().unwrap();
            let point = |text: &str| text.split_once(',').map(|(x, y)| (number(x), number(y))).unwrap();
            ink.captures_iter(&svg).map(|line| line[1].split_whitespace().map(point).collect()).collect()
        };
        // Of each a bar and two caps.
        let closed = lines(0.11);
        assert!(closed.len() == 6 && closed.iter().all(|line| line.len() == 2), "{closed:?}");
        // The upper axis, and the margin below it.
        let frame = (38 + 4) * SCALE;
        assert!(closed.iter().flatten().all(|(_, y)| *y > frame), "{closed:?}");
        for high in [f64::INFINITY, f64::NAN] {
            let open = lines(high);
            let tops: Vec<_> = open.iter().filter(|line| line.iter().any(|(_, y)| *y == frame)).collect();
            let [bar, head] = tops[..] else { panic!("{open:?}") };
            assert!(open.len() == 6 && bar.len() == 2 && head.len() == 3, "{open:?}");
            assert_eq!(head[1], bar[1]);
            assert!(head[0].1 > frame && head[2].1 > frame);
        }
    }
}
