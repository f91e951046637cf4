//! The roofline as a picture: rate over intensity, both logarithmic, the data sheet's roof and every kernel below it.

use std::fmt::Write;

use tenon_kernels::gpu::pipeline::Machine;

use crate::report::Line;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 560.0;
const MARGIN: f64 = 70.0;

/// Decades of an axis and where they lie.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn of(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
        Self { low: low.log10().floor(), high: high.log10().ceil(), from, to }
    }

    fn at(&self, value: f64) -> f64 {
        self.from + (value.log10() - self.low) / (self.high - self.low).max(1.0) * (self.to - self.from)
    }

    fn decades(&self) -> impl Iterator<Item = f64> {
        (self.low as i32..=self.high as i32).map(|exponent| 10_f64.powi(exponent))
    }
}

/// A standalone SVG of the lines, whose rates are estimates; measured ones of others are hollow.
pub fn roofline(lines: &[Line], machine: &Machine) -> String {
    let intensity = |line: &Line| line.estimate.flops / line.estimate.bytes;
    let tflops = |line: &Line, seconds: f64| line.estimate.flops / seconds / 1e12;
    let roofs: Vec<f64> = lines.iter().map(|line| line.peak.flops_per_second / 1e12).collect();
    let x = Axis::of(lines.iter().map(intensity).chain([1.0, 1000.0]), MARGIN, WIDTH - 20.0);
    let rates = lines.iter().map(|line| tflops(line, line.estimate.seconds));
    let y = Axis::of(rates.chain(roofs.iter().copied()), HEIGHT - MARGIN, 40.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{MARGIN}\" y=\"24\" font-size=\"16\">{}: estimates, mean error of the model {:.0} %</text>\n",
        escape(&machine.chip.device_name),
        100.0 * machine.model.error,
    );
    grid(&mut svg, &x, &y);
    let mut peaks: Vec<(f64, &'static str)> =
        lines.iter().map(|line| (line.peak.flops_per_second / 1e12, line.problem.dtype().name())).collect();
    peaks.sort_by(|a, b| a.0.total_cmp(&b.0));
    peaks.dedup_by(|a, b| a.0 == b.0);
    let bandwidth = machine.chip.bytes_per_second / 1e12;
    for (peak, name) in peaks {
        let ridge = peak / bandwidth;
        let start = 10_f64.powf(x.low).max(10_f64.powf(y.low) / bandwidth);
        let points = [(start, start * bandwidth), (ridge, peak), (10_f64.powf(x.high), peak)];
        let points: Vec<String> =
            points.iter().map(|(i, r)| format!("{:.1},{:.1}", x.at(*i), y.at(*r))).collect();
        let _infallible = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"#444\" stroke-width=\"1.5\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#444\">{name} {peak:.0} TFLOP/s</text>",
            points.join(" "),
            WIDTH - 24.0,
            y.at(peak) - 5.0,
        );
    }
    for line in lines {
        let (px, label) = (
            x.at(intensity(line)),
            format!("{} {} {}", line.problem.operator(), line.problem, line.problem.dtype().name()),
        );
        for (kernel, seconds) in &line.others {
            let rate = tflops(line, *seconds);
            let title = escape(&format!("{label}: {kernel}, measured, {rate:.0} TFLOP/s"));
            circle(&mut svg, px, y.at(rate), "white", "#c60", &title);
        }
        let rate = tflops(line, line.estimate.seconds);
        let title = format!("{label}: estimate {rate:.0} TFLOP/s, {}", line.estimate.limiter.name());
        circle(&mut svg, px, y.at(rate), "#06c", "#06c", &escape(&title));
    }
    svg.push_str("</svg>\n");
    svg
}

fn circle(svg: &mut String, x: f64, y: f64, fill: &str, stroke: &str, title: &str) {
    let _infallible = writeln!(
        svg,
        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{fill}\" stroke=\"{stroke}\"><title>{title}</title></circle>"
    );
}

fn grid(svg: &mut String, x: &Axis, y: &Axis) {
    for decade in x.decades() {
        let at = x.at(decade);
        let _infallible = writeln!(
            svg,
            "<line x1=\"{at:.1}\" y1=\"{:.1}\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"#ddd\"/><text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{decade}</text>",
            y.from,
            y.to,
            y.from + 18.0
        );
    }
    for decade in y.decades() {
        let at = y.at(decade);
        let _infallible = writeln!(
            svg,
            "<line x1=\"{:.1}\" y1=\"{at:.1}\" x2=\"{:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{decade}</text>",
            x.from,
            x.to,
            x.from - 8.0,
            at + 4.0
        );
    }
    let _infallible = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">operations per byte</text><text x=\"16\" y=\"{:.1}\" transform=\"rotate(-90 16 {:.1})\" text-anchor=\"middle\">TFLOP/s</text>",
        (x.from + x.to) / 2.0,
        y.from + 42.0,
        (y.from + y.to) / 2.0,
        (y.from + y.to) / 2.0
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
