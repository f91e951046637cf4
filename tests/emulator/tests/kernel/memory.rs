//! Memory of all kinds: bounds, races, atomics, scratch, flat pointers, buffers.

use crate::device::{Arguments, Device, pointers};
use crate::toolchain;
use tenon_emulator::{Class, CodeObject, Error, Kind, Target};

/// Runs a test for both targets with the code object of `memory.cpp`.
fn for_each_target(test: impl Fn(&Device, &CodeObject)) {
    for target in Target::ALL {
        let Some(code) = toolchain::compile("memory.cpp", target) else { return };
        test(&Device::new(), &code);
    }
}

fn wave(device: &Device, code: &CodeObject, kernel: &str, arguments: Arguments) -> Result<(), Error> {
    device.launch(code, kernel, [1, 1, 1], [64, 1, 1], arguments).map(|_| ())
}

#[test]
fn a_read_past_the_end_names_instruction_lane_and_address() {
    for_each_target(|device, code| {
        let (x, y) = (device.upload(&[1u32; 100]), device.results::<u32>(128));
        assert!(device.launch(code, "copy", [2, 1, 1], [64, 1, 1], pointers(&[x, y]).with(100u32)).is_ok());
        let error = device.launch(code, "copy", [2, 1, 1], [64, 1, 1], pointers(&[x, y]).with(101u32));
        let error = error.expect_err("element 100 does not exist");
        assert_eq!(error.kind(), Kind::OutOfBounds);
        let address = format!("{:#x}", x + 400);
        for part in ["kernel copy", "global_load_dword", "workgroup (1, 0, 0), wave 0", "lane 36", &address] {
            assert!(error.to_string().contains(part), "{error}");
        }
    });
}

#[test]
fn freed_memory_is_out_of_bounds() {
    for_each_target(|device, code| {
        let (x, y) = (device.upload(&[1u32; 64]), device.results::<u32>(64));
        assert!(device.memory.free(y));
        let error = wave(device, code, "copy", pointers(&[x, y]).with(64u32));
        assert_eq!(error.map_err(|error| error.kind()), Err(Kind::OutOfBounds));
    });
}

#[test]
fn lds_shared_without_a_barrier_names_both_instructions() {
    for_each_target(|device, code| {
        let y = device.results::<u32>(256);
        let run = |synchronise: u32| {
            device.launch(code, "neighbours", [1, 1, 1], [256, 1, 1], pointers(&[y]).with(synchronise))
        };
        assert!(run(1).is_ok());
        let expected: Vec<u32> = (0..256).map(|thread| thread ^ 64).collect();
        assert_eq!(device.download::<u32>(y, 256), expected);
        let error = run(0).expect_err("a race");
        assert_eq!(error.kind(), Kind::Race);
        for part in ["ds_read", "ds_write", "wave"] {
            assert!(error.to_string().contains(part), "{error}");
        }
    });
}

#[test]
fn atomics_in_lds_and_memory_count_everything() {
    for_each_target(|device, code| {
        let mut random = fastrand::Rng::new();
        let bytes: Vec<u8> = (0..5000).map(|_| random.u8(..)).collect();
        let (x, bins) = (device.upload(&bytes), device.upload(&[0u32; 256]));
        let report = device
            .launch(code, "histogram", [4, 1, 1], [256, 1, 1], pointers(&[x, bins]).with(5000u32))
            .expect("the kernel runs");
        assert!(report.count(Class::Atomic) > 0);
        let mut expected = vec![0u32; 256];
        bytes.iter().for_each(|&byte| expected[usize::from(byte)] += 1);
        assert_eq!(device.download::<u32>(bins, 256), expected);
    });
}

#[test]
fn floating_wide_and_compared_atomics_agree_with_their_definition() {
    for_each_target(|device, code| {
        let (sum, wide) = (device.upload(&[0.5f32]), device.upload(&[3u64 << 40]));
        let (slot, old) = (device.upload(&[0u32]), device.results::<u32>(64));
        wave(device, code, "atomics", pointers(&[sum, wide, slot, old])).expect("the kernel runs");
        assert_eq!(device.download::<f32>(sum, 1), [0.5 + 63.0 * 64.0 / 2.0]);
        assert_eq!(device.download::<u64>(wide, 1), [63 << 40]);
        // One lane replaced the zero, all others saw its value.
        let winner = device.download::<u32>(slot, 1)[0];
        let seen = device.download::<u32>(old, 64);
        assert_eq!(seen.iter().filter(|&&value| value == 0).count(), 1);
        assert!(seen.iter().all(|&value| value == 0 || value == winner), "{winner} {seen:?}");
    });
}

#[test]
fn scratch_keeps_an_array_for_each_lane() {
    for_each_target(|device, code| {
        let mut order: Vec<u32> = (0..160).collect();
        fastrand::shuffle(&mut order);
        let x: Vec<u32> = (0..64 * 160).map(|at| at * 5).collect();
        let y = device.results::<u32>(x.len());
        let arguments = pointers(&[device.upload(&order), device.upload(&x), y]);
        wave(device, code, "scratch", arguments).expect("the kernel runs");
        let found = device.download::<u32>(y, x.len());
        for (lane, (from, to)) in x.chunks(160).zip(found.chunks(160)).enumerate() {
            for (at, &place) in order.iter().enumerate() {
                assert_eq!(to[place as usize], from[at], "lane {lane}");
            }
        }
        // An index outside the array leaves the lane's scratch.
        order[7] = 1 << 20;
        let arguments = pointers(&[device.upload(&order), device.upload(&x), y]);
        let error = wave(device, code, "scratch", arguments).expect_err("outside the array");
        assert_eq!(error.kind(), Kind::OutOfBounds);
    });
}

#[test]
fn flat_pointers_reach_lds_scratch_and_memory() {
    for_each_target(|device, code| {
        for which in 0..3u32 {
            let x: Vec<u32> = (0..64).map(|at| at * 11).collect();
            let (x_at, y) = (device.upload(&x), device.results::<u32>(64));
            wave(device, code, "flat", pointers(&[x_at, y]).with(which)).expect("the kernel runs");
            let found = device.download::<u32>(y, 64);
            for thread in 0..64u32 {
                let value = [thread * 3, thread * 4 + 1, thread * 11][which as usize];
                assert_eq!(found[thread as usize], 2 * value + 1, "{which} {thread}");
            }
        }
    });
}

#[test]
fn a_buffer_reads_zero_and_writes_nothing_past_its_end() {
    for_each_target(|device, code| {
        let (x, y) = (device.upload(&[7u32; 64]), device.upload(&[9u32; 64]));
        wave(device, code, "buffer", pointers(&[x, y]).with(80u32)).expect("the kernel runs");
        let found = device.download::<u32>(y, 64);
        // 20 values are inside the source, 36 inside the target.
        let expected: Vec<u32> = (0..64)
            .map(|at| {
                if at < 20 {
                    8
                } else if at < 36 {
                    1
                } else {
                    9
                }
            })
            .collect();
        assert_eq!(found, expected);
    });
}

#[test]
fn an_endless_kernel_reaches_the_limit() {
    for_each_target(|device, code| {
        let y = device.upload(&[0u32]);
        let mut options = device.options;
        options.instruction_limit = 10_000;
        let launch = tenon_emulator::Launch {
            grid: [1; 3],
            block: [64, 1, 1],
            dynamic_lds: 0,
            arguments: y.to_le_bytes().to_vec(),
        };
        let kernel = code.kernel("endless").expect("the kernel");
        let error = kernel.launch(&device.memory, &launch, &options).expect_err("it never ends");
        assert_eq!(error.kind(), Kind::Runaway);
        device.memory.write(y, &[1]).expect("the allocation holds it");
        assert!(kernel.launch(&device.memory, &launch, &options).is_ok());
    });
}

#[test]
fn work_items_know_their_place_in_three_dimensions() {
    for_each_target(|device, code| {
        let y = device.results::<u32>(64 * 232);
        device.launch(code, "place", [2, 3, 2], [4, 4, 4], pointers(&[y])).expect("the kernel runs");
        let found = device.download::<u32>(y, 64 * 232);
        for (gx, gy, gz, item) in [(0, 0, 0, 0), (1, 2, 1, 63), (1, 0, 1, 27)] {
            let group = gx + 10 * gy + 100 * gz;
            let expected = (item % 4) | ((item / 4 % 4) << 8) | (item / 16) << 16 | group << 24;
            assert_eq!(found[(group * 64 + item) as usize], expected as u32);
        }
    });
}

#[test]
fn launches_that_no_device_accepts_are_refused() {
    for_each_target(|device, code| {
        let x = device.upload(&[0u32; 64]);
        let refused = |grid, block, arguments| {
            let result = device.launch(code, "copy", grid, block, arguments);
            assert_eq!(result.map_err(|error| error.kind()), Err(Kind::Launch));
        };
        refused([1, 1, 1], [65, 1, 1], pointers(&[x, x]).with(1u32));
        refused([0, 1, 1], [64, 1, 1], pointers(&[x, x]).with(1u32));
        refused([1, 1, 1], [64, 1, 1], pointers(&[x]));
    });
}

#[test]
fn kernels_learn_the_sizes_of_their_launch() {
    for_each_target(|device, code| {
        let y = device.results::<u32>(4);
        device.launch(code, "sizes", [3, 5, 1], [16, 4, 1], pointers(&[y])).expect("the kernel runs");
        assert_eq!(device.download::<u32>(y, 4), [16, 4, 48, 20]);
    });
}
