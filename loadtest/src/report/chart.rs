//! Line charts as SVG, drawn by hand: a few lines, two axes, no script.

use std::fmt::Write as _;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 220.0;
/// Room for the labels of the axes.
const LEFT: f64 = 70.0;
const BELOW: f64 = 24.0;
const ABOVE: f64 = 10.0;

const COLOURS: [&str; 8] =
    ["#1f6feb", "#d29922", "#cf222e", "#1a7f37", "#8250df", "#57606a", "#bf3989", "#0b7285"];

/// A chart.
pub(super) struct Chart {
    /// What it shows.
    pub(super) title: String,
    /// What the vertical axis counts.
    pub(super) unit: &'static str,
    /// Whether the vertical axis is logarithmic.
    pub(super) logarithmic: bool,
    /// Each line: its name and its points from left to right.
    pub(super) lines: Vec<(String, Vec<(f64, f64)>)>,
    /// Labels of the horizontal axis where they are not plain numbers.
    pub(super) labels: Vec<(f64, String)>,
}

impl Chart {
    /// The chart as a figure; nothing if there is nothing to show.
    pub(super) fn draw(&self) -> String {
        let points = || self.lines.iter().flat_map(|(_, points)| points).copied();
        let across = points().map(|(x, _)| x).fold(0.0, f64::max);
        let top = points().map(|(_, y)| y).fold(0.0, f64::max);
        if across <= 0.0 || top <= 0.0 {
            return String::new();
        }
        let bottom = if self.logarithmic {
            points().map(|(_, y)| y).filter(|y| *y > 0.0).fold(top, f64::min)
        } else {
            0.0
        };
        let scale = Scale { across, bottom, top, logarithmic: self.logarithmic };
        let mut svg = format!(
            "<figure><figcaption>{}, {}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">",
            escaped(&self.title),
            self.unit
        );
        self.axes(&scale, &mut svg);
        for ((_, points), colour) in self.lines.iter().zip(COLOURS.iter().cycle()) {
            let places: Vec<String> =
                points.iter().map(|(x, y)| format!("{:.1},{:.1}", scale.x(*x), scale.y(*y))).collect();
            let drawn = places.join(" ");
            let _ = write!(
                svg,
                "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{drawn}\"/>"
            );
        }
        svg.push_str("</svg><p>");
        for ((name, _), colour) in self.lines.iter().zip(COLOURS.iter().cycle()) {
            let _ = write!(svg, "<span style=\"color:{colour}\">■</span> {} ", escaped(name));
        }
        svg.push_str("</p></figure>\n");
        svg
    }

    fn axes(&self, scale: &Scale, svg: &mut String) {
        for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
            let value = scale.value(share);
            let y = scale.y(value);
            let _ = write!(
                svg,
                "<line x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 6.0,
                y + 4.0,
                short(value)
            );
            if self.labels.is_empty() {
                tick(svg, scale.x(scale.across * share), &short(scale.across * share));
            }
        }
        for (at, label) in &self.labels {
            tick(svg, scale.x(*at), label);
        }
    }
}

fn tick(svg: &mut String, x: f64, label: &str) {
    let _ = write!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
        x.min(WIDTH - 16.0),
        HEIGHT - 6.0,
        escaped(label)
    );
}

struct Scale {
    across: f64,
    bottom: f64,
    top: f64,
    logarithmic: bool,
}

impl Scale {
    fn x(&self, value: f64) -> f64 {
        LEFT + value / self.across * (WIDTH - LEFT)
    }

    fn y(&self, value: f64) -> f64 {
        let share = if !self.logarithmic {
            value / self.top
        } else if self.top > self.bottom {
            (value.max(self.bottom) / self.bottom).ln() / (self.top / self.bottom).ln()
        } else {
            1.0
        };
        HEIGHT - BELOW - share * (HEIGHT - BELOW - ABOVE)
    }

    /// The value at this share of the height.
    fn value(&self, share: f64) -> f64 {
        if self.logarithmic { self.bottom * (self.top / self.bottom).powf(share) } else { self.top * share }
    }
}

/// A number in few characters.
pub(super) fn short(value: f64) -> String {
    match value {
        v if v >= 1e9 => format!("{:.1}G", v / 1e9),
        v if v >= 1e6 => format!("{:.1}M", v / 1e6),
        v if v >= 1e4 => format!("{:.0}k", v / 1e3),
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 1.0 => format!("{v:.1}"),
        0.0 => "0".to_owned(),
        v => format!("{v:.3}"),
    }
}

/// A text within HTML. Some of it is a server's words.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
