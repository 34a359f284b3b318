//! Plots: SVG by plotters.
//!
//! Plotters knows whole pixels, so a plot is drawn [`SCALE`] times as large as it is shown. Its colors are those of the light theme; in the
//! dark one the style sheet replaces each by name (`[stroke="#..."]`), so that a plot that is copied out of the page is still whole.

pub mod axis;
pub mod layers;
pub mod panels;
mod place;
pub mod trades;

use anyhow::{Result, anyhow};
use axis::{Axis, Places};
use maud::{Markup, PreEscaped, html};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Units of a drawing in a pixel of the page.
const SCALE: i32 = 10;

/// Text, axes, points.
const INK: RGBColor = RGBColor(0x1f, 0x24, 0x2b);
/// Ticks and what is said of axes.
const MUTED: RGBColor = RGBColor(0x59, 0x61, 0x6b);
/// Lines of the grid.
const GRID: RGBColor = RGBColor(0xe3, 0xe6, 0xea);
/// What is not spoken of: other candidates.
const GHOST: RGBColor = RGBColor(0xc4, 0xca, 0xd2);
/// What is spoken of.
const ACCENT: RGBColor = RGBColor(0x0b, 0x5f, 0xa5);
/// What stands beside it.
const SECOND: RGBColor = RGBColor(0xb4, 0x53, 0x09);
/// The ground of the page.
const PAPER: RGBColor = RGBColor(0xff, 0xff, 0xff);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<Places, Places>>;

/// The size of a plot in pixels of the page.
#[derive(Clone, Copy)]
pub struct Size {
    /// Pixels.
    pub width: i32,
    /// Pixels.
    pub height: i32,
}

/// The margins of a chart within its plot, and the size of its text, in pixels.
struct Frame {
    left: i32,
    bottom: i32,
    top: i32,
    right: i32,
    text: i32,
}

/// A plot that screen readers call `label`.
fn svg(size: Size, label: &str, draw: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<Markup> {
    let mut text = String::new();
    let (width, height) = (size.width * SCALE, size.height * SCALE);
    {
        let area = SVGBackend::with_string(&mut text, (width as u32, height as u32)).into_drawing_area();
        draw(&area)?;
        drawn(area.present())?;
    }
    // The element around it is the page's own: named for screen readers, and of any size.
    let inner = text.split_once('>').and_then(|(_, rest)| rest.rsplit_once("</svg>"));
    let (inner, _) = inner.ok_or_else(|| anyhow!("a plot is not an SVG"))?;
    Ok(html! { svg.plot viewBox={ "0 0 " (width) " " (height) } role="img" aria-label=(label) { (PreEscaped(inner)) } })
}

/// The result of drawing, which fails only where a file is written.
fn drawn<T, E: std::error::Error + Send + Sync>(result: Result<T, DrawingAreaErrorKind<E>>) -> Result<T> {
    result.map_err(|error| anyhow!("cannot draw a plot: {error}"))
}

/// Text of this color, `size` pixels high.
fn font(size: i32, color: RGBColor) -> TextStyle<'static> {
    // Plotters takes the height of a line and writes that of the font, 1.24 times smaller.
    ("sans-serif", f64::from(size * SCALE) * 1.24).into_font().color(&color)
}

fn anchored(size: i32, color: RGBColor, h: HPos, v: VPos) -> TextStyle<'static> {
    font(size, color).pos(Pos::new(h, v))
}

fn line(color: RGBColor, tenths: u32) -> ShapeStyle {
    color.stroke_width(tenths * SCALE as u32 / 10)
}

/// A chart with its grid and axes.
fn chart<'a>(area: &Area<'a>, frame: &Frame, x: &Axis, y: &Axis, title: &str) -> Result<Chart<'a>> {
    let mut chart = drawn(
        ChartBuilder::on(area)
            .margin_top(frame.top * SCALE)
            .margin_right(frame.right * SCALE)
            .x_label_area_size(frame.bottom * SCALE)
            .y_label_area_size(frame.left * SCALE)
            .build_cartesian_2d(x.range(), y.range()),
    )?;
    let words = font(frame.text, MUTED);
    let mut mesh = chart.configure_mesh();
    mesh.disable_x_mesh().bold_line_style(line(GRID, 10)).light_line_style(TRANSPARENT).axis_style(line(GHOST, 10));
    mesh.x_label_style(words.clone()).y_label_style(words.clone()).axis_desc_style(words);
    mesh.set_all_tick_mark_size(4 * SCALE).x_desc(title);
    drawn(mesh.x_label_formatter(&|v| x.words(*v)).y_label_formatter(&|v| y.words(*v)).draw())?;
    Ok(chart)
}
