//! The kernels of `device/loss.cu`: the negative log-likelihood of targets, its sum and its mean.

use tenon_kernels::gpu::loss::Loss;
use tenon_kernels::gpu::scalar::Scalar;

use crate::device::{random, upload};
use crate::harness::{Machine, assert_close};

#[test]
fn losses_agree_with_their_definition() {
    let cases = [
        // Batch, classes, elements behind the classes; wide targets, weights of classes; the target that counts nothing.
        ([7usize, 11usize, 1usize], [true, true], None),
        ([3, 5, 77], [false, true], Some(2i64)),
        ([2, 300, 9], [true, false], Some(-1)),
        ([1, 3, 2001], [false, false], None),
    ];
    for machine in Machine::all() {
        for ([batch, classes, inner], [is_wide, is_weighted], ignored) in cases {
            let loss = Loss { batch, classes, inner, is_wide, ignored };
            let (x, logs) = upload(&machine, Scalar::F32, &random(41, batch * classes * inner, -9.0, 0.0));
            let (w, class_weights) = upload(&machine, Scalar::F32, &random(42, classes, 0.1, 2.0));
            let targets: Vec<i64> = random(43, batch * inner, 0.0, classes as f64)
                .into_iter()
                .map(|target| target as i64)
                .collect();
            let targets: Vec<i64> = targets
                .iter()
                .enumerate()
                .map(|(at, &t)| if at % 9 == 4 { ignored.unwrap_or(t) } else { t })
                .collect();
            let t = match is_wide {
                true => machine.upload(&targets),
                false => machine.upload(&targets.iter().map(|&target| target as i32).collect::<Vec<_>>()),
            };
            let each = |(at, &target): (usize, &i64)| {
                if Some(target) == ignored {
                    return (0.0, 0.0);
                }
                let weight = if is_weighted { class_weights[target as usize] } else { 1.0 };
                (-logs[(at / inner * classes + target as usize) * inner + at % inner] * weight, weight)
            };
            let (wanted, shares): (Vec<f64>, Vec<f64>) = targets.iter().enumerate().map(each).unzip();

            let count = targets.len();
            let (losses, weights) = (machine.poisoned(count * 4), machine.poisoned(count * 4));
            let operands = [losses, weights, x, t, if is_weighted { w } else { 0 }];
            let plan = loss.each().expect("few targets");
            machine.run(&plan, &operands).unwrap_or_else(|error| panic!("{loss:?}: {error}"));
            let read = |address, count| {
                machine.download::<f32>(address, count).into_iter().map(f64::from).collect::<Vec<f64>>()
            };
            let what = format!("{loss:?} on {}", machine.family.name);
            assert_close(&what, &read(losses, count), &wanted, 0.0, 1e-6);
            assert_close(&what, &read(weights, count), &shares, 0.0, 0.0);
            for is_mean in [false, true] {
                let total = machine.poisoned(4);
                machine.run(&loss.total(is_mean), &[total, losses, weights]).expect("sums end");
                let sum = wanted.iter().sum::<f64>() / if is_mean { shares.iter().sum() } else { 1.0 };
                assert_close(&what, &read(total, 1), &[sum], 0.0, 1e-5);
            }
        }
    }
}
