//! Runs plans of the GPU planners on the emulator: compiles the units they name, lays out arguments, checks workspaces.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};

use ruzstd::decoding::StreamingDecoder;
use tenon_emulator::{CodeObject, Error, Launch, Memory, Options, Report};
use tenon_kernels::gpu::arch::{self, Arch, Vendor};
use tenon_kernels::gpu::launch::{self, Arg, Plan};
use tenon_kernels::gpu::unit::Planned;
use tenon_kernels::gpu::{Chip, Unit, pack};

use crate::compiler::Compiler;

/// An emulated device of one family.
pub struct Machine {
    pub family: &'static Arch,
    pub memory: Memory,
    pub options: Options,
    compiler: Compiler,
    units: Vec<Unit>,
    /// The texts are not those that are shipped.
    is_planted: bool,
    /// Code objects by unit, compiled when a launch first needs them.
    code: RefCell<HashMap<String, CodeObject>>,
}

/// What a tensor in device memory is made of, as little-endian bytes.
pub trait Element: Copy {
    const BYTES: usize;
    fn put(self, bytes: &mut Vec<u8>);
    fn get(bytes: &[u8]) -> Self;
}

macro_rules! elements {
    ($($type:ty),*) => {$(
        impl Element for $type {
            const BYTES: usize = size_of::<$type>();
            fn put(self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_le_bytes());
            }
            fn get(bytes: &[u8]) -> Self {
                Self::from_le_bytes(bytes.try_into().expect("chunks are of the element's size"))
            }
        }
    )*};
}

elements!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64, half::f16, half::bf16);

impl Machine {
    /// A machine of every AMD family; none, with the reason on standard error, where the compiler is missing.
    pub fn all() -> Vec<Machine> {
        let families = arch::all().iter().filter(|family| family.vendor == Vendor::Amd);
        families.filter_map(Machine::new).collect()
    }

    pub fn new(family: &'static Arch) -> Option<Machine> {
        Some(Machine {
            family,
            memory: Memory::new(4 << 30),
            options: Options::default(),
            compiler: Compiler::find()?,
            units: family.units().expect("units are listed"),
            is_planted: false,
            code: RefCell::default(),
        })
    }

    /// The family's first chip.
    pub fn chip(&self) -> Chip {
        self.family.chips().expect("chips are listed").swap_remove(0)
    }

    /// Plants a mistake: replaces a piece of the texts of the unit that defines `symbol`, which is then held to no gates.
    pub fn plant(&mut self, symbol: &str, from: &str, to: &str) {
        let mut units = self.units.iter_mut();
        let unit = units
            .find(|unit| unit.kernels.iter().any(|kernel| kernel.symbol == symbol))
            .unwrap_or_else(|| panic!("no unit of {} defines {symbol}", self.family.name));
        let text = unit.texts.iter_mut().find(|text| text.text.contains(from));
        let text = text.unwrap_or_else(|| panic!("no text of {symbol} holds `{from}`"));
        text.text = Box::leak(text.text.replace(from, to).into_boxed_str());
        for kernel in &mut unit.kernels {
            kernel.required.clear();
            kernel.planned = Planned::default();
        }
        self.code.borrow_mut().remove(&unit.name);
        self.is_planted = true;
    }

    /// Device memory that holds `values`.
    pub fn upload<T: Element>(&self, values: &[T]) -> u64 {
        let mut bytes = Vec::with_capacity(values.len() * T::BYTES);
        values.iter().for_each(|value| value.put(&mut bytes));
        let address = self.poisoned(bytes.len());
        self.memory.write(address, &bytes).expect("the allocation holds the values");
        address
    }

    /// Device memory whose every byte is 0xff: NaN in every float format.
    pub fn poisoned(&self, bytes: usize) -> u64 {
        let address = self.memory.allocate(bytes.max(1) as u64).expect("there is room");
        self.memory.fill(address, 0xff, bytes).expect("the allocation holds the bytes");
        address
    }

    pub fn download<T: Element>(&self, address: u64, count: usize) -> Vec<T> {
        let mut bytes = vec![0; count * T::BYTES];
        self.memory.read(address, &mut bytes).expect("the allocation holds the values");
        bytes.chunks_exact(T::BYTES).map(T::get).collect()
    }

    /// Starts a plan's kernels in order. `operands` are addresses by number; 0 for an absent one.
    ///
    /// # Panics
    /// When the plan does not fit its kernels, or leaves what it promised to zero.
    pub fn run(&self, plan: &Plan, operands: &[u64]) -> Result<Report, Error> {
        let workspace = self.poisoned(plan.workspace_bytes as usize);
        let zeroed = plan.zeroed_bytes as usize;
        self.memory.fill(workspace, 0, zeroed).expect("the workspace holds what is zeroed");
        let mut total = Report::default();
        for launch in &plan.launches {
            let report = self.launch(launch, operands, workspace)?;
            total.workgroups += report.workgroups;
            total.waves += report.waves;
            total.lds_conflict_cycles += report.lds_conflict_cycles;
            total.instructions.iter_mut().zip(report.instructions).for_each(|(sum, count)| *sum += count);
        }
        let left: Vec<u8> = self.download(workspace, zeroed);
        assert!(left.iter().all(|byte| *byte == 0), "the launches leave the workspace's front zero");
        Ok(total)
    }

    fn launch(&self, launch: &launch::Launch, operands: &[u64], workspace: u64) -> Result<Report, Error> {
        assert_eq!(launch.cluster, [1; 3], "{}: there are no clusters", launch.symbol);
        self.load(&launch.symbol);
        let code = self.code.borrow();
        let kernel = code
            .values()
            .find_map(|object| object.kernel(&launch.symbol))
            .expect("the unit was just loaded and the gates found its kernels");
        let mut bytes = Vec::new();
        let explicit: Vec<_> = kernel.arguments().iter().filter(|argument| !argument.is_hidden()).collect();
        assert_eq!(explicit.len(), launch.args.len(), "arguments of {}", launch.symbol);
        for (argument, value) in explicit.into_iter().zip(&launch.args) {
            let value = argument_bytes(value, operands, workspace);
            assert_eq!(value.len(), argument.size as usize, "{}: {argument:?}", launch.symbol);
            bytes.resize(argument.offset as usize, 0);
            bytes.extend_from_slice(&value);
        }
        let start = Launch {
            grid: launch.grid,
            block: launch.block,
            dynamic_lds: launch.shared_bytes,
            arguments: bytes,
        };
        let report = kernel.launch(&self.memory, &start, &self.options)?;
        if !self.is_planted && self.options.mutation.is_none() {
            kernel.record().expect("the list of executed kernels can be written");
        }
        Ok(report)
    }

    /// Compiles the unit that defines `symbol`, unless that was done.
    fn load(&self, symbol: &str) {
        let mut units = self.units.iter();
        let unit = units
            .find(|unit| unit.kernels.iter().any(|kernel| kernel.symbol == symbol))
            .unwrap_or_else(|| panic!("no unit of {} defines {symbol}", self.family.name));
        let mut code = self.code.borrow_mut();
        if code.contains_key(&unit.name) {
            return;
        }
        // Tests run side by side, in threads or in processes.
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("emulated_{}_{}_{}_{count}", self.family.name, unit.name, std::process::id());
        let container = self.compiler.build(&name, self.family, std::slice::from_ref(unit));
        let container = container.unwrap_or_else(|log| panic!("{log}"));
        let pack = pack::parse(&container).expect("the container reads back");
        let mut image = Vec::new();
        let stream = StreamingDecoder::new(pack.units[0].stored);
        let mut stream = stream.expect("images are zstd frames");
        stream.read_to_end(&mut image).expect("images unpack");
        code.insert(unit.name.clone(), CodeObject::load(&image).expect("the image is a code object"));
    }
}

fn argument_bytes(arg: &Arg, operands: &[u64], workspace: u64) -> Vec<u8> {
    match arg {
        Arg::Pointer { operand, offset_bytes } => {
            let address = operands.get(*operand).copied().expect("the test gives every operand");
            let place = if address == 0 { 0 } else { address + offset_bytes };
            place.to_le_bytes().to_vec()
        }
        Arg::Workspace { offset_bytes } => (workspace + offset_bytes).to_le_bytes().to_vec(),
        Arg::TensorMap(_) => panic!("there is no bulk copy engine"),
        Arg::U32(value) => value.to_le_bytes().to_vec(),
        Arg::I32(value) => value.to_le_bytes().to_vec(),
        Arg::I64(value) => value.to_le_bytes().to_vec(),
        Arg::F32(value) => value.to_le_bytes().to_vec(),
        Arg::Bytes { bytes, .. } => bytes.clone(),
    }
}

/// Holds results to a float64 reference: `|found - wanted| <= absolute + relative * |wanted|`, NaN where NaN is wanted.
#[track_caller]
pub fn assert_close(what: &str, found: &[f64], wanted: &[f64], absolute: f64, relative: f64) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (at, (&found, &wanted)) in found.iter().zip(wanted).enumerate() {
        let is_close = match (found.is_nan(), wanted.is_nan()) {
            (false, false) => found == wanted || (found - wanted).abs() <= absolute + relative * wanted.abs(),
            (found, wanted) => found == wanted,
        };
        assert!(is_close, "{what}: element {at} is {found}, wanted {wanted}");
    }
}
