//! LSTM, GRU and RNN against loops in double precision, over random shapes, directions, lengths and attributes.

use tenon_plugin_api::DType;
use tenon_plugin_api::host::{AttributeValue, GraphBuilder};

use crate::harness::{Array, Session, open};

/// A layer and its data, all extents small and odd.
struct Case {
    op_type: &'static str,
    gates: usize,
    steps: usize,
    batch: usize,
    size: usize,
    hidden: usize,
    reverse: Vec<bool>,
    is_batch_major: bool,
    /// `input_forget` or `linear_before_reset`.
    flag: bool,
    clip: f64,
    lengths: Option<Vec<i32>>,
    x: Array,
    w: Array,
    r: Array,
    bias: Array,
    states: [Array; 2],
    peepholes: Option<Array>,
}

impl Case {
    fn random(op_type: &'static str, gates: usize, random: &mut fastrand::Rng) -> Case {
        let [steps, batch, size] = [1..6, 1..8, 1..9].map(|range| random.usize(range));
        let hidden = random.usize(1..70);
        let reverse = [vec![false], vec![true], vec![false, true]][random.usize(0..3)].clone();
        let is_batch_major = random.bool();
        let [s, b, i, h, d] = [steps, batch, size, hidden, reverse.len()].map(|v| v as i64);
        let rows = gates as i64 * h;
        let swapped =
            |first: i64, second: i64| if is_batch_major { [second, first] } else { [first, second] };
        let ([x0, x1], [s0, s1]) = (swapped(s, b), swapped(d, b));
        let lengths = (0..batch).map(|_| random.i32(0..=steps as i32)).collect();
        let mut array = |dims: &[i64]| Array::random(dims, random);
        let (x, w, r) = (array(&[x0, x1, i]), array(&[d, rows, i]), array(&[d, rows, h]));
        let (bias, states) = (array(&[d, 2 * rows]), [array(&[s0, s1, h]), array(&[s0, s1, h])]);
        let peepholes = array(&[d, 3 * h]);
        Case {
            op_type,
            gates,
            steps,
            batch,
            size,
            hidden,
            reverse,
            is_batch_major,
            flag: random.bool(),
            clip: if random.bool() { 0.7 } else { f64::INFINITY },
            lengths: random.bool().then_some(lengths),
            x,
            w,
            r,
            bias,
            states,
            peepholes: (op_type == "LSTM" && random.bool()).then_some(peepholes),
        }
    }

    /// Y, Y_h and, for an LSTM, Y_c from the provider.
    fn run(&self, device: &std::sync::Arc<tenon_plugin_api::host::Device>) -> Vec<Array> {
        let mut graph = GraphBuilder::new();
        let x = graph.input("x", DType::F32, Some(&self.x.dims));
        let constant = |graph: &mut GraphBuilder, name: &str, array: &Array| {
            graph.constant(name, DType::F32, &array.dims, &array.bytes())
        };
        let (w, r) = (constant(&mut graph, "w", &self.w), constant(&mut graph, "r", &self.r));
        let bias = constant(&mut graph, "b", &self.bias);
        let lengths = self.lengths.clone().unwrap_or_else(|| vec![self.steps as i32; self.batch]);
        let bytes: Vec<u8> = lengths.iter().flat_map(|length| length.to_le_bytes()).collect();
        let lengths = graph.constant("lengths", DType::I32, &[self.batch as i64], &bytes);
        let mut inputs = vec![x, w, r, bias, lengths, constant(&mut graph, "h", &self.states[0])];
        if self.op_type == "LSTM" {
            inputs.push(constant(&mut graph, "c", &self.states[1]));
        }
        if let Some(peepholes) = &self.peepholes {
            inputs.push(constant(&mut graph, "p", peepholes));
        }
        let names = if self.op_type == "LSTM" { &["y", "yh", "yc"][..] } else { &["y", "yh"] };
        let outputs: Vec<u32> = names.iter().map(|name| graph.value(name, DType::F32, None)).collect();
        let node = graph.node(self.op_type, 22, &inputs, &outputs);
        let direction = match self.reverse[..] {
            [false] => "forward",
            [true] => "reverse",
            _ => "bidirectional",
        };
        graph.attribute(node, "direction", AttributeValue::String(direction.into()));
        graph.attribute(node, "hidden_size", AttributeValue::Int(self.hidden as i64));
        graph.attribute(node, "layout", AttributeValue::Int(self.is_batch_major.into()));
        let flag = if self.op_type == "GRU" { "linear_before_reset" } else { "input_forget" };
        if self.op_type != "RNN" {
            graph.attribute(node, flag, AttributeValue::Int(self.flag.into()));
        }
        if self.clip.is_finite() {
            graph.attribute(node, "clip", AttributeValue::Float(self.clip as f32));
        }
        outputs.iter().for_each(|&output| {
            graph.output(output);
        });
        Session::new(device, &graph.build(), outputs.len()).run(std::slice::from_ref(&self.x))
    }

    fn at(&self, array: &Array, index: [usize; 3]) -> f64 {
        let [_, second, third] = [0, 1, 2].map(|axis| array.dims[axis] as usize);
        f64::from(array.values[(index[0] * second + index[1]) * third + index[2]])
    }

    fn swapped(&self, first: usize, second: usize) -> [usize; 2] {
        if self.is_batch_major { [second, first] } else { [first, second] }
    }

    /// The same by loops: values with the index of each output.
    fn expected(&self) -> Vec<Vec<f64>> {
        let (directions, volume) = (self.reverse.len(), self.batch * self.hidden);
        let mut y = vec![0.0; self.steps * directions * volume];
        let mut last = [vec![0.0; directions * volume], vec![0.0; directions * volume]];
        for d in 0..directions {
            for b in 0..self.batch {
                let [s0, s1] = self.swapped(d, b);
                let start = |state: usize| {
                    (0..self.hidden).map(|j| self.at(&self.states[state], [s0, s1, j])).collect::<Vec<f64>>()
                };
                let (mut h, mut c) = (start(0), start(1));
                let length = self.lengths.as_ref().map_or(self.steps, |lengths| lengths[b] as usize);
                for step in 0..length {
                    let t = if self.reverse[d] { length - 1 - step } else { step };
                    self.step(d, b, t, &mut h, &mut c);
                    for (j, &value) in h.iter().enumerate() {
                        let at = match self.is_batch_major {
                            false => ((t * directions + d) * self.batch + b) * self.hidden + j,
                            true => ((b * self.steps + t) * directions + d) * self.hidden + j,
                        };
                        y[at] = value;
                    }
                }
                let row = if self.is_batch_major { b * directions + d } else { d * self.batch + b };
                last[0][row * self.hidden..][..self.hidden].copy_from_slice(&h);
                last[1][row * self.hidden..][..self.hidden].copy_from_slice(&c);
            }
        }
        let [hidden, cell] = last;
        if self.op_type == "LSTM" { vec![y, hidden, cell] } else { vec![y, hidden] }
    }

    fn step(&self, d: usize, b: usize, t: usize, h: &mut [f64], c: &mut [f64]) {
        let clip = |v: f64| v.clamp(-self.clip, self.clip);
        let sigmoid = |v: f64| 1.0 / (1.0 + (-clip(v)).exp());
        let bias = |row: usize| f64::from(self.bias.values[d * 2 * self.gates * self.hidden + row]);
        let [x0, x1] = self.swapped(t, b);
        let input = |gate: usize, j: usize| -> f64 {
            let row = gate * self.hidden + j;
            let products =
                (0..self.size).map(|k| self.at(&self.w, [d, row, k]) * self.at(&self.x, [x0, x1, k]));
            products.sum::<f64>() + bias(row)
        };
        let state = |gate: usize, j: usize, from: &[f64]| -> f64 {
            let row = gate * self.hidden + j;
            let products = from.iter().enumerate().map(|(k, v)| self.at(&self.r, [d, row, k]) * v);
            products.sum::<f64>() + bias(self.gates * self.hidden + row)
        };
        let hole = |part: usize, j: usize| {
            let values = self.peepholes.as_ref().map(|p| p.values[(d * 3 + part) * self.hidden + j]);
            values.map_or(0.0, f64::from)
        };
        let before = h.to_vec();
        let both = |gate: usize, j: usize| input(gate, j) + state(gate, j, &before);
        let reset: Vec<f64> = match self.op_type {
            "GRU" => (0..self.hidden).map(|j| sigmoid(both(1, j))).collect(),
            _ => Vec::new(),
        };
        let scaled: Vec<f64> = reset.iter().zip(&before).map(|(r, v)| r * v).collect();
        for j in 0..self.hidden {
            h[j] = match self.op_type {
                "LSTM" => {
                    let i = sigmoid(both(0, j) + hole(0, j) * c[j]);
                    let forget = sigmoid(both(2, j) + hole(2, j) * c[j]);
                    let forget = if self.flag { 1.0 - i } else { forget };
                    c[j] = forget * c[j] + i * clip(both(3, j)).tanh();
                    sigmoid(both(1, j) + hole(1, j) * c[j]) * c[j].tanh()
                }
                "GRU" => {
                    let late = if self.flag { reset[j] * state(2, j, &before) } else { state(2, j, &scaled) };
                    let z = sigmoid(both(0, j));
                    (1.0 - z) * clip(input(2, j) + late).tanh() + z * before[j]
                }
                _ => clip(both(0, j)).tanh(),
            };
        }
    }
}

#[test]
fn recurrent_layers_agree_with_double_precision() {
    let device = open(&[]);
    let mut random = fastrand::Rng::with_seed(11);
    for (op_type, gates) in [("LSTM", 4), ("GRU", 3), ("RNN", 1)] {
        for number in 0..12 {
            let case = Case::random(op_type, gates, &mut random);
            for (output, (got, want)) in case.run(&device).iter().zip(case.expected()).enumerate() {
                assert_eq!(got.values.len(), want.len(), "{op_type} {number}: output {output}");
                for (at, (got, want)) in got.values.iter().zip(&want).enumerate() {
                    let difference = (f64::from(*got) - want).abs();
                    assert!(difference < 2e-5, "{op_type} {number}: output {output} at {at}: {got} {want}");
                }
            }
        }
    }
}
