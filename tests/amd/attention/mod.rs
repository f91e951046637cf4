//! Attention kernels on the emulator: every mask, layout and length against a float64 reference, with poison wherever a
//! kernel must not look.

mod codes;
mod plain;

use half::{bf16, f16};
use tenon_emulator::{Class, Error, Mutation};
use tenon_kernels::gpu::attention::{
    Causal, Codes, Keys, Lengths, MaskKind, MaskOperand, Problem, Queries, Scales, Strides, mfma, operand,
    plan,
};
use tenon_kernels::gpu::launch::{Element as Kind, Plan};

use crate::harness::{Machine, assert_close};

/// A problem, its operands on a machine, and what must come out.
pub struct Case {
    problem: Problem,
    /// Keys of each sequence, and where its query rows begin and end.
    lengths: Vec<usize>,
    offsets: Vec<usize>,
    pages: Vec<i32>,
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    /// Of a cache of codes: those of keys and of values, as `k` and `v`, and their scales.
    codes: [Vec<u8>; 2],
    scales: [Vec<f32>; 2],
    sinks: Vec<f32>,
    /// What is added to scores, by places in the mask's memory; nothing where a kernel must not look.
    mask: Vec<Option<f64>>,
    seed: u64,
}

/// Random problems start here; tests change what they are about.
pub fn problem(kind: Kind, heads: [u32; 3], lengths: [u32; 2], head: u32) -> Problem {
    Problem { scale: 2.0 / (head as f32).sqrt(), ..Problem::dense(kind, heads, lengths, [head, head]) }
}

/// The problem with its keys in a pool of pages, of which more exist than are used.
fn paged(mut problem: Problem, page_rows: u32) -> Problem {
    let columns = problem.kv_len.div_ceil(page_rows) + 1;
    let pages = problem.batch * columns + 3;
    problem.keys = Keys::Paged { pages, page_rows, columns };
    problem.lengths.get_or_insert_default();
    problem.k = Strides::rows_first(page_rows, problem.kv_heads, problem.head_qk);
    problem.v = Strides::rows_first(page_rows, problem.kv_heads, problem.head_v);
    problem
}

/// Numbers of a mask in memory: some as low as there are, some minus infinity, every seventh row of nothing else.
fn mask_memory(p: &Problem, mask: MaskOperand, random: &mut fastrand::Rng) -> Vec<Option<f64>> {
    let Strides { batch, row, head } = mask.strides;
    let last = |extent: u32, stride: u64| u64::from(extent - 1) * stride;
    let lines = last(p.batch, batch) + last(p.heads, head) + last(p.q_len, row);
    let mut memory = vec![None; (lines + u64::from(mask.columns)) as usize];
    let kind = if mask.kind == MaskKind::F32 { Kind::F32 } else { p.element };
    let lowest = match kind {
        Kind::BF16 => bf16::MIN.to_f64(),
        Kind::F16 => f16::MIN.to_f64(),
        _ => f64::from(f32::MIN),
    };
    for (b, h, r) in
        (0..p.batch).flat_map(|b| (0..p.heads).flat_map(move |h| (0..p.q_len).map(move |r| (b, h, r))))
    {
        let line = u64::from(b) * batch + u64::from(h) * head + u64::from(r) * row;
        for key in 0..u64::from(mask.columns) {
            let value = match (mask.kind, random.u8(..8)) {
                (_, 0) => f64::NEG_INFINITY,
                (MaskKind::Bool, _) if row != 0 && r % 7 == 3 => f64::NEG_INFINITY,
                (MaskKind::Bool, _) => 0.0,
                (_, 1) => lowest,
                _ if row != 0 && r % 7 == 3 => lowest,
                _ => rounded(kind, random.f64() * 4.0 - 2.0),
            };
            memory[(line + key) as usize].get_or_insert(value);
        }
    }
    memory
}

fn rounded(kind: Kind, value: f64) -> f64 {
    match kind {
        Kind::BF16 => bf16::from_f32(value as f32).to_f64(),
        Kind::F16 => f16::from_f64(value).to_f64(),
        _ => f64::from(value as f32),
    }
}

/// Uploads elements; `None` is poison.
fn upload(machine: &Machine, kind: Kind, values: impl Iterator<Item = Option<f64>>) -> u64 {
    match kind {
        Kind::BF16 => {
            machine.upload(&values.map(|v| v.map_or(bf16::NAN, bf16::from_f64)).collect::<Vec<_>>())
        }
        Kind::F16 => machine.upload(&values.map(|v| v.map_or(f16::NAN, f16::from_f64)).collect::<Vec<_>>()),
        _ => machine.upload(&values.map(|v| v.map_or(f32::NAN, |v| v as f32)).collect::<Vec<_>>()),
    }
}

fn download(machine: &Machine, kind: Kind, address: u64, count: usize) -> Vec<f64> {
    match kind {
        Kind::BF16 => machine.download::<bf16>(address, count).into_iter().map(bf16::to_f64).collect(),
        Kind::F16 => machine.download::<f16>(address, count).into_iter().map(f16::to_f64).collect(),
        _ => machine.download::<f32>(address, count).into_iter().map(f64::from).collect(),
    }
}

impl Case {
    /// Random data for a problem; lengths, offsets and pages are random where the problem has such.
    pub fn new(problem: Problem) -> Self {
        Self::seeded(problem, fastrand::u64(..))
    }

    pub fn seeded(mut problem: Problem, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let batch = problem.batch as usize;
        let mut offsets = vec![0];
        for _ in 0..batch {
            let rows = match problem.queries {
                Queries::Batched => problem.q_len as usize,
                Queries::Ragged { .. } => random.usize(0..=problem.q_len as usize),
            };
            offsets.push(offsets[offsets.len() - 1] + rows);
        }
        if let Queries::Ragged { rows } = &mut problem.queries {
            *rows = offsets[batch] as u32 + 2;
        }
        let lengths = (0..batch)
            .map(|b| match problem.lengths {
                None => problem.kv_len as usize,
                Some(_) if b == 1 => problem.kv_len as usize,
                Some(_) => random.usize(0..=problem.kv_len as usize),
            })
            .collect();
        let mut pages = Vec::new();
        if let Keys::Paged { pages: pool, columns, .. } = problem.keys {
            pages = (0..pool as i32).collect();
            random.shuffle(&mut pages);
            pages.truncate(batch * columns as usize);
        }
        let mut draw = |count: usize| -> Vec<f64> {
            (0..count).map(|_| rounded(problem.element, random.f64() * 2.0 - 1.0)).collect()
        };
        let (heads, kv_heads) = (problem.heads as usize, problem.kv_heads as usize);
        let rows = offsets[batch];
        let keys = batch * problem.kv_len as usize;
        let q = draw(rows * heads * problem.head_qk as usize);
        let mut k = draw(keys * kv_heads * problem.head_qk as usize);
        let mut v = draw(keys * kv_heads * problem.head_v as usize);
        let sinks = draw(heads).into_iter().map(|v| v as f32).collect();
        let mask = problem.mask.map_or(Vec::new(), |mask| mask_memory(&problem, mask, &mut random));
        let (mut codes, mut scales) = <([Vec<u8>; 2], [Vec<f32>; 2])>::default();
        if let Some(kind) = problem.codes {
            for (part, (values, columns)) in
                [(&mut k, problem.head_qk), (&mut v, problem.head_v)].into_iter().enumerate()
            {
                (codes[part], scales[part]) =
                    codes::draw(values, kind, [kv_heads, columns as usize], &mut random);
            }
        }
        Self { problem, lengths, offsets, pages, q, k, v, codes, scales, sinks, mask, seed }
    }

    /// What a mask adds to a score; nothing sees keys behind its columns.
    fn added(&self, b: usize, row: usize, head: usize, key: usize) -> f64 {
        let Some(mask) = self.problem.mask else { return 0.0 };
        if key >= mask.columns as usize {
            return f64::NEG_INFINITY;
        }
        let Strides { batch, row: rows, head: heads } = mask.strides;
        let at = b * batch as usize + head * heads as usize + row * rows as usize + key;
        self.mask[at].expect("masks have numbers for all of their columns")
    }

    /// Elements of a cache operand by their places in memory.
    fn cache<T: Copy>(&self, values: &[T], columns: u32, strides: Strides) -> Vec<Option<T>> {
        let p = &self.problem;
        let (places, rows) = match p.keys {
            Keys::Contiguous => (p.batch, p.kv_len),
            Keys::Paged { pages, page_rows, .. } => (pages, page_rows),
        };
        let count = (places as u64 * strides.batch)
            .max(u64::from(p.kv_heads) * strides.head)
            .max(u64::from(rows) * strides.row);
        let mut memory = vec![None; count as usize];
        for (b, &length) in self.lengths.iter().enumerate() {
            for row in 0..length {
                let (place, at) = match p.keys {
                    Keys::Contiguous => (b, row),
                    Keys::Paged { page_rows, columns, .. } => {
                        let column = row / page_rows as usize;
                        (self.pages[b * columns as usize + column] as usize, row % page_rows as usize)
                    }
                };
                for head in 0..p.kv_heads as usize {
                    let line = (b * p.kv_len as usize + row) * p.kv_heads as usize + head;
                    let first = place * strides.batch as usize
                        + at * strides.row as usize
                        + head * strides.head as usize;
                    for column in 0..columns as usize {
                        memory[first + column] = Some(values[line * columns as usize + column]);
                    }
                }
            }
        }
        memory
    }

    /// Place of an element of q or the result.
    fn place(&self, strides: Strides, b: usize, row: usize, head: usize) -> usize {
        let (batch, line) = match self.problem.queries {
            Queries::Batched => (b * strides.batch as usize, row),
            Queries::Ragged { .. } => (0, self.offsets[b] + row),
        };
        batch + line * strides.row as usize + head * strides.head as usize
    }

    fn extent(&self, strides: Strides) -> usize {
        let p = &self.problem;
        let rows = match p.queries {
            Queries::Batched => u64::from(p.q_len),
            Queries::Ragged { rows } => u64::from(rows),
        };
        let heads = u64::from(p.heads) * strides.head;
        (u64::from(p.batch) * strides.batch).max(heads).max(rows * strides.row) as usize
    }

    fn operands(&self, machine: &Machine) -> Vec<u64> {
        let p = &self.problem;
        let mut addresses = vec![0; operand::PADDING + 1];
        let mut q = vec![None; self.extent(p.q)];
        self.each_row(|b, row, head| {
            let line = ((self.offsets[b] + row) * p.heads as usize + head) * p.head_qk as usize;
            let at = self.place(p.q, b, row, head);
            for column in 0..p.head_qk as usize {
                q[at + column] = Some(self.q[line + column]);
            }
        });
        addresses[operand::OUT] = machine.poisoned(self.extent(p.out) * p.element.bytes() as usize);
        addresses[operand::Q] = upload(machine, p.element, q.into_iter());
        match p.codes {
            None => {
                let (k, v) = (self.cache(&self.k, p.head_qk, p.k), self.cache(&self.v, p.head_v, p.v));
                addresses[operand::K] = upload(machine, p.element, k.into_iter());
                addresses[operand::V] = upload(machine, p.element, v.into_iter());
            }
            Some(kind) => {
                for (part, (columns, strides)) in [(p.head_qk, p.k), (p.head_v, p.v)].into_iter().enumerate()
                {
                    let codes = self.cache(&self.codes[part], columns, strides);
                    addresses[operand::K + part] = machine.upload(&codes::memory(kind.code, &codes));
                    addresses[operand::K_SCALES + part] = machine.upload(&self.scales[part]);
                }
            }
        }
        if let Some(lengths) = p.lengths {
            let value = |b: usize| {
                let rows = self.offsets[b + 1] - self.offsets[b];
                let added = i64::from(lengths.bias) + if lengths.adds_queries { rows as i64 } else { 0 };
                self.lengths[b] as i64 - added
            };
            let values: Vec<i64> = (0..self.lengths.len()).map(value).collect();
            addresses[operand::LENGTHS] = match lengths.is_i64 {
                true => machine.upload(&values),
                false => machine.upload(&values.into_iter().map(|v| v as i32).collect::<Vec<_>>()),
            };
        }
        if p.queries != Queries::Batched {
            addresses[operand::Q_OFFSETS] =
                machine.upload(&self.offsets.iter().map(|&v| v as i32).collect::<Vec<_>>());
        }
        if p.keys != Keys::Contiguous {
            addresses[operand::PAGE_TABLE] = machine.upload(&self.pages);
        }
        if p.has_sinks {
            addresses[operand::SINKS] = machine.upload(&self.sinks);
        }
        if let Some(mask) = p.mask {
            let values = self.mask.iter().copied();
            addresses[operand::MASK] = match mask.kind {
                MaskKind::Element => upload(machine, p.element, values),
                MaskKind::F32 => upload(machine, Kind::F32, values),
                MaskKind::Bool => {
                    let byte = |v: Option<f64>| v.map_or(1, |v| if v == 0.0 { 2 } else { 0 });
                    machine.upload(&values.map(byte).collect::<Vec<u8>>())
                }
            };
        }
        addresses
    }

    fn each_row(&self, mut visit: impl FnMut(usize, usize, usize)) {
        for b in 0..self.lengths.len() {
            for row in 0..self.offsets[b + 1] - self.offsets[b] {
                (0..self.problem.heads as usize).for_each(|head| visit(b, row, head));
            }
        }
    }

    /// Keys that a row sees.
    fn seen(&self, b: usize, row: usize) -> std::ops::Range<usize> {
        let p = &self.problem;
        let (length, rows) = (self.lengths[b] as i64, (self.offsets[b + 1] - self.offsets[b]) as i64);
        let offset = match p.causal {
            Some(Causal::Past(past)) => i64::from(past),
            Some(Causal::Appended) => (length - rows).max(0),
            _ => length - rows,
        };
        let last = row as i64 + offset;
        let end = if p.causal.is_some() { length.min(last + 1) } else { length };
        let begin = p.window_left.map_or(0, |left| (last - i64::from(left)).max(0));
        begin.min(length) as usize..end.max(begin).clamp(0, length) as usize
    }

    /// Number of a key's row in `k`, and of its value's in `v`.
    fn line(&self, b: usize, head: usize, key: usize) -> usize {
        let p = &self.problem;
        (b * p.kv_len as usize + key) * p.kv_heads as usize + head / p.group() as usize
    }

    /// The scaled product of a row of a head and a key.
    fn product(&self, [b, row, head, key]: [usize; 4]) -> f64 {
        let (p, qk) = (&self.problem, self.problem.head_qk as usize);
        let q = &self.q[((self.offsets[b] + row) * p.heads as usize + head) * qk..][..qk];
        let k = &self.k[self.line(b, head, key) * qk..][..qk];
        q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() * f64::from(p.scale)
    }

    fn capped(&self, place: [usize; 4]) -> f64 {
        let product = self.product(place);
        self.problem.soft_cap.map_or(product, |cap| f64::from(cap) * (product / f64::from(cap)).tanh())
    }

    fn row(&self, b: usize, row: usize, head: usize) -> Vec<f64> {
        let p = &self.problem;
        let vs = p.head_v as usize;
        let seen = self.seen(b, row);
        let score = |key: usize| self.capped([b, row, head, key]) + self.added(b, row, head, key);
        let mut scores: Vec<f64> = seen.clone().map(score).collect();
        let mut out = vec![0.0; vs];
        if scores.iter().all(|&score| score == f64::NEG_INFINITY) {
            return out;
        }
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        scores.iter_mut().for_each(|score| *score = (*score - top).exp());
        let sink = if p.has_sinks { (f64::from(self.sinks[head]) - top).exp() } else { 0.0 };
        let sum = scores.iter().sum::<f64>() + sink;
        for (key, weight) in seen.zip(scores) {
            let v = &self.v[self.line(b, head, key) * vs..][..vs];
            out.iter_mut().zip(v).for_each(|(out, v)| *out += weight / sum * v);
        }
        out
    }

    /// Runs a plan; an error of the device, or the results by row and what they should be.
    pub fn outcome(&self, machine: &Machine, plan: &Plan) -> Result<[Vec<f64>; 2], Error> {
        let p = &self.problem;
        let operands = self.operands(machine);
        machine.run(plan, &operands)?;
        let memory = download(machine, p.element, operands[operand::OUT], self.extent(p.out));
        let (mut found, mut wanted) = (Vec::new(), Vec::new());
        self.each_row(|b, row, head| {
            let at = self.place(p.out, b, row, head);
            found.extend_from_slice(&memory[at..at + p.head_v as usize]);
            wanted.extend(self.row(b, row, head));
        });
        Ok([found, wanted])
    }

    pub fn plan(&self, machine: &Machine) -> Plan {
        plan(machine.family.name, &self.problem, &machine.chip())
            .unwrap_or_else(|error| panic!("{self}: {error}"))
    }

    /// How far results may be from the reference: weights and results are rounded to the element type, sums of scores and the
    /// lowest numbers of a mask to f32.
    pub fn tolerance(&self) -> f64 {
        let is_element = self.problem.mask.is_some_and(|mask| mask.kind == MaskKind::Element);
        match self.problem.element {
            Kind::F16 if is_element => 1.0 / 256.0,
            Kind::BF16 => 1.0 / 128.0,
            Kind::F16 => 1.0 / 1024.0,
            _ => 1e-5,
        }
    }

    #[track_caller]
    pub fn check(&self, machine: &Machine) {
        self.check_plan(machine, &self.plan(machine));
    }

    #[track_caller]
    pub fn check_plan(&self, machine: &Machine, plan: &Plan) {
        let symbol = plan.launches.first().map_or("nothing", |launch| &launch.symbol);
        let what = format!("{symbol} for {self}");
        let [found, wanted] = self.outcome(machine, plan).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_close(&what, &found, &wanted, self.tolerance(), self.tolerance());
    }
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "seed {} lengths {:?} rows {:?} of {:?}",
            self.seed, self.lengths, self.offsets, self.problem
        )
    }
}

#[test]
fn many_rows_agree_with_the_reference_for_every_head() {
    for machine in Machine::all() {
        for (row, element) in mfma::rows(machine.family.name).expect("the table is read") {
            let mfma::Row::Forward(params) = row else { continue };
            let mask = MaskOperand { kind: MaskKind::Bool, strides: Strides::default(), columns: 150 };
            let mut p = problem(element, [1, 2, 1], [40, 150], params.head_qk);
            p.head_v = params.head_v;
            p.v = Strides::rows_first(150, 1, params.head_v);
            p.out = Strides::rows_first(40, 2, params.head_v);
            p.causal = Some(Causal::BottomRight);
            p.mask = params.has_mask.then_some(mask);
            p.codes = params.code.map(|code| Codes { code, scales: Scales::Head });
            let case = Case::new(p);
            let plan = mfma::plan_with(machine.family.name, &case.problem, &row, &machine.chip());
            case.check_plan(&machine, &plan.expect("the row holds the problem's head"));
        }
    }
}

#[test]
fn few_rows_agree_with_the_reference_for_every_head_and_tile() {
    for machine in Machine::all() {
        for (row, element) in mfma::rows(machine.family.name).expect("the table is read") {
            let mfma::Row::Decode(params) = row else { continue };
            let mut p = problem(element, [2, 6, 2], [1 + params.rows / 16, 700], params.head_qk);
            p.causal = Some(Causal::BottomRight);
            p.lengths = Some(Lengths::default());
            let mask = MaskOperand { kind: MaskKind::Bool, strides: Strides::default(), columns: 700 };
            p.mask = params.has_mask.then_some(mask);
            p.codes = params.code.map(|code| Codes { code, scales: Scales::Head });
            let case = Case::new(p);
            let plan = mfma::plan_with(machine.family.name, &case.problem, &row, &machine.chip());
            case.check_plan(&machine, &plan.expect("the row holds the problem's head"));
        }
    }
}

/// Problems with masks in memory of every kind: shared by batches, heads and rows or not, aligned rows and others, fewer
/// columns than keys.
fn masked(kind: Kind, q_len: u32, head: u32) -> Vec<Problem> {
    let base = problem(kind, [2, 4, 2], [q_len, 205], head);
    let square = Problem { causal: Some(Causal::BottomRight), ..base.clone() };
    let mask = |kind, columns: u32, width: u32, [batch, heads, rows]: [bool; 3]| {
        let row = u64::from(width) * u64::from(rows);
        let plane = u64::from(width) * if rows { u64::from(q_len) } else { 1 };
        let head = plane * u64::from(heads);
        let batch = u64::from(batch) * plane * if heads { 4 } else { 1 };
        Some(MaskOperand { kind, strides: Strides { batch, row, head }, columns })
    };
    use MaskKind::{Bool, Element, F32};
    vec![
        Problem { mask: mask(Element, 205, 208, [true, true, true]), ..square.clone() },
        Problem { mask: mask(Element, 205, 205, [true, false, true]), ..base.clone() },
        Problem { mask: mask(Element, 150, 152, [true, false, false]), ..square.clone() },
        Problem { mask: mask(Bool, 205, 208, [false, true, true]), window_left: Some(90), ..square.clone() },
        Problem { mask: mask(Bool, 205, 205, [true, false, false]), soft_cap: Some(5.0), ..base.clone() },
        Problem { mask: mask(F32, 205, 208, [true, false, true]), has_sinks: true, ..base.clone() },
        Problem { mask: mask(F32, 33, 33, [false, false, true]), ..base.clone() },
        Problem {
            mask: mask(Element, 205, 208, [true, false, true]),
            lengths: Some(Lengths::default()),
            ..paged(square, 16)
        },
    ]
}

#[test]
fn masks_in_memory_agree_with_the_reference() {
    for machine in Machine::all() {
        for (kind, head) in [(Kind::BF16, 64), (Kind::F16, 128), (Kind::F32, 64)] {
            for q_len in [2, 45] {
                for p in masked(kind, q_len, head) {
                    Case::new(p).check(&machine);
                }
            }
        }
    }
}

/// Masks, layouts and lengths in turn, with query rows for either kernel.
fn variants(q_len: u32) -> Vec<Problem> {
    let base = problem(Kind::BF16, [2, 4, 2], [q_len, 230], 64);
    let square = Problem { causal: Some(Causal::BottomRight), ..base.clone() };
    let lengths = |is_i64, bias, adds_queries| Some(Lengths { is_i64, bias, adds_queries });
    let ragged = Queries::Ragged { rows: 0 };
    vec![
        Problem { window_left: Some(70), ..square.clone() },
        Problem { window_left: Some(3), soft_cap: Some(5.0), has_sinks: true, ..square.clone() },
        Problem {
            causal: Some(Causal::Past(4)),
            has_sinks: true,
            lengths: lengths(true, 2, false),
            ..base.clone()
        },
        Problem { causal: Some(Causal::Appended), lengths: lengths(false, 0, false), ..base.clone() },
        Problem { lengths: lengths(false, 1, false), ..base.clone() },
        Problem { queries: ragged, lengths: lengths(false, 0, true), ..square.clone() },
        Problem { queries: ragged, has_sinks: true, ..paged(square.clone(), 16) },
        Problem { window_left: Some(40), ..paged(square.clone(), 48) },
        Problem { head_qk: 40, head_v: 56, ..paged(base.clone(), 256) },
        Problem {
            q: Strides::heads_first(q_len, 4, 64),
            k: Strides::heads_first(230, 2, 64),
            v: Strides { batch: 230 * 2 * 72, row: 2 * 72, head: 72 },
            out: Strides { batch: u64::from(q_len) * 4 * 80, row: 4 * 80, head: 80 },
            ..square
        },
    ]
}

#[test]
fn masks_layouts_and_lengths_agree_with_the_reference() {
    for machine in Machine::all() {
        for q_len in [1, 3, 75] {
            for p in variants(q_len) {
                Case::new(p).check(&machine);
            }
        }
    }
}

/// The problem with lengths, ragged queries and pages, or without any of them.
fn laid_out(mut p: Problem, random: &mut fastrand::Rng) -> Problem {
    p.lengths = random.bool().then(Lengths::default);
    if random.bool() {
        p.queries = Queries::Ragged { rows: 0 };
    }
    if random.bool() { paged(p, 16 * random.u32(1..=5)) } else { p }
}

#[test]
fn random_problems_agree_with_the_reference() {
    let mut random = fastrand::Rng::new();
    for machine in Machine::all() {
        for _ in 0..12 {
            let group = random.u32(1..=5);
            let kv_heads = random.u32(1..=2);
            let most_rows = [8, 300][random.usize(..2)];
            let [q_len, kv_len] = [random.u32(1..=most_rows), random.u32(1..=400)];
            let head = 8 * random.u32(1..=32);
            let kind = [Kind::BF16, Kind::F16][random.usize(..2)];
            let mut p = problem(kind, [random.u32(1..=3), group * kv_heads, kv_heads], [q_len, kv_len], head);
            p.causal =
                [None, Some(Causal::BottomRight), Some(Causal::Past(random.i32(0..100)))][random.usize(..3)];
            p.window_left = random.bool().then(|| random.u32(0..100));
            p.soft_cap = (random.u8(..4) == 0).then_some(3.0);
            p.has_sinks = random.bool();
            Case::new(laid_out(p, &mut random)).check(&machine);
        }
    }
}

/// True where the device reports an error, or results are wrong.
fn is_caught(machine: &Machine, case: &Case) -> bool {
    match case.outcome(machine, &case.plan(machine)) {
        Err(_) => true,
        Ok([found, wanted]) => {
            let is_near = |(f, w): (&f64, &f64)| (f - w).abs() <= case.tolerance() * (1.0 + w.abs());
            !found.iter().zip(&wanted).all(is_near)
        }
    }
}

#[test]
fn planted_faults_are_caught() {
    use Mutation::*;
    for mut machine in Machine::all() {
        for (q_len, is_decode) in [(70, false), (2, true)] {
            let case = Case::new(problem(Kind::BF16, [1, 2, 1], [q_len, 900], 64));
            machine.options.mutation = None;
            assert!(!is_caught(&machine, &case), "{case}");
            for fault in [BarrierIgnored, WaitIgnored, RowOrder, OperandOrder, TransposeIgnored, SwapIgnored]
            {
                // CDNA3 transposes through registers and exchanges through LDS.
                let is_modern = matches!(fault, TransposeIgnored | SwapIgnored);
                if is_modern && machine.family.name == "gfx942" {
                    continue;
                }
                machine.options.mutation = Some(fault);
                let kernel = if is_decode { "decode" } else { "forward" };
                assert!(is_caught(&machine, &case), "{fault:?} in {kernel} on {}", machine.family.name);
            }
        }
    }
}

#[test]
fn a_block_of_keys_costs_what_its_counts_say_and_no_bank_conflicts() {
    for mut machine in Machine::all() {
        machine.options.bank_conflicts = true;
        for head in [64, 128] {
            // Two blocks of keys, and three; all rows see all keys, and no maximum grows by much.
            let reports = [2, 3].map(|blocks| {
                let mut p = problem(Kind::BF16, [1, 1, 1], [256, 64 * blocks], head);
                p.scale = 1e-3;
                let case = Case::new(p);
                let (plan, operands) = (case.plan(&machine), case.operands(&machine));
                machine.run(&plan, &operands).unwrap_or_else(|error| panic!("{case}: {error}"))
            });
            let params = mfma::ForwardParams {
                head_qk: head,
                head_v: head,
                bn: 64,
                waves: 8,
                has_mask: false,
                code: None,
            };
            let row = mfma::Row::Forward(params);
            let has = mfma::instructions(machine.family.name, &row, Kind::BF16).expect("the table has them");
            let counts = params.block_counts(Kind::BF16, has);
            let more = |class: Class| (reports[1].count(class) - reports[0].count(class)) / 8;
            let what = format!("{params:?} on {}: {:?}", machine.family.name, reports[1]);
            assert_eq!(more(Class::Matrix), u64::from(counts.matrix), "{what}");
            assert_eq!(more(Class::Transcendental), u64::from(counts.exponentials), "{what}");
            assert!(more(Class::Vector) >= u64::from(counts.vector), "{what}");
            assert_eq!(more(Class::Barrier), u64::from(counts.barriers), "{what}");
            assert_eq!(reports[1].lds_conflict_cycles, 0, "{what}");
        }
    }
}
