//! The vendors' libraries of matrix products, opened at run time: both have the same functions under their own prefix.
//!
//! Only what one bf16 product needs is declared. A product is timed as ours are: an event before and after each call.

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;

use anyhow::{Context, Result, ensure};
use libloading::Library;

use super::probe::Product;

/// Calls whose times are dropped, and calls whose times count.
const WARMUP: usize = 3;
const CALLS: usize = 20;
const WORKSPACE_BYTES: usize = 64 << 20;

/// The numbers in which the two libraries differ.
#[derive(Clone, Copy, Debug)]
pub struct Dialect {
    /// What function names start with.
    pub prefix: &'static str,
    pub compute_f32: c_int,
    pub transpose: [(c_int, c_int); 2],
    /// Bytes of an algorithm in the result of a search.
    pub algorithm_bytes: usize,
}

/// `CUDA_R_16BF` and `CUDA_R_32F`, which HIP numbers alike.
const BF16: c_int = 14;
const F32: c_int = 0;
/// The attribute of a search that limits its workspace.
const MAX_WORKSPACE: c_int = 1;

/// What timing needs of a driver.
pub trait Clock {
    /// Device memory, to be kept until the process ends.
    fn allocate(&self, bytes: usize) -> Result<u64>;
    fn upload(&self, to: u64, bytes: &[u8]) -> Result<()>;
    /// Microseconds between the starts of two marks around `work` on the default stream.
    fn microseconds(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64>;
}

/// A vendor's library with its driver.
pub struct Peer {
    pub name: &'static str,
    pub dialect: Dialect,
    pub library: Library,
    pub clock: Box<dyn Clock>,
}

type Handle = *mut c_void;

/// Bytes that no result of a search exceeds.
const RESULT_BYTES: usize = 256;

#[repr(align(16))]
struct SearchResult([u8; RESULT_BYTES]);

/// Looks a function of the library up and calls it; a status other than 0 is an error.
macro_rules! call {
    ($peer:expr, $name:literal, $($argument:expr => $kind:ty),* $(,)?) => {{
        let name = format!("{}{}\0", $peer.dialect.prefix, $name);
        // SAFETY: the types are those of the library's header.
        let function = unsafe { $peer.library.get::<unsafe extern "C" fn($($kind),*) -> c_int>(name.as_bytes()) };
        let function = function.with_context(|| format!("{} has no {name}", $peer.name))?;
        // SAFETY: the arguments are what the header asks for, and live until the call returns.
        let status = unsafe { function($($argument),*) };
        ensure!(status == 0, "{}{}: status {status}", $peer.dialect.prefix, $name);
    }};
}

impl Peer {
    /// Median microseconds of `D = A B` in bf16 with f32 sums, A packed `[m, k]`, B packed as the transpose `[n, k]`.
    pub fn time(&self, product: Product) -> Result<f64> {
        let Product { m, n, k } = product;
        let operands = [m * k, n * k].map(|count| self.random(count));
        let [a, b] = operands;
        let (a, b) = (a?, b?);
        let d = self.clock.allocate(m * n * 2)?;
        let workspace = self.clock.allocate(WORKSPACE_BYTES)?;
        let mut library: Handle = null_mut();
        call!(self, "Create", &mut library => *mut Handle);
        let mut description: Handle = null_mut();
        call!(self, "MatmulDescCreate", &mut description => *mut Handle, self.dialect.compute_f32 => c_int, F32 => c_int);
        for (attribute, value) in self.dialect.transpose {
            let value = (&raw const value).cast::<c_void>();
            call!(self, "MatmulDescSetAttribute", description => Handle, attribute => c_int, value => *const c_void, 4 => usize);
        }
        // Column-major: D transposed is B transposed-by-flag times A, each as it lies in memory.
        let mut layouts: [Handle; 3] = [null_mut(); 3];
        for (layout, (rows, columns)) in layouts.iter_mut().zip([(k, n), (k, m), (n, m)]) {
            call!(
                self, "MatrixLayoutCreate",
                layout => *mut Handle, BF16 => c_int, rows as u64 => u64, columns as u64 => u64, rows as i64 => i64
            );
        }
        let [lb, la, ld] = layouts;
        let algorithm = self.search(library, description, [lb, la, ld])?;
        let (one, zero) = (1f32, 0f32);
        let mut product = || -> Result<()> {
            call!(
                self, "Matmul",
                library => Handle, description => Handle,
                (&raw const one).cast() => *const c_void,
                b => u64, lb => Handle, a => u64, la => Handle,
                (&raw const zero).cast() => *const c_void,
                d => u64, ld => Handle, d => u64, ld => Handle,
                algorithm.0.as_ptr().cast() => *const c_void,
                workspace => u64, WORKSPACE_BYTES => usize, null_mut() => Handle,
            );
            Ok(())
        };
        let mut times = Vec::new();
        for call in 0..WARMUP + CALLS {
            let time = self.clock.microseconds(&mut product)?;
            if call >= WARMUP {
                times.push(time);
            }
        }
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() / 2])
    }

    /// The library's own first choice.
    fn search(&self, library: Handle, description: Handle, layouts: [Handle; 3]) -> Result<SearchResult> {
        let [lb, la, ld] = layouts;
        let mut preference: Handle = null_mut();
        call!(self, "MatmulPreferenceCreate", &mut preference => *mut Handle);
        let limit = WORKSPACE_BYTES as u64;
        let limit = (&raw const limit).cast::<c_void>();
        call!(
            self, "MatmulPreferenceSetAttribute",
            preference => Handle, MAX_WORKSPACE => c_int, limit => *const c_void, 8 => usize
        );
        let mut result = SearchResult([0; RESULT_BYTES]);
        let mut found = 0;
        call!(
            self, "MatmulAlgoGetHeuristic",
            library => Handle, description => Handle, lb => Handle, la => Handle, ld => Handle, ld => Handle,
            preference => Handle, 1 => c_int, result.0.as_mut_ptr().cast() => *mut c_void, &mut found => *mut c_int
        );
        ensure!(found > 0, "{} has no algorithm for the product", self.name);
        let state = &result.0[self.dialect.algorithm_bytes + 8..][..4];
        ensure!(state == [0; 4], "{}: the algorithm found is not usable", self.name);
        Ok(result)
    }

    /// Random elements between -1 and 1: power and with it the clock depend on the data.
    fn random(&self, count: usize) -> Result<u64> {
        let mut random = fastrand::Rng::with_seed(count as u64);
        let data: Vec<u8> =
            (0..count).flat_map(|_| half::bf16::from_f32(random.f32() * 2.0 - 1.0).to_le_bytes()).collect();
        let address = self.clock.allocate(data.len())?;
        self.clock.upload(address, &data)?;
        Ok(address)
    }
}

/// Opens the first library of `names` that is there.
pub fn open(names: &[&str]) -> Result<Library> {
    let mut reason = None;
    for name in names {
        // SAFETY: the libraries' initialisers make no demands on who opens them.
        match unsafe { Library::new(*name) } {
            Ok(library) => return Ok(library),
            Err(error) => reason = reason.or(Some(error)),
        }
    }
    let reason = reason.map_or_else(String::new, |error| error.to_string());
    anyhow::bail!("not one of {} can be opened: {reason}", names.join(", "))
}
