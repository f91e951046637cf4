//! Device memory and launches as tests write them.

use half::bf16;
use tenon_emulator::{CodeObject, Error, Launch, Memory, Options, Report};

/// Values that have a byte representation on the device.
pub trait Value: Copy {
    const BYTES: usize;
    fn put(self, bytes: &mut Vec<u8>);
    fn get(bytes: &[u8]) -> Self;
}

macro_rules! values {
    ($($name:ty),*) => {$(
        impl Value for $name {
            const BYTES: usize = size_of::<$name>();
            fn put(self, bytes: &mut Vec<u8>) {
                bytes.extend(self.to_le_bytes());
            }
            fn get(bytes: &[u8]) -> Self {
                <$name>::from_le_bytes(bytes.try_into().expect("the size is right"))
            }
        }
    )*};
}

values!(u8, u16, u32, u64, i32, f32, f64, bf16, half::f16);

/// A device with memory, and options for its launches.
pub struct Device {
    pub memory: Memory,
    pub options: Options,
}

/// The explicit arguments of a kernel, each at a multiple of its size.
#[derive(Default)]
pub struct Arguments(Vec<u8>);

impl Arguments {
    pub fn with<T: Value>(mut self, value: T) -> Arguments {
        self.0.resize(self.0.len().next_multiple_of(T::BYTES), 0);
        value.put(&mut self.0);
        self
    }
}

impl Arguments {
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Arguments that start with addresses.
pub fn pointers(addresses: &[u64]) -> Arguments {
    addresses.iter().fold(Arguments::default(), |arguments, &address| arguments.with(address))
}

impl Device {
    pub fn new() -> Device {
        Device { memory: Memory::new(1 << 30), options: Options::default() }
    }

    /// Device memory with these values.
    pub fn upload<T: Value>(&self, values: &[T]) -> u64 {
        let mut bytes = Vec::with_capacity(values.len() * T::BYTES);
        values.iter().for_each(|value| value.put(&mut bytes));
        let address = self.memory.allocate(bytes.len() as u64).expect("there is room");
        self.memory.write(address, &bytes).expect("the allocation holds the values");
        address
    }

    /// Device memory for results; it starts as NaN.
    pub fn results<T: Value>(&self, count: usize) -> u64 {
        self.memory.allocate((count * T::BYTES) as u64).expect("there is room")
    }

    pub fn download<T: Value>(&self, address: u64, count: usize) -> Vec<T> {
        let mut bytes = vec![0; count * T::BYTES];
        self.memory.read(address, &mut bytes).expect("the allocation holds the values");
        bytes.chunks_exact(T::BYTES).map(T::get).collect()
    }

    /// Launches a kernel over a grid of workgroups.
    pub fn launch(
        &self,
        code: &CodeObject,
        kernel: &str,
        grid: [u32; 3],
        block: [u32; 3],
        arguments: Arguments,
    ) -> Result<Report, Error> {
        let kernel = code.kernel(kernel).unwrap_or_else(|| panic!("no kernel {kernel}"));
        let launch = Launch { grid, block, dynamic_lds: 0, arguments: arguments.0 };
        kernel.launch(&self.memory, &launch, &self.options)
    }
}

/// Random values in [-1, 1).
pub fn uniform(random: &mut fastrand::Rng, count: usize) -> Vec<f32> {
    (0..count).map(|_| random.f32() * 2.0 - 1.0).collect()
}

/// Random bfloat16 values in [-1, 1).
pub fn uniform_bf16(random: &mut fastrand::Rng, count: usize) -> Vec<bf16> {
    uniform(random, count).into_iter().map(bf16::from_f32).collect()
}

/// The largest difference between results and a reference; infinite when a result is NaN.
pub fn largest_error(found: impl IntoIterator<Item = f64>, expected: &[f64]) -> f64 {
    let differences = found.into_iter().zip(expected).map(|(found, expected)| (found - expected).abs());
    differences.fold(0.0, |worst, error| if error.is_nan() { f64::INFINITY } else { worst.max(error) })
}
