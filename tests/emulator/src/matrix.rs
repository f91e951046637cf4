//! Matrix instructions (MFMA): D = A B + C on matrices spread over the lanes of a wave.
//!
//! With n columns, lane l holds column (for A: row) l % n and the group l / n of the k dimension or of the blocks:
//!
//! ```text
//! A, B   lane l, element j   row or column l % n, k = p (l / n) + j    (p elements a lane)
//! C, D   n = 32              column l % 32, row 8 (r / 4) + 4 (l / 32) + r % 4 of block r / 16
//!        n = 16              column l % 16, row 4 (l / 16) + r % 4 of block r / 4
//!        n = 4               column l % 4,  row r of block l / 4
//! ```
//!
//! Eight-bit operands of the f8f6f4 instructions hold k in two runs of 16: 16 (l / n) + j and K/2 + 16 (l / n) + j.
//! Products are exact; sums are single floats in the order of k, the hardware's inner order being unspecified.

use crate::error::Outcome;
use crate::execute::{Machine, Operation, Shape};
use crate::float::{BF6, BF8, FP4, FP6, FP8, Format, bf8, brain_to_single, fp8, half_to_single};
use crate::inst::{Class, Inst, Operand, Source};
use crate::launch::Mutation;
use crate::syntax::{Text, bits};
use crate::target::Target;
use crate::wave::{LANES, Register};

/// The type of an input matrix.
#[derive(Clone, Debug, PartialEq)]
enum Element {
    Single,
    /// Singles of which 10 mantissa bits count.
    Tensor,
    Half,
    Brain,
    Byte,
    /// At most 8 bits a value; decoded by table.
    Small(Box<Table>),
    Double,
}

#[derive(Clone, Debug, PartialEq)]
struct Table {
    format: Format,
    values: [f32; 256],
}

/// The shape and types of a matrix instruction.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    /// Rows and columns of D.
    n: usize,
    /// Length of the sums.
    k: usize,
    /// Independent products.
    blocks: usize,
    a: Element,
    b: Element,
    /// Byte of the scale operands that counts, for A and B; `None` without scales.
    scale_bytes: Option<[u8; 2]>,
    /// True when 8-bit operands hold k in two runs.
    split: bool,
    /// Cycles the instruction holds a matrix core.
    pub cycles: u32,
}

/// Elements of the largest input matrix: 16 x 128 or 32 x 64.
const LARGEST: usize = 2048;

pub(crate) fn lookup(name: &str) -> Option<Operation> {
    name.starts_with("v_mfma_").then(|| {
        let execute = match name {
            _ if name.starts_with("v_mfma_i32") => run_integer,
            _ if name.starts_with("v_mfma_f64") => run_double,
            _ => run_single,
        };
        Operation::new(Class::Matrix, Shape::Result, execute)
    })
}

impl Element {
    fn of_name(name: &str, target: Target) -> Option<Element> {
        Some(match name {
            "f32" => Element::Single,
            "xf32" => Element::Tensor,
            "f16" => Element::Half,
            "bf16" => Element::Brain,
            "i8" => Element::Byte,
            "f64" => Element::Double,
            "fp8" => Element::small(fp8(target)),
            "bf8" => Element::small(bf8(target)),
            _ => return None,
        })
    }

    fn small(format: Format) -> Element {
        let values = std::array::from_fn(|pattern| format.decode(pattern as u8));
        Element::Small(Box::new(Table { format, values }))
    }

    /// The format that the modifiers `cbsz` and `blgp` of f8f6f4 instructions name.
    fn of_code(code: &str) -> Option<Element> {
        let formats = [FP8, BF8, FP6, BF6, FP4];
        formats.get(code.parse::<usize>().ok()?).map(|&format| Element::small(format))
    }

    fn bits(&self) -> usize {
        match self {
            Element::Single | Element::Tensor => 32,
            Element::Half | Element::Brain => 16,
            Element::Byte => 8,
            Element::Small(table) => table.format.bits() as usize,
            Element::Double => 64,
        }
    }
}

impl Matrix {
    /// Reads a mnemonic such as `v_mfma_f32_32x32x4_2b_bf16`; `None` for shapes or modifiers that are not modelled.
    pub fn parse(name: &str, text: &Text<'_>, target: Target) -> Option<Matrix> {
        let rest = name.strip_prefix("v_mfma_")?;
        let (scaled, rest) = rest.strip_prefix("scale_").map_or((false, rest), |rest| (true, rest));
        let mut parts = rest.split('_').skip(1);
        let mut shape = parts.next()?.split('x');
        let mut number = || shape.next()?.parse::<usize>().ok();
        let (n, _, k) = (number()?, number()?, number()?);
        let mut types: Vec<&str> = parts.collect();
        let mut blocks = 1;
        if let Some(count) = types.first().and_then(|first| first.strip_suffix('b'))
            && let Ok(count) = count.parse()
        {
            blocks = count;
            types.remove(0);
        }
        let mixed = types.first() == Some(&"f8f6f4");
        let (a, b) = if mixed {
            let code = |modifier| Element::of_code(text.modifier(modifier).unwrap_or("0"));
            (code("cbsz")?, code("blgp")?)
        } else {
            if ["cbsz", "abid", "blgp", "neg"].iter().any(|modifier| text.has(modifier)) {
                return None;
            }
            let a = Element::of_name(types.first()?, target)?;
            let b = types.get(1).map_or(Some(a.clone()), |name| Element::of_name(name, target))?;
            (a, b)
        };
        if !matches!((n, blocks), (32, 1 | 2) | (16, 1 | 4) | (4, 16 | 4)) || n * k * blocks > LARGEST {
            return None;
        }
        let scale_bytes = scaled.then(|| {
            let low = bits(text.modifier("op_sel").unwrap_or(""));
            let high = text.modifier("op_sel_hi").map_or(3, bits);
            [0, 1].map(|index| low >> index & 1 | (high >> index & 1) << 1)
        });
        let cycles = cycles(target, 2 * n * n * k * blocks, n * k, &a, &b, mixed);
        Some(Matrix { n, k, blocks, a, b, scale_bytes, split: mixed, cycles })
    }

    /// The k of element `j` in a lane of group `group` of the k dimension.
    fn k_of(&self, element: &Element, j: usize, group: usize) -> usize {
        if self.split && element.bits() == 8 {
            return j / 16 * (self.k / 2) + 16 * group + j % 16;
        }
        self.elements() * group + j
    }

    /// Elements of an input a lane holds.
    fn elements(&self) -> usize {
        self.n * self.k * self.blocks / LANES
    }

    /// Block and row of register `r` of C and D in lane group `group`.
    fn row_of(&self, r: usize, group: usize) -> (usize, usize) {
        match self.n {
            32 => (r / 16, 8 * (r % 16 / 4) + 4 * group + r % 4),
            16 => (r / 4, 4 * group + r % 4),
            _ => (group, r),
        }
    }
}

/// Cycles from the peak rates of a compute unit; the shapes that CDNA4 added run at twice the old rate.
fn cycles(target: Target, flops: usize, elements: usize, a: &Element, b: &Element, mixed: bool) -> u32 {
    let modern = target == Target::Gfx950;
    let rate = match a {
        Element::Single => 64,
        Element::Double => {
            if modern {
                32
            } else {
                64
            }
        }
        Element::Tensor => 256,
        Element::Half | Element::Brain => {
            if modern && elements >= 512 {
                1024
            } else {
                512
            }
        }
        Element::Byte => {
            if modern && elements >= 1024 {
                2048
            } else {
                1024
            }
        }
        Element::Small(_) if mixed => {
            if a.bits() < 8 && b.bits() < 8 {
                4096
            } else {
                2048
            }
        }
        Element::Small(_) => 1024,
    };
    (flops / rate).max(4) as u32
}

/// Fills `out` with the matrix by block, k and column.
fn gather(m: &Machine<'_>, matrix: &Matrix, operand: &Operand, element: &Element, out: &mut [f32; LARGEST]) {
    match element {
        Element::Single => spread(m, matrix, operand, element, out, |word, _| f32::from_bits(word)),
        Element::Tensor => spread(m, matrix, operand, element, out, |word, _| {
            let kept = word.wrapping_add(0xfff + (word >> 13 & 1)) & !0x1fff;
            f32::from_bits(if f32::from_bits(word).is_finite() { kept } else { word })
        }),
        Element::Half => {
            spread(m, matrix, operand, element, out, |word, at| half_to_single((word >> (16 * at)) as u16))
        }
        Element::Brain => {
            spread(m, matrix, operand, element, out, |word, at| brain_to_single((word >> (16 * at)) as u16))
        }
        Element::Small(table) if table.format.bits() == 6 => {
            gather_six(m, matrix, operand, element, table, out)
        }
        Element::Small(table) => {
            let width = table.format.bits() as usize;
            let mask = (1usize << width) - 1;
            spread(m, matrix, operand, element, out, |word, at| {
                table.values[word as usize >> (width * at) & mask]
            });
        }
        Element::Byte | Element::Double => {}
    }
}

/// Spreads elements that do not cross words.
#[inline]
fn spread<T: Copy>(
    m: &Machine<'_>,
    matrix: &Matrix,
    operand: &Operand,
    element: &Element,
    out: &mut [T; LARGEST],
    decode: impl Fn(u32, usize) -> T,
) {
    let per_word = 32 / element.bits();
    let is_a = std::ptr::eq(element, &matrix.a);
    let shuffled = is_a && m.context.options.mutation == Some(Mutation::OperandOrder);
    for word in 0..matrix.elements().div_ceil(per_word) {
        let mut x = [0; LANES];
        let register = m.wave.raw(operand, word, &mut x);
        for at in 0..per_word.min(matrix.elements()) {
            let j = (word * per_word + at) ^ usize::from(shuffled);
            for group in 0..LANES / matrix.n {
                let (block, part) = (group % matrix.blocks, group / matrix.blocks);
                let start = (block * matrix.k + matrix.k_of(element, j, part)) * matrix.n;
                let columns = &register[group * matrix.n..(group + 1) * matrix.n];
                for (target, &word) in out[start..start + matrix.n].iter_mut().zip(columns) {
                    *target = decode(word, at);
                }
            }
        }
    }
}

/// Six-bit elements lie one after the other across words.
fn gather_six(
    m: &Machine<'_>,
    matrix: &Matrix,
    operand: &Operand,
    element: &Element,
    table: &Table,
    out: &mut [f32; LARGEST],
) {
    let mut words = [[0u32; LANES]; 7];
    for (part, word) in words.iter_mut().take(6).enumerate() {
        let mut x = [0; LANES];
        *word = *m.wave.raw(operand, part, &mut x);
    }
    for lane in 0..LANES {
        let (group, column) = (lane / matrix.n, lane % matrix.n);
        for j in 0..matrix.elements() {
            let (word, shift) = (6 * j / 32, 6 * j % 32);
            let pair = u64::from(words[word][lane]) | u64::from(words[word + 1][lane]) << 32;
            let k = matrix.k_of(element, j, group);
            out[k * matrix.n + column] = table.values[(pair >> shift & 63) as usize];
        }
    }
}

/// Multiplies each run of 32 along k by the power of two in the lane that holds the run's scale.
fn apply_scale(m: &Machine<'_>, matrix: &Matrix, operand: &Operand, byte: u8, out: &mut [f32; LARGEST]) {
    let mut x = [0; LANES];
    let scales = m.wave.raw(operand, 0, &mut x);
    for k in 0..matrix.k {
        for column in 0..matrix.n {
            let exponent = scales[k / 32 * matrix.n + column] >> (8 * byte) & 255;
            let value = &mut out[k * matrix.n + column];
            *value = if exponent == 255 {
                f32::NAN
            } else {
                (f64::from(*value) * 2f64.powi(exponent as i32 - 127)) as f32
            };
        }
    }
}

fn run_single(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let Some(matrix) = i.matrix.as_deref() else { return super::program::unsupported(m, i) };
    let (mut a, mut b) = ([0f32; LARGEST], [0f32; LARGEST]);
    gather(m, matrix, &i.operands[1], &matrix.a, &mut a);
    gather(m, matrix, &i.operands[2], &matrix.b, &mut b);
    if let Some([byte_a, byte_b]) = matrix.scale_bytes {
        apply_scale(m, matrix, &i.operands[4], byte_a, &mut a);
        apply_scale(m, matrix, &i.operands[5], byte_b, &mut b);
    }
    let fused = matches!(matrix.a, Element::Single);
    let mut result = [[0u32; LANES]; 32];
    let registers = matrix.n * matrix.n * matrix.blocks / LANES;
    load_c(m, i, &mut result[..registers]);
    multiply(m, matrix, &a, &b, &mut result[..registers], fused);
    store_d(m, i, &result[..registers]);
    m.report.matrix_cycles += u64::from(matrix.cycles);
    Ok(())
}

fn load_c(m: &Machine<'_>, i: &Inst, result: &mut [Register]) {
    for (part, register) in result.iter_mut().enumerate() {
        let mut x = [0; LANES];
        // A constant is the same in every register.
        let part = if i.operands[3].range().is_some() { part } else { 0 };
        *register = *m.wave.raw(&i.operands[3], part, &mut x);
    }
}

fn store_d(m: &mut Machine<'_>, i: &Inst, result: &[Register]) {
    if let Source::Vector(first) = i.operands[0].source {
        for (part, register) in result.iter().enumerate() {
            m.wave.vectors[(usize::from(first) + part) & 511] = *register;
        }
    }
}

fn multiply(
    m: &Machine<'_>,
    matrix: &Matrix,
    a: &[f32; LARGEST],
    b: &[f32; LARGEST],
    result: &mut [Register],
    fused: bool,
) {
    // Another row order is the fault that a test plants.
    let flip = usize::from(m.context.options.mutation == Some(Mutation::RowOrder));
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        // SAFETY: the processor has the features.
        unsafe { multiply_avx2(matrix, a, b, result, fused, flip) };
        return;
    }
    multiply_rows(matrix, a, b, result, fused, flip);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn multiply_avx2(
    matrix: &Matrix,
    a: &[f32; LARGEST],
    b: &[f32; LARGEST],
    result: &mut [Register],
    fused: bool,
    flip: usize,
) {
    multiply_rows(matrix, a, b, result, fused, flip);
}

#[inline(always)]
fn multiply_rows(
    matrix: &Matrix,
    a: &[f32; LARGEST],
    b: &[f32; LARGEST],
    result: &mut [Register],
    fused: bool,
    flip: usize,
) {
    match (matrix.n, fused) {
        (32, true) => rows::<32, true>(matrix, a, b, result, flip),
        (32, false) => rows::<32, false>(matrix, a, b, result, flip),
        (16, true) => rows::<16, true>(matrix, a, b, result, flip),
        (16, false) => rows::<16, false>(matrix, a, b, result, flip),
        (_, true) => rows::<4, true>(matrix, a, b, result, flip),
        (_, false) => rows::<4, false>(matrix, a, b, result, flip),
    }
}

#[inline(always)]
fn rows<const N: usize, const FUSED: bool>(
    matrix: &Matrix,
    a: &[f32; LARGEST],
    b: &[f32; LARGEST],
    result: &mut [Register],
    flip: usize,
) {
    for (r, register) in result.iter_mut().enumerate() {
        for (group, lanes) in register.chunks_exact_mut(N).enumerate() {
            let (block, row) = matrix.row_of(r, group);
            let start = block * matrix.k * N;
            let mut sum: [f32; N] = std::array::from_fn(|column| f32::from_bits(lanes[column]));
            let (a, b) = (&a[start..start + matrix.k * N], &b[start..start + matrix.k * N]);
            for (a, b) in a.chunks_exact(N).zip(b.chunks_exact(N)) {
                let scalar = a[row ^ flip];
                for (sum, &b) in sum.iter_mut().zip(b) {
                    *sum = if FUSED { scalar.mul_add(b, *sum) } else { *sum + scalar * b };
                }
            }
            lanes.iter_mut().zip(sum).for_each(|(lane, sum)| *lane = sum.to_bits());
        }
    }
}

fn run_integer(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let Some(matrix) = i.matrix.as_deref() else { return super::program::unsupported(m, i) };
    let (mut a, mut b) = ([0i32; LARGEST], [0i32; LARGEST]);
    let byte = |word: u32, at: usize| i32::from((word >> (8 * at)) as i8);
    spread(m, matrix, &i.operands[1], &matrix.a, &mut a, byte);
    spread(m, matrix, &i.operands[2], &matrix.b, &mut b, byte);
    let mut result = [[0u32; LANES]; 32];
    let registers = matrix.n * matrix.n * matrix.blocks / LANES;
    load_c(m, i, &mut result[..registers]);
    for (r, register) in result[..registers].iter_mut().enumerate() {
        for (group, lanes) in register.chunks_exact_mut(matrix.n).enumerate() {
            let (block, row) = matrix.row_of(r, group);
            for k in 0..matrix.k {
                let start = (block * matrix.k + k) * matrix.n;
                let scalar = a[start + row];
                for (lane, &b) in lanes.iter_mut().zip(&b[start..start + matrix.n]) {
                    *lane = lane.wrapping_add((scalar * b) as u32);
                }
            }
        }
    }
    store_d(m, i, &result[..registers]);
    m.report.matrix_cycles += u64::from(matrix.cycles);
    Ok(())
}

/// Doubles: 16x16x4, and four blocks of 4x4x4. A lane holds one element of A and B; row r of D is 4 r' + l / 16.
fn run_double(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let Some(matrix) = i.matrix.as_deref() else { return super::program::unsupported(m, i) };
    let doubles = |m: &Machine<'_>, index: usize, first: usize| -> [f64; LANES] {
        let (mut x, mut y) = ([0; LANES], [0; LANES]);
        let low = m.wave.raw(&i.operands[index], first, &mut x);
        let high = m.wave.raw(&i.operands[index], first + 1, &mut y);
        std::array::from_fn(|lane| f64::from_bits(u64::from(low[lane]) | u64::from(high[lane]) << 32))
    };
    let (a, b) = (doubles(m, 1, 0), doubles(m, 2, 0));
    let (n, blocks) = (matrix.n, matrix.blocks);
    let registers = n * n * blocks / LANES;
    let input = |of: usize, block: usize, k: usize| of + n * (block + blocks * k);
    let mut result = [[0u32; LANES]; 8];
    for r in 0..registers {
        let part = if i.operands[3].range().is_some() { 2 * r } else { 0 };
        let c = doubles(m, 3, part);
        for lane in 0..LANES {
            let column = lane % n;
            let (block, row) = if n == 16 { (0, 4 * r + lane / 16) } else { (lane / 4 % 4, lane / 16) };
            let product =
                |sum: f64, k: usize| a[input(row, block, k)].mul_add(b[input(column, block, k)], sum);
            let bits = (0..matrix.k).fold(c[lane], product).to_bits();
            result[2 * r][lane] = bits as u32;
            result[2 * r + 1][lane] = (bits >> 32) as u32;
        }
    }
    store_d(m, i, &result[..2 * registers]);
    m.report.matrix_cycles += u64::from(matrix.cycles);
    Ok(())
}
