//! Branches, calls, waits, barriers and the end of a program.

use super::{Machine, Operation, Shape, nothing};
use crate::error::{Kind, Outcome, fault};
use crate::inst::{Class, Execute, Inst};
use crate::launch::Mutation;
use crate::wave::{State, VCC};

pub(super) fn lookup(name: &str) -> Option<Operation> {
    let branch = |execute: Execute| Operation::new(Class::Branch, Shape::NoResult, execute);
    let wait = |execute: Execute| Operation::new(Class::Wait, Shape::NoResult, execute);
    Some(match name {
        "s_branch" => branch(|m, i| jump(m, i, true)),
        "s_cbranch_scc0" => branch(|m, i| jump(m, i, !m.wave.scc)),
        "s_cbranch_scc1" => branch(|m, i| jump(m, i, m.wave.scc)),
        "s_cbranch_vccz" => branch(|m, i| jump(m, i, m.wave.scalar64(VCC) == 0)),
        "s_cbranch_vccnz" => branch(|m, i| jump(m, i, m.wave.scalar64(VCC) != 0)),
        "s_cbranch_execz" => branch(|m, i| jump(m, i, m.wave.exec() == 0)),
        "s_cbranch_execnz" => branch(|m, i| jump(m, i, m.wave.exec() != 0)),
        "s_endpgm" | "s_endpgm_saved" => branch(end),
        "s_barrier" => Operation::new(Class::Barrier, Shape::NoResult, barrier),
        "s_waitcnt" => wait(wait_counters),
        "s_waitcnt_depctr" | "s_waitcnt_vscnt" => wait(nothing),
        // Caches are not modelled.
        "buffer_wbl2" | "buffer_inv" | "buffer_wbinvl1" | "buffer_wbinvl1_vol" | "s_dcache_wb_vol"
        | "s_dcache_inv_vol" => wait(nothing),
        "s_getpc_b64" => Operation::new(Class::Branch, Shape::Result, program_counter),
        "s_setpc_b64" => branch(set_program_counter),
        "s_swappc_b64" => Operation::new(Class::Branch, Shape::Result, call),
        "s_trap" => branch(|_, _| Err(fault(Kind::Runaway, "the program trapped"))),
        "s_sendmsg" | "s_sendmsghalt" => branch(nothing),
        _ => return None,
    })
}

fn jump(m: &mut Machine<'_>, i: &Inst, taken: bool) -> Outcome {
    if taken {
        m.wave.pc = i.immediate as usize;
    }
    Ok(())
}

fn end(m: &mut Machine<'_>, _: &Inst) -> Outcome {
    m.wave.state = State::Ended;
    Ok(())
}

fn barrier(m: &mut Machine<'_>, _: &Inst) -> Outcome {
    if m.context.options.mutation != Some(Mutation::BarrierIgnored) {
        m.wave.state = State::AtBarrier;
    }
    Ok(())
}

fn wait_counters(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    if m.context.options.mutation != Some(Mutation::WaitIgnored) {
        m.wave.counters.wait(i.wait);
    }
    Ok(())
}

fn program_counter(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    m.wave.set_uniform64(&i.operands[0], i.next);
    Ok(())
}

fn set_program_counter(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let target = m.wave.uniform64(&i.operands[0]);
    go_to(m, target)
}

fn call(m: &mut Machine<'_>, i: &Inst) -> Outcome {
    let target = m.wave.uniform64(&i.operands[1]);
    m.wave.set_uniform64(&i.operands[0], i.next);
    go_to(m, target)
}

fn go_to(m: &mut Machine<'_>, address: u64) -> Outcome {
    let Some(index) = m.context.program.index_of(address) else {
        return Err(fault(Kind::Runaway, format!("jumps to {address:#x}, outside the kernel's code")));
    };
    m.wave.pc = index;
    Ok(())
}
