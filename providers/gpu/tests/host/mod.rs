//! Device kernels compiled for the host with the system's C++ compiler, and a provider over them: everything above the
//! driver, and the text of the kernels, is tested without a GPU.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use tenon_gpu::recording::{HostKernel, Recording};
use tenon_gpu::{Driver, FEATURES, GpuDevice, Images, Setup};
use tenon_kernels::gpu::{Unit, arch};
use tenon_plugin_api::provider::{Features, Host, Provider};
use tenon_plugin_api::{DeviceInfo, Error, Options, Result};

/// The family whose units are compiled.
const ARCH: &str = "sm90";

/// Kernels whose threads wait for each other.
const COOPERATIVE: &[&str] = &[
    "permute_",
    "recurrent_lstm_",
    "recurrent_gru_",
    "recurrent_rnn_",
    "reduce_block_",
    "reduce_few_",
    "reduce_tile_",
    "reduce_wave_",
    "find_extreme_row_",
    "reduce_row_",
    "reduce_column_",
    "reduce_parts_",
    "find_extreme_block_",
    "softmax_",
    "normalize_",
    "add_normalize_",
    "norm_",
    "matmul_tile",
    "matmul_wave_",
    "conv_product",
    "conv_patches",
    "attention_plain_",
    "attention_append_",
    "largest_of_",
    "signed_rows",
    "matmul_bytes",
    "dynamic_range_",
    "dynamic_scale",
    "sample_",
    "scan_rows_",
    "scan_totals_",
    "top_k",
    "linear_attention_",
    "fourier_",
    "loss_total",
];

/// Kernels of `device/` as functions of the host; a unit is compiled when one of its kernels is first asked for.
struct Library {
    folder: PathBuf,
    /// Every unit that is made of portable text alone.
    units: Vec<Unit>,
    loaded: Mutex<Loaded>,
}

#[derive(Default)]
struct Loaded {
    symbols: HashMap<String, HostKernel>,
    libraries: Vec<libloading::Library>,
}

impl Library {
    fn new(folder: &Path) -> Library {
        let arch = arch::find(ARCH).expect("the family is known");
        let mut units = arch.units().expect("the units are well formed");
        let given = ["/scalar_primitives.cuh", "/atomic_primitives.cuh", "/number_primitives.cuh"];
        let device =
            |path: &str| path.starts_with("device/") || given.iter().any(|name| path.ends_with(name));
        units.retain(|unit| unit.texts.iter().all(|text| device(text.path)));
        Library { folder: folder.to_owned(), units, loaded: Mutex::default() }
    }

    fn find(&self, symbol: &str) -> Option<HostKernel> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&function) = loaded.symbols.get(symbol) {
            return Some(function);
        }
        let unit =
            self.units.iter().find(|unit| unit.kernels.iter().any(|kernel| kernel.symbol == symbol))?;
        let path = compile(&self.folder, unit);
        // SAFETY: the library holds functions and nothing that runs when it is loaded.
        let library = unsafe { libloading::Library::new(&path) }.expect("it was just built");
        for kernel in &unit.kernels {
            let name = format!("host_{}", kernel.symbol);
            // SAFETY: the text below defines it with this type.
            let function = unsafe { library.get::<HostKernel>(name.as_bytes()) }.expect("it was defined");
            loaded.symbols.insert(kernel.symbol.clone(), *function);
        }
        loaded.libraries.push(library);
        loaded.symbols.get(symbol).copied()
    }
}

/// Compiles a unit to a shared library named after its text.
fn compile(folder: &Path, unit: &Unit) -> PathBuf {
    let mut text = String::from(include_str!("prelude.h"));
    for (name, value) in &unit.defines {
        let _ = writeln!(text, "#define {name} {value}");
    }
    for part in unit.texts.iter().filter(|part| part.path.starts_with("device/")) {
        let _ = writeln!(text, "#line 1 \"kernels/{}\"\n{}", part.path, part.text);
    }
    for kernel in &unit.kernels {
        let cooperative = COOPERATIVE.iter().any(|start| kernel.symbol.starts_with(start));
        let _ = writeln!(text, "HOST_KERNEL({}, {cooperative})", kernel.symbol);
    }
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let library = folder.join(format!("host_{}_{hash:016x}.so", unit.name));
    if library.exists() {
        return library;
    }
    std::fs::create_dir_all(folder).expect("the target folder is writable");
    let own = library.with_extension(std::process::id().to_string());
    let source = own.with_extension("cpp");
    std::fs::write(&source, text).expect("the target folder is writable");
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let output = Command::new(&compiler)
        .args([
            "-std=c++17",
            "-O1",
            "-w",
            "-fPIC",
            "-shared",
            "-ffp-contract=off",
            "-fno-strict-aliasing",
            "-o",
        ])
        .args([&own, &source])
        .output()
        .unwrap_or_else(|error| panic!("cannot run the C++ compiler '{compiler}': {error}"));
    assert!(output.status.success(), "{}:\n{}", unit.name, String::from_utf8_lossy(&output.stderr));
    let _ = std::fs::remove_file(source);
    std::fs::rename(own, &library).expect("the target folder is writable");
    library
}

/// A recording driver that runs portable kernels on the host, one at a time.
pub fn driver(folder: &Path) -> Recording {
    let library = Library::new(folder);
    Recording::new(ARCH, move |symbol| library.find(symbol))
}

/// The kernels that the driver runs.
pub fn images() -> Images {
    let mut images = Images::new();
    for unit in arch::find(ARCH).and_then(|arch| arch.units()).expect("the units are well formed") {
        let is_device = unit.texts.iter().any(|text| text.path == "device/scalar.cu");
        // Blocks run one after the other.
        let is_clustered = unit.texts.iter().any(|text| text.path.ends_with("/cluster_primitives.cuh"));
        if is_device && !is_clustered {
            images.add(unit.kernels.into_iter().map(|kernel| kernel.symbol), || Ok(Vec::new()));
        }
    }
    images
}

/// The provider over the recording driver.
pub struct HostProvider {
    driver: Mutex<Option<Arc<Recording>>>,
}

/// Where compiled kernels are kept: the folder that the build gives to tests.
fn folder() -> PathBuf {
    let own = option_env!("CARGO_TARGET_TMPDIR").map(PathBuf::from);
    own.unwrap_or_else(|| std::env::temp_dir().join("tenon-host-kernels"))
}

impl HostProvider {
    pub fn driver(&self) -> Arc<Recording> {
        let mut driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner);
        driver.get_or_insert_with(|| Arc::new(driver_of_this_process())).clone()
    }
}

fn driver_of_this_process() -> Recording {
    driver(&folder())
}

impl Provider for HostProvider {
    const NAME: &'static str = "host-gpu";
    const VENDOR: &'static str = "tests";
    const VERSION: &'static str = "1";
    const BUILD_INFO: &'static str = "device kernels compiled for the host";
    const FEATURES: Features = FEATURES;
    type Device = GpuDevice;

    fn initialize(_host: Host) -> Result<HostProvider> {
        Ok(HostProvider { driver: Mutex::new(None) })
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        let facts = self.driver().devices()?;
        Ok(facts.iter().enumerate().map(|(index, facts)| GpuDevice::info(index as u32, facts)).collect())
    }

    fn open(&self, index: u32, options: &Options<'_>) -> Result<GpuDevice> {
        let options = tenon_gpu::check_options(options)?;
        let driver = self.driver();
        let facts = driver.devices()?.get(index as usize).cloned();
        let facts = facts.ok_or_else(|| Error::invalid(format!("there is no device {index}")))?;
        GpuDevice::open(Setup { driver, ordinal: index, facts, images: images(), options })
    }
}
