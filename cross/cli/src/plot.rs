//! Plots as SVG text, in the colours of the house: the same in a file of their own and in a page.
//!
//! Only what reports here need: lines, points and levels over two linear axes, with a legend. Text stays text, so no font is
//! needed to draw it. In a page, ink, grid and paper follow its style sheet ([`for_page`]), so that they suit a dark one.

use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::*;

/// Twice the size at which a plot is shown: coordinates are whole numbers.
const SIZE: (u32, u32) = (1440, 860);
const FONT: &str = "system-ui, sans-serif";
const TEXT: u32 = 32;
const HEADING: u32 = 36;
const LEGEND_HEIGHT: i32 = 58;

const INK: RGBColor = RGBColor(0x1f, 0x29, 0x33);
const GRID: RGBColor = RGBColor(0xd5, 0xdb, 0xe3);
const PAPER: RGBColor = RGBColor(0xff, 0xff, 0xfe);

/// What tells series apart; each is legible on light and on dark paper.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hue {
    Blue,
    Orange,
    Green,
    Red,
    Grey,
}

impl Hue {
    fn color(self) -> RGBColor {
        match self {
            Hue::Blue => RGBColor(0x3b, 0x7d, 0xdd),
            Hue::Orange => RGBColor(0xe0, 0x82, 0x2a),
            Hue::Green => RGBColor(0x2f, 0xa3, 0x6b),
            Hue::Red => RGBColor(0xd6, 0x4c, 0x5e),
            Hue::Grey => RGBColor(0x8a, 0x94, 0xa6),
        }
    }
}

/// An axis from left to right or from bottom to top.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    pub(crate) label: String,
    pub(crate) from: f64,
    pub(crate) to: f64,
    /// How its numbers are written.
    pub(crate) format: fn(f64) -> String,
}

/// What is drawn, in this order.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    /// Points joined.
    Line { name: String, hue: Hue, points: Vec<(f64, f64)> },
    /// A thin line that the legend does not name.
    Thin { hue: Hue, points: Vec<(f64, f64)> },
    /// Circles.
    Points { name: String, hue: Hue, points: Vec<(f64, f64)> },
    /// A dashed line across, at a height.
    Level { name: String, hue: Hue, at: f64 },
    /// A dashed line upwards.
    Upright { name: String, hue: Hue, at: f64 },
}

/// A plot.
#[derive(Clone, Debug)]
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) parts: Vec<Part>,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

impl Chart {
    /// The plot as the text of an SVG file.
    pub(crate) fn svg(&self) -> Result<String> {
        let mut text = String::new();
        {
            let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
            area.fill(&PAPER)?;
            let (legend, plot) = area.margin(10, 10, 10, 60).split_vertically(LEGEND_HEIGHT);
            self.draw_legend(&legend)?;
            self.draw_plot(&plot)?;
            area.present()?;
        }
        Ok(titled(&text, &self.title))
    }

    fn draw_legend(&self, area: &Area<'_>) -> Result<()> {
        let (dash, gap) = (46, 14);
        let mut x = 150;
        let middle = LEGEND_HEIGHT / 2;
        for (name, hue, is_point) in self.parts.iter().filter_map(Part::legend) {
            let color = hue.color();
            if is_point {
                area.draw(&Circle::new((x + dash / 2, middle), 10, color.filled()))?;
            } else {
                area.draw(&PathElement::new([(x, middle), (x + dash, middle)], color.stroke_width(6)))?;
            }
            area.draw(&Text::new(
                name.to_owned(),
                (x + dash + gap, middle - 14),
                (FONT, TEXT).into_font().color(&INK),
            ))?;
            // Characters are about half as wide as high.
            x += dash + 3 * gap + (name.chars().count() as f64 * f64::from(TEXT) * 0.43) as i32;
        }
        Ok(())
    }

    fn draw_plot(&self, area: &Area<'_>) -> Result<()> {
        let (x, y) = (&self.x, &self.y);
        let mut chart = ChartBuilder::on(area)
            .x_label_area_size(96)
            .y_label_area_size(140)
            .build_cartesian_2d(x.from..x.to, y.from..y.to)?;
        let text = |size: u32| (FONT, size).into_font().color(&INK);
        chart
            .configure_mesh()
            .x_desc(x.label.as_str())
            .y_desc(y.label.as_str())
            .axis_desc_style(text(HEADING))
            .label_style(text(TEXT))
            .x_label_formatter(&|value| (x.format)(*value))
            .y_label_formatter(&|value| (y.format)(*value))
            .x_labels(8)
            .y_labels(8)
            .axis_style(INK.mix(0.6).stroke_width(2))
            .bold_line_style(GRID.stroke_width(2))
            .light_line_style(TRANSPARENT)
            .draw()?;
        for part in &self.parts {
            let color = part.hue().color();
            match part {
                Part::Line { points, .. } => {
                    chart.draw_series(LineSeries::new(self.inside(points), color.stroke_width(5)))?;
                }
                Part::Thin { points, .. } => {
                    chart.draw_series(LineSeries::new(self.inside(points), color.mix(0.75).stroke_width(3)))?;
                }
                Part::Points { points, .. } => {
                    let circles = self.inside(points).into_iter().map(|at| Circle::new(at, 12, color.filled()));
                    chart.draw_series(circles)?;
                }
                Part::Level { at, .. } => {
                    let ends = self.inside(&[(x.from, *at), (x.to, *at)]);
                    chart.draw_series(DashedLineSeries::new(ends, 14, 10, color.stroke_width(4)))?;
                }
                Part::Upright { at, .. } => {
                    let ends = self.inside(&[(*at, y.from), (*at, y.to)]);
                    chart.draw_series(DashedLineSeries::new(ends, 14, 10, color.stroke_width(4)))?;
                }
            }
        }
        Ok(())
    }

    /// The points within the range of `x`, their height kept within that of `y`: nothing else clips them.
    fn inside(&self, points: &[(f64, f64)]) -> Vec<(f64, f64)> {
        let within = |(x, y): &(f64, f64)| !y.is_nan() && (self.x.from..=self.x.to).contains(x);
        points.iter().filter(|point| within(point)).map(|&(x, y)| (x, y.clamp(self.y.from, self.y.to))).collect()
    }
}

impl Part {
    fn hue(&self) -> Hue {
        match self {
            Part::Line { hue, .. }
            | Part::Thin { hue, .. }
            | Part::Points { hue, .. }
            | Part::Level { hue, .. }
            | Part::Upright { hue, .. } => *hue,
        }
    }

    /// Name, colour and whether it is drawn as points.
    fn legend(&self) -> Option<(&str, Hue, bool)> {
        match self {
            Part::Line { name, hue, .. } | Part::Level { name, hue, .. } | Part::Upright { name, hue, .. } => {
                Some((name, *hue, false))
            }
            Part::Points { name, hue, .. } => Some((name, *hue, true)),
            Part::Thin { .. } => None,
        }
    }
}

/// Says what the picture is to who cannot see it.
fn titled(svg: &str, title: &str) -> String {
    let title = escape(title);
    let open = format!("<svg role=\"img\" aria-label=\"{title}\"");
    svg.replacen("<svg", &open, 1).replacen(">\n", &format!(">\n<title>{title}</title>\n"), 1)
}

/// The plot as part of a page whose style sheet sets `--ink`, `--grid` and `--paper`; its size is the page's to choose.
pub(crate) fn for_page(svg: &str) -> String {
    let size = format!("width=\"{}\" height=\"{}\" ", SIZE.0, SIZE.1);
    let mut text = svg.replacen(&size, "", 1);
    for (color, name) in [(INK, "ink"), (GRID, "grid"), (PAPER, "paper")] {
        let RGBColor(r, g, b) = color;
        text = text.replace(&format!("\"#{r:02X}{g:02X}{b:02X}\""), &format!("\"var(--{name})\""));
    }
    text
}

/// Text as XML and HTML take it.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::percent;

    fn chart() -> Chart {
        let axis = |label: &str| Axis { label: label.to_owned(), from: 0.0, to: 1.0, format: percent };
        let line =
            Part::Line { name: "a < b".to_owned(), hue: Hue::Blue, points: vec![(0.0, 0.5), (0.5, 7.0), (2.0, 0.0)] };
        let level = Part::Level { name: "alpha".to_owned(), hue: Hue::Red, at: 0.25 };
        Chart { title: "risk & coverage".to_owned(), x: axis("coverage"), y: axis("risk"), parts: vec![line, level] }
    }

    #[test]
    fn a_plot_has_its_words_as_text_and_nothing_outside_its_frame() {
        let svg = chart().svg().unwrap();
        for word in ["a &lt; b", "alpha", "coverage", "risk", "<title>risk &amp; coverage</title>", "40 %"] {
            assert!(svg.contains(word), "{word} is missing");
        }
        let points = svg.lines().filter(|line| line.starts_with("<polyline"));
        for number in points
            .flat_map(|line| line.split("points=\"").nth(1)?.split('"').next())
            .flat_map(|text| text.split([' ', ',']))
        {
            let number: i64 = if number.is_empty() { 0 } else { number.parse().unwrap() };
            assert!((0..=i64::from(SIZE.0)).contains(&number), "{number}");
        }
    }

    #[test]
    fn in_a_page_ink_follows_the_style_sheet() {
        let page = for_page(&chart().svg().unwrap());
        assert!(page.contains("var(--ink)") && page.contains("var(--paper)") && page.contains("var(--grid)"));
        assert!(!page.contains("#1F2933"));
        let opening = page.split('>').next().unwrap();
        assert!(opening.contains("viewBox=\"0 0 1440 860\"") && !opening.contains("width="), "{opening}");
    }
}
