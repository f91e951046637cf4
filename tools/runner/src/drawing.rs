//! Draws a directed graph of boxes as SVG: boxes in layers from top to bottom, each below everything that feeds it.

use std::fmt::Write;

/// A box with lines of text; the first is its title.
#[derive(Clone, Debug)]
pub struct Block {
    pub lines: Vec<String>,
    /// Fill colour as SVG writes it.
    pub colour: &'static str,
}

/// An arrow between two boxes, by index.
#[derive(Clone, Debug)]
pub struct Arrow {
    pub from: usize,
    pub to: usize,
    pub label: String,
}

/// Boxes and arrows.
#[derive(Clone, Debug, Default)]
pub struct Drawing {
    pub blocks: Vec<Block>,
    pub arrows: Vec<Arrow>,
}

const CHARACTER_WIDTH: f64 = 7.3;
const LINE_HEIGHT: f64 = 17.0;
const PADDING: f64 = 10.0;
const GAP_X: f64 = 30.0;
const GAP_Y: f64 = 54.0;
const MARGIN: f64 = 20.0;
/// Passes of moving boxes towards their neighbours.
const SWEEPS: usize = 8;

#[derive(Clone, Copy, Debug, Default)]
struct Rectangle {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

impl Drawing {
    /// The drawing as an SVG document.
    pub fn to_svg(&self) -> String {
        let places = self.places();
        let width = places.iter().map(|r| r.x + r.width).fold(0.0, f64::max) + MARGIN;
        let height = places.iter().map(|r| r.y + r.height).fold(0.0, f64::max) + MARGIN;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
             viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"monospace\" font-size=\"12\">\n\
             <defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" \
             orient=\"auto\"><path d=\"M0 0 L8 4 L0 8 z\" fill=\"#555\"/></marker></defs>\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        self.arrows.iter().for_each(|a| arrow_svg(&mut svg, a, &places));
        self.blocks.iter().zip(&places).for_each(|(b, r)| block_svg(&mut svg, b, r));
        svg.push_str("</svg>\n");
        svg
    }

    /// The layer of each box: one more than the deepest box that feeds it. Arrows that close a cycle do not count.
    fn layers(&self) -> Vec<usize> {
        let n = self.blocks.len();
        let mut waiting = vec![0usize; n];
        for a in self.real_arrows() {
            waiting[a.to] += 1;
        }
        let mut layers = vec![0; n];
        let mut done = vec![false; n];
        for _ in 0..n {
            // Without a box that waits for nothing there is a cycle; the first box left breaks it.
            let ready = (0..n).find(|i| !done[*i] && waiting[*i] == 0).or_else(|| (0..n).find(|i| !done[*i]));
            let Some(next) = ready else { break };
            done[next] = true;
            for a in self.real_arrows().filter(|a| a.from == next) {
                waiting[a.to] = waiting[a.to].saturating_sub(1);
                if !done[a.to] {
                    layers[a.to] = layers[a.to].max(layers[next] + 1);
                }
            }
        }
        layers
    }

    fn real_arrows(&self) -> impl Iterator<Item = &Arrow> {
        let n = self.blocks.len();
        self.arrows.iter().filter(move |a| a.from != a.to && a.from < n && a.to < n)
    }

    fn places(&self) -> Vec<Rectangle> {
        let layers = self.layers();
        let mut rows: Vec<Vec<usize>> = vec![Vec::new(); layers.iter().max().map_or(0, |m| m + 1)];
        for (block, layer) in layers.iter().enumerate() {
            rows[*layer].push(block);
        }
        let mut places: Vec<Rectangle> = self.blocks.iter().map(size).collect();
        let mut y = MARGIN;
        for row in &rows {
            row.iter().for_each(|b| places[*b].y = y);
            spread(row, &mut places);
            y += row.iter().map(|b| places[*b].height).fold(0.0, f64::max) + GAP_Y;
        }
        for sweep in 0..SWEEPS {
            let order: Vec<usize> =
                if sweep % 2 == 0 { (0..rows.len()).collect() } else { (0..rows.len()).rev().collect() };
            for layer in order {
                self.pull(&mut rows[layer], &mut places);
            }
        }
        let left = places.iter().map(|r| r.x).fold(f64::INFINITY, f64::min);
        places.iter_mut().for_each(|r| r.x += MARGIN - left);
        places
    }

    /// Orders the boxes of a row by the centre of their neighbours and moves them there as far as they fit.
    fn pull(&self, row: &mut [usize], places: &mut [Rectangle]) {
        let wish = |block: usize, places: &[Rectangle]| {
            let neighbours = self.real_arrows().filter_map(|a| match (a.from == block, a.to == block) {
                (true, _) => Some(a.to),
                (_, true) => Some(a.from),
                _ => None,
            });
            let centres: Vec<f64> = neighbours.map(|n| places[n].x + places[n].width / 2.0).collect();
            let own = places[block].x + places[block].width / 2.0;
            if centres.is_empty() { own } else { centres.iter().sum::<f64>() / centres.len() as f64 }
        };
        let mut wishes: Vec<(f64, usize)> = row.iter().map(|b| (wish(*b, places), *b)).collect();
        wishes.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mut right = f64::NEG_INFINITY;
        for (slot, (centre, block)) in row.iter_mut().zip(wishes) {
            *slot = block;
            places[block].x = (centre - places[block].width / 2.0).max(right);
            right = places[block].x + places[block].width + GAP_X;
        }
    }
}

fn size(block: &Block) -> Rectangle {
    let longest = block.lines.iter().map(|l| l.chars().count()).max().unwrap_or(0);
    Rectangle {
        width: longest as f64 * CHARACTER_WIDTH + 2.0 * PADDING,
        height: block.lines.len().max(1) as f64 * LINE_HEIGHT + 2.0 * PADDING,
        ..Rectangle::default()
    }
}

fn spread(row: &[usize], places: &mut [Rectangle]) {
    let mut x = 0.0;
    for block in row {
        places[*block].x = x;
        x += places[*block].width + GAP_X;
    }
}

fn block_svg(svg: &mut String, block: &Block, place: &Rectangle) {
    let Rectangle { x, y, width, height } = place;
    svg.push_str(&format!(
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"5\" fill=\"{}\" \
         stroke=\"#444\"/>\n",
        block.colour
    ));
    for (i, line) in block.lines.iter().enumerate() {
        let weight = if i == 0 { " font-weight=\"bold\"" } else { "" };
        let (tx, ty) = (x + PADDING, y + PADDING + LINE_HEIGHT * (i as f64 + 0.75));
        svg.push_str(&format!("<text x=\"{tx:.1}\" y=\"{ty:.1}\"{weight}>{}</text>\n", escaped(line)));
    }
}

fn arrow_svg(svg: &mut String, arrow: &Arrow, places: &[Rectangle]) {
    let (Some(from), Some(to)) = (places.get(arrow.from), places.get(arrow.to)) else { return };
    let (x0, y0) = (from.x + from.width / 2.0, from.y + from.height);
    let (x1, y1) = (to.x + to.width / 2.0, to.y);
    let middle = (y0 + y1) / 2.0;
    svg.push_str(&format!(
        "<path d=\"M{x0:.1} {y0:.1} C{x0:.1} {middle:.1} {x1:.1} {middle:.1} {x1:.1} {y1:.1}\" fill=\"none\" \
         stroke=\"#555\" marker-end=\"url(#tip)\"/>\n"
    ));
    let _infallible = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{middle:.1}\" fill=\"#555\" font-size=\"10\" text-anchor=\"middle\">{}</text>",
        (x0 + x1) / 2.0,
        escaped(&arrow.label)
    );
}

/// Text as XML holds it.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawing(blocks: usize, arrows: &[(usize, usize)]) -> Drawing {
        let block = |i: usize| Block { lines: vec![format!("block {i}"), "x".repeat(i % 7)], colour: "#eee" };
        let arrow = |(from, to): &(usize, usize)| Arrow { from: *from, to: *to, label: String::new() };
        Drawing { blocks: (0..blocks).map(block).collect(), arrows: arrows.iter().map(arrow).collect() }
    }

    #[test]
    fn every_box_is_below_those_that_feed_it() {
        let d = drawing(5, &[(3, 1), (1, 0), (3, 0), (0, 4), (2, 4)]);
        let layers = d.layers();
        assert!(d.arrows.iter().all(|a| layers[a.from] < layers[a.to]), "{layers:?}");
        assert_eq!(layers[3], 0);
        assert_eq!(layers[4], 3);
    }

    #[test]
    fn boxes_do_not_overlap() {
        let arrows: Vec<(usize, usize)> = (0..40).map(|i| (i / 3, i / 2 + 5)).collect();
        let places = drawing(40, &arrows).places();
        for (i, a) in places.iter().enumerate() {
            for b in &places[i + 1..] {
                let apart_x = a.x + a.width <= b.x || b.x + b.width <= a.x;
                let apart_y = a.y + a.height <= b.y || b.y + b.height <= a.y;
                assert!(apart_x || apart_y, "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn cycles_still_end() {
        assert_eq!(drawing(3, &[(0, 1), (1, 2), (2, 0)]).layers(), [0, 1, 2]);
        assert_eq!(drawing(1, &[(0, 0)]).layers(), [0]);
        assert!(Drawing::default().to_svg().ends_with("</svg>\n"));
    }

    #[test]
    fn text_is_escaped() {
        let mut d = drawing(1, &[]);
        d.blocks[0].lines[0] = "a<b> & \"c\"".into();
        let svg = d.to_svg();
        assert!(svg.contains("a&lt;b&gt; &amp; &quot;c&quot;") && !svg.contains("a<b>"));
    }
}
