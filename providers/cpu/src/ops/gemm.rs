//! Matrix products as the operators of this crate ask for them: strided views in, row-major out, weights packed once.

use half::{bf16, f16};
pub use tenon_kernels::cpu::gemm::BatchOffsets;
use tenon_kernels::cpu::gemm::{self as kernel, Epilogue, Lhs, PackedB, Rhs};
use tenon_kernels::cpu::{Context as Cpu, Matrix as View};

use super::epilogue::Activation;
use super::real::Real;
use super::rows::for_rows;
use crate::error::Result;
use crate::tensor::Element;

/// A strided read-only view of a matrix.
#[derive(Clone, Copy)]
pub struct Matrix<'a, T> {
    pub data: &'a [T],
    pub rows: usize,
    pub columns: usize,
    pub row_stride: usize,
    pub column_stride: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// A row-major matrix without gaps.
    pub fn new(data: &'a [T], rows: usize, columns: usize) -> Self {
        Matrix { data, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// A row-major matrix whose rows start `row_stride` elements apart.
    pub fn strided(data: &'a [T], rows: usize, columns: usize, row_stride: usize) -> Self {
        Matrix { data, rows, columns, row_stride, column_stride: 1 }
    }

    /// The same elements with rows and columns exchanged.
    pub fn transposed(self) -> Self {
        Matrix {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    fn view(self) -> View<'a, T> {
        View {
            data: self.data,
            rows: self.rows,
            cols: self.columns,
            row_stride: self.row_stride,
            col_stride: self.column_stride,
        }
    }

    /// [`Matrix::transposed`] when `yes`.
    pub fn transposed_if(self, yes: bool) -> Self {
        if yes { self.transposed() } else { self }
    }
}

/// A number that [`multiply_plain`] multiplies.
pub trait Number: Copy + Send + Sync + Default + 'static {
    /// `self + a * b`; integers wrap.
    fn add_product(self, a: Self, b: Self) -> Self;
    fn one() -> Self;
}

macro_rules! number {
    (float: $($f:ident),*; int: $($i:ident),*) => {
        $(impl Number for $f {
            #[inline(always)]
            fn add_product(self, a: Self, b: Self) -> Self {
                self + a * b
            }
            fn one() -> Self {
                1.0
            }
        })*
        $(impl Number for $i {
            #[inline(always)]
            fn add_product(self, a: Self, b: Self) -> Self {
                self.wrapping_add(a.wrapping_mul(b))
            }
            fn one() -> Self {
                1
            }
        })*
    };
}
number!(float: f32, f64; int: i32, u32, i64, u64);

/// `c = a · b` (or `c += a · b`) with plain loops for any number type; rows of `c` start `ldc` elements apart.
pub fn multiply_plain<T: Number>(
    cpu: &Cpu<'_>,
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    c: &mut [T],
    ldc: usize,
    accumulate: bool,
) {
    debug_assert!(a.columns == b.rows);
    let (n, k) = (b.columns, b.rows);
    if a.rows == 0 || n == 0 {
        return;
    }
    let used = (a.rows - 1) * ldc + n;
    let one_row = |i: usize, c: &mut [T]| {
        let c = &mut c[..n];
        if !accumulate {
            c.fill(T::default());
        }
        for p in 0..k {
            let x = a.data[i * a.row_stride + p * a.column_stride];
            let row = &b.data[p * b.row_stride..];
            if b.column_stride == 1 {
                c.iter_mut().zip(&row[..n]).for_each(|(c, &y)| *c = c.add_product(x, y));
            } else {
                c.iter_mut()
                    .zip(row.iter().step_by(b.column_stride))
                    .for_each(|(c, &y)| *c = c.add_product(x, y));
            }
        }
    };
    // The last row of a strided `c` may be shorter than `ldc`, so it is done apart.
    let (head, last) = c[..used].split_at_mut((a.rows - 1) * ldc);
    for_rows(cpu.parallel, head, ldc, n * k, &one_row);
    one_row(a.rows - 1, last);
}

/// A matrix added to a product; a stride of 0 repeats a row, a column or a scalar.
#[derive(Clone, Copy)]
pub struct Addend<'a, T> {
    pub data: &'a [T],
    pub row_stride: usize,
    pub column_stride: usize,
    pub scale: T,
}

/// What is done to a product: `activation(alpha * product + former contents + addends)`.
#[derive(Clone, Copy)]
pub struct After<'a, T> {
    pub alpha: T,
    /// Adds to what the result held before.
    pub accumulate: bool,
    /// The first is the same for every product of a batch, the second starts at [`BatchOffsets::residual`].
    pub addends: [Option<Addend<'a, T>>; 2],
    pub activation: Activation,
}

impl<T: Real> Default for After<'_, T> {
    fn default() -> Self {
        After { alpha: T::ONE, accumulate: false, addends: [None; 2], activation: Activation::None }
    }
}

impl<T: Real> After<'_, T> {
    fn is_plain(&self) -> bool {
        self.alpha == T::ONE
            && self.addends.iter().all(Option::is_none)
            && self.activation == Activation::None
    }
}

impl<'a, T: Copy> After<'a, T> {
    /// The same with the second addend read from `residual` on.
    pub fn starting_at(&self, residual: usize) -> Self {
        let mut after = *self;
        if let Some(addend) = &mut after.addends[1] {
            addend.data = addend.data.get(residual..).unwrap_or(&[]);
        }
        after
    }
}

impl<'a> After<'a, f32> {
    fn epilogue(&self) -> Epilogue<'a> {
        let addend = |a: &Addend<'a, f32>| kernel::Addend {
            data: a.data,
            row_stride: a.row_stride,
            col_stride: a.column_stride,
            scale: a.scale,
        };
        Epilogue {
            alpha: self.alpha,
            beta: if self.accumulate { 1.0 } else { 0.0 },
            bias: self.addends[0].as_ref().map(addend),
            residual: self.addends[1].as_ref().map(addend),
            activation: self.activation.unary(),
        }
    }
}

/// A float type that matrices are stored in.
pub trait Gemm: Element {
    /// The type sums are kept and addends are given in.
    type Sum: Real;
    /// A right-hand matrix in the layout that [`Gemm::multiply_packed`] reads.
    type Packed: Send + Sync + 'static;

    /// Packs a right-hand matrix that will be used many times.
    fn pack(cpu: &Cpu<'_>, b: Matrix<'_, Self>) -> Result<Self::Packed>;

    /// `c = after(a · b)` with a packed right-hand matrix; rows of `c` start `ldc` elements apart.
    fn multiply_packed(
        cpu: &Cpu<'_>,
        a: Matrix<'_, Self>,
        b: &Self::Packed,
        c: &mut [Self],
        ldc: usize,
        after: &After<'_, Self::Sum>,
    ) -> Result<()>;

    /// `c = after(a · b)` for every product of a batch, each with its part of the operands.
    fn multiply_batch(
        cpu: &Cpu<'_>,
        a: Matrix<'_, Self>,
        b: Matrix<'_, Self>,
        c: &mut [Self],
        ldc: usize,
        batches: &[BatchOffsets],
        after: &After<'_, Self::Sum>,
    ) -> Result<()>;

    /// `c = after(a · b)`.
    fn multiply(
        cpu: &Cpu<'_>,
        a: Matrix<'_, Self>,
        b: Matrix<'_, Self>,
        c: &mut [Self],
        ldc: usize,
        after: &After<'_, Self::Sum>,
    ) -> Result<()> {
        Self::multiply_batch(cpu, a, b, c, ldc, &[BatchOffsets::default()], after)
    }
}

/// A type that is stored and computed in alike.
pub trait Dense: Gemm<Sum = Self> + Real {}

impl Dense for f32 {}
impl Dense for f64 {}

macro_rules! kernel_gemm {
    ($($t:ident),*) => { $(
        impl Gemm for $t {
            type Sum = f32;
            type Packed = PackedB<$t>;

            fn pack(cpu: &Cpu<'_>, b: Matrix<'_, $t>) -> Result<PackedB<$t>> {
                Ok(PackedB::pack(*cpu, b.view())?)
            }

            fn multiply_packed(
                cpu: &Cpu<'_>,
                a: Matrix<'_, $t>,
                b: &PackedB<$t>,
                c: &mut [$t],
                ldc: usize,
                after: &After<'_, f32>,
            ) -> Result<()> {
                Ok(kernel::gemm(*cpu, Lhs::Plain(a.view()), Rhs::Packed(b), c, ldc, &after.epilogue())?)
            }

            fn multiply_batch(
                cpu: &Cpu<'_>,
                a: Matrix<'_, $t>,
                b: Matrix<'_, $t>,
                c: &mut [$t],
                ldc: usize,
                batches: &[BatchOffsets],
                after: &After<'_, f32>,
            ) -> Result<()> {
                Ok(kernel::gemm_batched(*cpu, a.view(), b.view(), c, ldc, batches, &after.epilogue())?)
            }
        }
    )* };
}
kernel_gemm!(f32, f16, bf16);

/// A row-major copy of a right-hand matrix of f64.
pub struct Copied {
    data: Vec<f64>,
    rows: usize,
    columns: usize,
}

impl Gemm for f64 {
    type Sum = f64;
    type Packed = Copied;

    fn pack(_cpu: &Cpu<'_>, b: Matrix<'_, f64>) -> Result<Copied> {
        let mut data = Vec::with_capacity(b.rows * b.columns);
        for row in 0..b.rows {
            data.extend((0..b.columns).map(|column| b.data[row * b.row_stride + column * b.column_stride]));
        }
        Ok(Copied { data, rows: b.rows, columns: b.columns })
    }

    fn multiply_packed(
        cpu: &Cpu<'_>,
        a: Matrix<'_, f64>,
        b: &Copied,
        c: &mut [f64],
        ldc: usize,
        after: &After<'_, f64>,
    ) -> Result<()> {
        Self::multiply(cpu, a, Matrix::new(&b.data, b.rows, b.columns), c, ldc, after)
    }

    fn multiply_batch(
        cpu: &Cpu<'_>,
        a: Matrix<'_, f64>,
        b: Matrix<'_, f64>,
        c: &mut [f64],
        ldc: usize,
        batches: &[BatchOffsets],
        after: &After<'_, f64>,
    ) -> Result<()> {
        for batch in batches {
            let a_part = Matrix { data: a.data.get(batch.a..).unwrap_or(&[]), ..a };
            let b_part = Matrix { data: b.data.get(batch.b..).unwrap_or(&[]), ..b };
            let c = &mut c[batch.c..];
            multiply_plain(cpu, a_part, b_part, c, ldc, after.accumulate && after.alpha == 1.0);
            if !after.is_plain() {
                finish(after, batch.residual, c, [a.rows, b.columns, ldc]);
            }
        }
        Ok(())
    }
}

/// Factor, addends and activation over a finished product of `[rows, columns, row stride]`.
fn finish<T: Real>(after: &After<'_, T>, residual: usize, c: &mut [T], [rows, columns, ldc]: [usize; 3]) {
    for row in 0..rows {
        let line = &mut c[row * ldc..][..columns];
        line.iter_mut().for_each(|value| *value *= after.alpha);
        for (addend, offset) in after.addends.iter().zip([0, residual]) {
            let Some(addend) = addend else { continue };
            for (column, value) in line.iter_mut().enumerate() {
                let at = offset + row * addend.row_stride + column * addend.column_stride;
                *value += addend.data[at] * addend.scale;
            }
        }
        after.activation.apply(line);
    }
}
