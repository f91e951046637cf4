//! Faults planted on purpose, in the emulator and in binaries: each must be noticed.

use crate::device::Device;
use crate::{toolchain, workload};
use tenon_emulator::{CodeObject, Kind, Launch, Mutation, Target};

/// True when the workload reports an error or gives a wrong result.
fn is_caught(device: &Device, code: &CodeObject, workload: workload::Workload) -> bool {
    workload(device, code).is_ok_and(|outcome| outcome.is_right()).eq(&false)
}

#[test]
fn every_fault_of_the_emulator_is_noticed_by_a_kernel() {
    use Mutation::*;
    let faults: [(Mutation, &[Target]); 6] = [
        (BarrierIgnored, &Target::ALL),
        (WaitIgnored, &Target::ALL),
        (RowOrder, &Target::ALL),
        (OperandOrder, &Target::ALL),
        (TransposeIgnored, &[Target::Gfx950]),
        (SwapIgnored, &[Target::Gfx950]),
    ];
    for (fault, targets) in faults {
        for &target in targets {
            let mut catchers = Vec::new();
            let modern = target == Target::Gfx950;
            let workloads = workload::ALL.iter().chain(if modern { workload::MODERN } else { &[] });
            for (name, source, workload) in workloads {
                let Some(code) = toolchain::compile(source, target) else { return };
                let mut device = Device::new();
                device.options.mutation = Some(fault);
                if is_caught(&device, &code, *workload) {
                    catchers.push(*name);
                }
            }
            eprintln!("{fault:?} on {}: {}", target.name(), catchers.join(", "));
            assert!(!catchers.is_empty(), "{fault:?} on {}", target.name());
        }
    }
}

/// Without race and wait checks the results themselves still tell.
#[test]
fn results_alone_show_ignored_barriers_and_other_layouts() {
    for target in Target::ALL {
        for fault in [Mutation::BarrierIgnored, Mutation::RowOrder, Mutation::OperandOrder] {
            let Some(code) = toolchain::compile("matmul.cpp", target) else { return };
            let mut device = Device::new();
            device.options.mutation = Some(fault);
            (device.options.check_races, device.options.check_waits) = (false, false);
            assert!(is_caught(&device, &code, workload::matmul), "{fault:?} on {}", target.name());
        }
    }
}

/// An ELF file whose instructions can be replaced.
struct Binary {
    bytes: Vec<u8>,
}

impl Binary {
    /// The file with the four bytes at an address replaced by `s_nop 0`.
    fn without(&self, address: u64) -> CodeObject {
        const NOP: u32 = 0xbf80_0000;
        let mut bytes = self.bytes.clone();
        let at = self.file_offset(address);
        bytes[at..at + 4].copy_from_slice(&NOP.to_le_bytes());
        CodeObject::load(&bytes).expect("still a code object")
    }

    /// Where a loaded address lies in the file, by the program headers.
    fn file_offset(&self, address: u64) -> usize {
        let word = |at: usize| u64::from_le_bytes(self.bytes[at..at + 8].try_into().expect("eight bytes"));
        let (table, count) = (word(32) as usize, u16::from_le_bytes([self.bytes[56], self.bytes[57]]));
        (0..usize::from(count))
            .map(|index| table + 56 * index)
            .find_map(|header| {
                let (offset, base, len) = (word(header + 8), word(header + 16), word(header + 32));
                (address >= base && address < base + len).then(|| (offset + address - base) as usize)
            })
            .expect("a segment holds the address")
    }

    /// Addresses and texts of a kernel's instructions that start with a mnemonic.
    fn find(&self, kernel: &str, mnemonic: &str) -> Vec<(u64, String)> {
        let code = CodeObject::load(&self.bytes).expect("a code object");
        let lines = code.kernel(kernel).expect("the kernel").listing().expect("a listing");
        let parse = |line: &String| {
            let (address, text) = line.split_once(": ").expect("an address and a text");
            let address = u64::from_str_radix(address.trim_start_matches("0x"), 16).expect("an address");
            (address, text.to_string())
        };
        lines.iter().map(parse).filter(|(_, text)| text.starts_with(mnemonic)).collect()
    }
}

const KERNELS: &[(&str, &str, workload::Workload)] = &[
    ("matmul", "matmul.cpp", workload::matmul),
    ("softmax", "row.cpp", workload::softmax),
    ("rmsnorm", "row.cpp", workload::rmsnorm),
    ("attention", "attention.cpp", workload::attention),
];

#[test]
fn every_removed_barrier_is_noticed() {
    for target in Target::ALL {
        for (kernel, source, workload) in KERNELS {
            let Some(bytes) = toolchain::compile_bytes(source, target) else { return };
            let binary = Binary { bytes };
            for (address, _) in binary.find(kernel, "s_barrier") {
                let result = workload(&Device::new(), &binary.without(address));
                let kind = result.err().map(|error| error.kind());
                assert_eq!(kind, Some(Kind::Race), "{kernel} on {} without {address:#x}", target.name());
            }
        }
    }
}

/// Waits that change nothing are those on paths that the data does not take, and those whose counters another wait
/// already brings down; there are few.
#[test]
fn a_removed_wait_is_noticed() {
    for target in Target::ALL {
        for (kernel, source, workload) in KERNELS {
            let Some(bytes) = toolchain::compile_bytes(source, target) else { return };
            let binary = Binary { bytes };
            let waits = binary.find(kernel, "s_waitcnt");
            let mut silent = Vec::new();
            for (address, text) in &waits {
                match workload(&Device::new(), &binary.without(*address)) {
                    Ok(_) => silent.push(format!("{address:#x} {text}")),
                    Err(error) => {
                        assert!(matches!(error.kind(), Kind::Poison | Kind::Race), "{kernel}: {error}");
                    }
                }
            }
            eprintln!(
                "{kernel} on {}: {} of {} waits change nothing {silent:?}",
                target.name(),
                silent.len(),
                waits.len()
            );
            assert!(silent.len() * 8 <= waits.len(), "{kernel} on {}: {silent:?}", target.name());
        }
    }
}

#[test]
fn mistakes_in_a_kernel_are_noticed() {
    for target in Target::ALL {
        for (define, kind) in [("WRONG_SWIZZLE", None), ("TILE_OFF_BY_ONE", Some(Kind::OutOfBounds))] {
            let Some(code) = toolchain::compile_with("matmul.cpp", target, define) else { return };
            let result = workload::matmul(&Device::new(), &code);
            match (result, kind) {
                (Ok(outcome), None) => assert!(!outcome.is_right(), "{define} on {}", target.name()),
                (Err(error), Some(kind)) => assert_eq!(error.kind(), kind, "{error}"),
                (Ok(_), Some(_)) => panic!("{define} on {}: no error", target.name()),
                (Err(error), None) => panic!("{define} on {}: {error}", target.name()),
            }
        }
    }
}

/// Random bytes in headers, tables, descriptors and metadata: an error or a code object, never a panic.
#[test]
fn damaged_files_are_errors() {
    let mut random = fastrand::Rng::new();
    for target in Target::ALL {
        let Some(bytes) = toolchain::compile_bytes("row.cpp", target) else { return };
        for _ in 0..2000 {
            let mut damaged = bytes.clone();
            for _ in 0..random.usize(1..20) {
                let at = random.usize(..damaged.len());
                damaged[at] = random.u8(..);
            }
            damaged.truncate(random.usize(damaged.len() / 2..=damaged.len()));
            if let Ok(code) = CodeObject::load(&damaged) {
                assert!(!code.kernels().is_empty());
            }
        }
    }
}

/// Instructions in another order: wrong programs that end with a result or an error, never a panic or a hang.
#[test]
fn shuffled_programs_end() {
    let mut random = fastrand::Rng::new();
    for target in Target::ALL {
        for (kernel, source, _) in KERNELS {
            let Some(bytes) = toolchain::compile_bytes(source, target) else { return };
            let binary = Binary { bytes };
            let lines = binary.find(kernel, "");
            for _ in 0..20 {
                let mut shuffled = Binary { bytes: binary.bytes.clone() };
                for _ in 0..random.usize(1..10) {
                    let [first, second] = std::array::from_fn(|_| random.usize(..lines.len() - 1));
                    let len = |at: usize| (lines[at + 1].0 - lines[at].0) as usize;
                    if len(first) == len(second) {
                        let places = [first, second].map(|at| binary.file_offset(lines[at].0));
                        (0..len(first))
                            .for_each(|byte| shuffled.bytes.swap(places[0] + byte, places[1] + byte));
                    }
                }
                let code = CodeObject::load(&shuffled.bytes).expect("still a code object");
                let mut device = Device::new();
                device.options.instruction_limit = 20_000;
                (device.options.check_waits, device.options.check_races) = (false, false);
                let arguments = [device.results::<u32>(1 << 16).to_le_bytes(); 5].concat();
                let launch = Launch { grid: [1; 3], block: [256, 1, 1], dynamic_lds: 0, arguments };
                let kernel = code.kernel(kernel).expect("the kernel");
                let _ = kernel.launch(&device.memory, &launch, &device.options);
            }
        }
    }
}
