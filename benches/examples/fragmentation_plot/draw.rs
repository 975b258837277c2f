//! The picture: for each case memory, latency and CPU over time, in one colour for each server.

use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use super::cases::Case;
use super::record::Sample;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const WIDTH: u32 = 1080;
const HEADER: u32 = 92;
const CASE: u32 = 612;
/// Heights of a case's title and of its charts; the last one takes the rest.
const TITLE: u32 = 58;
const CHARTS: [u32; 2] = [248, 136];
/// Room above each chart, which says what it shows.
const UNIT: u32 = 24;

/// Told apart by people who confuse red and green, too.
const COLOURS: [RGBColor; 5] = [
    RGBColor(0, 98, 178),
    RGBColor(222, 88, 0),
    RGBColor(0, 148, 110),
    RGBColor(176, 78, 150),
    RGBColor(90, 90, 90),
];
const INK: RGBColor = RGBColor(34, 40, 48);
const DIM: RGBColor = RGBColor(96, 106, 118);
const GRID: RGBColor = RGBColor(226, 230, 235);

const FONT: &str = "system-ui, sans-serif";

fn colour(server: usize) -> RGBColor {
    COLOURS[server % COLOURS.len()]
}

fn text(size: f64, colour: &RGBColor) -> TextStyle<'static> {
    (FONT, size).into_font().color(colour)
}

fn bold(size: f64) -> TextStyle<'static> {
    (FONT, size).into_font().style(FontStyle::Bold).color(&INK)
}

/// Draws the courses (by case, then by server) as an SVG.
pub(crate) fn picture(names: &[String], cases: &[Case], courses: &[Vec<Vec<Sample>>]) -> String {
    let rows = cases.len().div_ceil(2);
    let height = HEADER + CASE * rows as u32 + 8;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE).expect("drawing to memory");
        let (header, body) = root.split_vertically(HEADER);
        legend(&header, names);
        let (body, _) = body.split_vertically(CASE * rows as u32);
        let fields = body.split_evenly((rows, 2));
        for ((field, case), servers) in fields.iter().zip(cases).zip(courses) {
            draw_case(field, case, servers);
        }
        root.present().expect("drawing to memory");
    }
    svg
}

/// A text with its left upper corner at a place.
fn put(area: &Area<'_>, words: &str, style: &TextStyle<'_>, at: (i32, i32)) {
    area.draw_text(words, style, at).expect("drawing to memory");
}

fn legend(area: &Area<'_>, names: &[String]) {
    put(
        area,
        "Memory, latency and CPU while a heap fragments",
        &bold(24.0),
        (20, 16),
    );
    let line = |from: i32, y: i32, colour: RGBColor, dashed: bool| {
        let (length, pieces) = if dashed { (5, 4) } else { (30, 1) };
        for start in (0..pieces).map(|piece| from + piece * 8) {
            let ends = vec![(start, y), (start + length, y)];
            area.draw(&PathElement::new(ends, colour.stroke_width(3)))
                .expect("drawing to memory");
        }
    };
    let style = text(17.0, &INK);
    let mut at = 20;
    let entries = names.iter().enumerate();
    let entries = entries.map(|(server, name)| (name.as_str(), colour(server), false));
    let kinds = [
        ("resident memory", DIM, false),
        ("live bytes (used_memory_dataset)", DIM, true),
    ];
    for (name, colour, dashed) in entries.chain(kinds) {
        line(at, 68, colour, dashed);
        put(area, name, &style, (at + 38, 59));
        // As wide as such a font is.
        at += 38 + name.chars().count() as i32 * 17 / 2 + 26;
    }
}

fn draw_case(area: &Area<'_>, case: &Case, servers: &[Vec<Sample>]) {
    let (title, rest) = area.split_vertically(TITLE);
    put(&title, case.title, &bold(20.0), (20, 6));
    put(&title, case.about, &text(15.5, &DIM), (20, 33));
    let (memory, rest) = rest.split_vertically(CHARTS[0]);
    let (latency, cpu) = rest.split_vertically(CHARTS[1]);
    let all = || servers.iter().flatten();
    let most = |of: fn(&Sample) -> f64| all().map(of).filter(|v| v.is_finite()).fold(0.0, f64::max);
    let seconds = most(|s| s.seconds).max(case.seconds());

    let top = most(|s| s.resident_mb) * 1.12;
    let chart = Chart {
        area: &memory,
        case,
        seconds,
        unit: "Memory, MB",
        bottom: false,
    };
    chart.draw(
        0.0..top,
        &whole,
        servers,
        |s| s.resident_mb,
        Some(|s| s.live_mb),
    );
    let low = all().map(|s| s.p99_us).filter(|v| *v > 0.0);
    let low = low.fold(f64::INFINITY, f64::min).min(100.0);
    let high = most(|s| s.p99_us).max(1000.0) * 1.3;
    let chart = Chart {
        area: &latency,
        unit: "Latency: 99% of the probes within",
        ..chart
    };
    chart.draw(
        (low * 0.8..high).log_scale(),
        &duration,
        servers,
        |s| s.p99_us,
        None,
    );
    let chart = Chart {
        area: &cpu,
        unit: "CPU, % of a core",
        bottom: true,
        ..chart
    };
    let top = most(|s| s.cpu_percent).max(50.0) * 1.08;
    chart.draw(0.0..top, &whole, servers, |s| s.cpu_percent, None);
}

fn whole(value: &f64) -> String {
    format!("{value:.0}")
}

fn duration(us: &f64) -> String {
    match us {
        us if *us >= 1e6 => format!("{:.0} s", us / 1e6),
        us if *us >= 1e3 => format!("{:.0} ms", us / 1e3),
        us => format!("{us:.0} µs"),
    }
}

/// One chart of a case.
#[derive(Clone, Copy)]
struct Chart<'a, 'b> {
    area: &'a Area<'b>,
    case: &'a Case,
    seconds: f64,
    unit: &'static str,
    /// Whether it bears the axis of time.
    bottom: bool,
}

impl Chart<'_, '_> {
    /// Draws a figure of all servers over time, and another one dashed.
    fn draw<Y>(
        &self,
        range: Y,
        label: &dyn Fn(&f64) -> String,
        servers: &[Vec<Sample>],
        figure: fn(&Sample) -> f64,
        dashed: Option<fn(&Sample) -> f64>,
    ) where
        Y: AsRangedCoord<Value = f64>,
        Y::CoordDescType: ValueFormatter<f64>,
    {
        let mut chart = ChartBuilder::on(self.area)
            .margin_top(UNIT)
            .margin_right(14)
            .margin_left(14)
            .set_label_area_size(LabelAreaPosition::Left, 58)
            .set_label_area_size(LabelAreaPosition::Bottom, if self.bottom { 44 } else { 6 })
            .build_cartesian_2d(0.0..self.seconds, range)
            .expect("drawing to memory");
        let mut mesh = chart.configure_mesh();
        mesh.disable_x_mesh()
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(GRID)
            .label_style(text(14.5, &DIM))
            .y_labels(if self.is_tall() { 6 } else { 4 })
            .y_label_formatter(label)
            .x_label_formatter(&whole);
        if self.bottom {
            mesh.x_desc("seconds").axis_desc_style(text(14.5, &DIM));
        } else {
            mesh.x_labels(0);
        }
        mesh.draw().expect("drawing to memory");
        // The phases, and what the chart shows.
        let (across, down) = chart.plotting_area().get_pixel_range();
        let plain = chart.plotting_area().strip_coord_spec();
        let (width, height) = (across.end - across.start, down.end - down.start);
        let mut begin = 0.0;
        for phase in &self.case.phases {
            let x = (begin / self.seconds * f64::from(width)) as i32;
            begin += phase.seconds;
            if x > 0 {
                let line = vec![(x, 0), (x, height)];
                plain
                    .draw(&PathElement::new(line, RGBColor(205, 211, 218)))
                    .expect("drawing to memory");
            }
            if self.is_tall() {
                put(&plain, phase.name, &text(13.5, &DIM), (x + 4, 1));
            }
        }
        put(self.area, self.unit, &text(14.5, &INK), (72, 3));
        // slabkv's lines lie above the others.
        for (server, samples) in servers.iter().enumerate().rev() {
            let line = |of: fn(&Sample) -> f64| {
                let points = samples
                    .iter()
                    .map(move |sample| (sample.seconds, of(sample)));
                points.filter(|(_, value)| value.is_finite())
            };
            if let Some(dashed) = dashed {
                let style = colour(server).mix(0.8).stroke_width(2);
                chart
                    .draw_series(DashedLineSeries::new(line(dashed), 5, 4, style))
                    .expect("drawing to memory");
            }
            let style = colour(server).stroke_width(2);
            chart
                .draw_series(LineSeries::new(line(figure), style))
                .expect("drawing to memory");
        }
    }

    fn is_tall(&self) -> bool {
        self.unit.starts_with("Memory")
    }
}
