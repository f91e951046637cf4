//! Movement between lanes and between vector and scalar registers.

use super::{Machine, Operation, Shape};
use crate::error::Outcome;
use crate::inst::{Inst, Source};
use crate::launch::Mutation;
use crate::wave::{LANES, Register};

pub(super) fn lookup(name: &str) -> Option<Operation> {
    Some(match name {
        "v_readlane_b32" => Operation::vector(read_lane),
        "v_readfirstlane_b32" => Operation::vector(read_first_lane),
        "v_writelane_b32" => Operation::vector(write_lane).shaped(Shape::Update),
        "v_permlane32_swap_b32" => Operation::vector(|m, i| swap_rows(m, i, 32)).shaped(Shape::Swap),
        "v_permlane16_swap_b32" => Operation::vector(|m, i| swap_rows(m, i, 16)).shaped(Shape::Swap),
        _ => return None,
    })
}

fn read_lane(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let lane = m.wave.uniform(&i.operands[2], 0) as usize % LANES;
    let mut x = [0; LANES];
    let value = m.wave.raw(&i.operands[1], 0, &mut x)[lane];
    m.wave.set_uniform(&i.operands[0], 0, value);
    Ok(())
}

/// Reads the first lane that executes, lane 0 when none does.
fn read_first_lane(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let lane = match m.wave.exec() {
        0 => 0,
        exec => exec.trailing_zeros() as usize,
    };
    let mut x = [0; LANES];
    let value = m.wave.raw(&i.operands[1], 0, &mut x)[lane];
    m.wave.set_uniform(&i.operands[0], 0, value);
    Ok(())
}

fn write_lane(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let lane = m.wave.uniform(&i.operands[2], 0) as usize % LANES;
    let value = m.wave.uniform(&i.operands[1], 0);
    if let Source::Vector(register) = i.operands[0].source {
        m.wave.vectors[usize::from(register)][lane] = value;
    }
    Ok(())
}

/// Swaps the odd groups of `size` lanes of the first register with the even groups of the second.
fn swap_rows(m: &mut Machine<'_>, i: &Inst, size: usize) -> Outcome {
    if m.context.options.mutation == Some(Mutation::SwapIgnored) {
        return Ok(());
    }
    let (mut x, mut y) = ([0; LANES], [0; LANES]);
    let (mut a, mut b): (Register, Register) =
        (*m.wave.raw(&i.operands[0], 0, &mut x), *m.wave.raw(&i.operands[1], 0, &mut y));
    for lane in (0..LANES).filter(|lane| (lane / size).is_multiple_of(2)) {
        std::mem::swap(&mut a[lane + size], &mut b[lane]);
    }
    m.wave.write(i, 0, 0, &a);
    m.wave.write(i, 1, 0, &b);
    Ok(())
}
