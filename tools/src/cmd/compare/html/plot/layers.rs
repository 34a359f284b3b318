//! What each layer and each tensor costs: lines of errors over layers, and a map of tensors.

use super::axis::{Axis, extent, plain};
use super::*;
use crate::cmd::compare::html::names::visible;
use strata::eval::compare::attribution::LayerError;

/// The colors of a map, from the least to the most.
const RAMP: [RGBColor; 7] = [
    RGBColor(0xe6, 0xee, 0xf6),
    RGBColor(0xc3, 0xd8, 0xeb),
    RGBColor(0x98, 0xbd, 0xdd),
    RGBColor(0x68, 0x9c, 0xc9),
    RGBColor(0x3d, 0x7a, 0xb1),
    RGBColor(0x1f, 0x59, 0x90),
    RGBColor(0x0b, 0x37, 0x66),
];

/// A panel for each candidate with its errors by layer, all with the same axes.
pub fn errors(all: &[&[LayerError]], label: impl Fn(usize) -> String) -> Result<Vec<Markup>> {
    let errors = all.iter().copied().flatten().flat_map(|layer| [layer.local, layer.accumulated]);
    let y = Axis::log(extent(errors.filter(|error| *error > 0.0)).unwrap_or((1e-6, 1.0)), 0.1, 4, plain);
    let last = all.iter().map(|layers| layers.len()).max().unwrap_or(0).saturating_sub(1);
    let x = Axis::linear((0.0, last as f64), 0.02, 4, plain);
    let panel = |(i, layers): (usize, &&[LayerError])| {
        svg(Size { width: 240, height: 170 }, &label(i), |area| {
            let frame = Frame { left: 50, bottom: 34, top: 6, right: 8, text: 11 };
            let mut chart = chart(area, &frame, &x, &y, "layer")?;
            let line_of = |of: &dyn Fn(&LayerError) -> f64| -> Vec<(f64, f64)> {
                layers.iter().enumerate().map(|(i, layer)| (x.at(i as f64), y.at(of(layer)))).collect()
            };
            let local = line_of(&|layer| layer.local);
            let accumulated = line_of(&|layer| layer.accumulated);
            drawn(chart.draw_series(DashedLineSeries::new(local, 4 * SCALE, 3 * SCALE, line(SECOND, 16))))?;
            drawn(chart.draw_series([PathElement::new(accumulated, line(ACCENT, 20))]))?;
            Ok(())
        })
    };
    all.iter().enumerate().map(panel).collect()
}

/// A map of shares: a row for each role, a column for each layer; `None` where a layer has no such tensor.
pub struct Map<'a> {
    /// The names of the rows.
    pub roles: Vec<&'a str>,
    /// `(roles, layers)`
    pub cells: Vec<Vec<Option<f64>>>,
}

/// The step of the ramp for a value between `low` and `high`, logarithmically.
pub fn step(value: f64, (low, high): (f64, f64)) -> usize {
    let share = if high > low && value > 0.0 { (value / low).ln() / (high / low).ln() } else { 0.0 };
    ((share * RAMP.len() as f64).max(0.0) as usize).min(RAMP.len() - 1)
}

/// The map, with colors for values between `low` and `high`.
pub fn map(map: &Map<'_>, ends: (f64, f64), label: &str) -> Result<Markup> {
    let layers = map.cells.iter().map(Vec::len).max().unwrap_or(0);
    let size = Size { width: 340, height: 40 + 16 * map.roles.len() as i32 };
    svg(size, label, |area| {
        let (left, top, width) = (84, 4, 340 - 84 - 6);
        let words = |h, v| anchored(11, MUTED, h, v);
        let column = |layer: usize| (left + (width * layer as i32) / layers.max(1) as i32) * SCALE;
        for (r, (role, cells)) in map.roles.iter().zip(&map.cells).enumerate() {
            let y = top + 16 * r as i32;
            let name = Text::new(
                visible(role).into_owned(),
                ((left - 6) * SCALE, (y + 8) * SCALE),
                words(HPos::Right, VPos::Center),
            );
            drawn(area.draw(&name))?;
            for (layer, value) in cells.iter().enumerate() {
                let Some(value) = value else { continue };
                let ends_of_cell = [(column(layer) + 4, y * SCALE + 4), (column(layer + 1) - 4, (y + 16) * SCALE - 4)];
                drawn(area.draw(&Rectangle::new(ends_of_cell, RAMP[step(*value, ends)].filled())))?;
            }
        }
        let bottom = top + 16 * map.roles.len() as i32;
        let every = layers.div_ceil(6).max(1);
        for layer in (0..layers).step_by(every) {
            let middle = (column(layer) + column(layer + 1)) / 2;
            let text = Text::new(layer.to_string(), (middle, (bottom + 5) * SCALE), words(HPos::Center, VPos::Top));
            drawn(area.draw(&text))?;
        }
        let title = ((left + width / 2) * SCALE, (bottom + 19) * SCALE);
        drawn(area.draw(&Text::new("layer", title, words(HPos::Center, VPos::Top))))
    })
}

/// The scale of a map as a strip of its colors.
pub fn scale(label: &str) -> Result<Markup> {
    svg(Size { width: 7 * 22, height: 12 }, label, |area| {
        for (i, color) in RAMP.iter().enumerate() {
            let left = 22 * SCALE * i as i32;
            drawn(area.draw(&Rectangle::new([(left, 0), (left + 22 * SCALE, 12 * SCALE)], color.filled())))?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ramp_holds_every_value() {
        let ends = (1e-6, 1e-2);
        assert_eq!([0.0, 1e-9, 1e-6, 1e-4, 1e-2, 1.0, f64::NAN].map(|v| step(v, ends)), [0, 0, 0, 3, 6, 6, 0]);
        assert_eq!(step(1.0, (1.0, 1.0)), 0);
    }
}
