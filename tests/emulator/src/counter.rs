//! Memory counters of a wave: which loaded registers are not visible yet, and which waits make them so.
//!
//! Loads change registers at once, but the registers stay poisoned until a wait retires the load. Vector memory
//! retires in order; LDS retires in order; scalar loads retire only when nothing of their counter is outstanding;
//! flat loads need both counters.

use crate::error::{Error, Kind};
use crate::inst::{Inst, Range, Wait};
use std::collections::VecDeque;

/// The counters an operation waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Queue {
    /// vmcnt: global, buffer and scratch memory, loads into LDS.
    Vector,
    /// lgkmcnt, in order.
    Lds,
    /// lgkmcnt, in any order.
    Scalar,
    /// Both.
    Flat,
}

#[derive(Clone, Copy)]
struct Pending {
    number: u32,
    registers: Range,
}

pub(crate) struct Counters {
    vector: VecDeque<Pending>,
    lds: VecDeque<Pending>,
    scalar: Vec<Pending>,
    /// Flat operations that left the vector queue, and those still in it, wait for lgkmcnt(0).
    flat_lgkm: Vec<u32>,
    flat_done: Vec<Pending>,
    /// One bit a register of [`Range`]'s numbers: set while it is poisoned.
    poisoned: [u64; 11],
    any: bool,
    /// The operation that poisons each register, its instruction and its queue.
    owner: Box<[(u32, u32, Queue)]>,
    issued: u32,
    /// Operations ever put into the two ordered queues; the number retired is this less the queue's length.
    vector_issued: u32,
    lds_issued: u32,
}

impl Counters {
    pub fn new() -> Counters {
        Counters {
            vector: VecDeque::new(),
            lds: VecDeque::new(),
            scalar: Vec::new(),
            flat_lgkm: Vec::new(),
            flat_done: Vec::new(),
            poisoned: [0; 11],
            any: false,
            owner: vec![(0, 0, Queue::Vector); 704].into_boxed_slice(),
            issued: 0,
            vector_issued: 0,
            lds_issued: 0,
        }
    }

    /// Forgets everything, for the next wave.
    pub fn clear(&mut self) {
        self.vector.clear();
        self.lds.clear();
        self.scalar.clear();
        self.flat_lgkm.clear();
        self.flat_done.clear();
        self.poisoned = [0; 11];
        self.any = false;
        (self.issued, self.vector_issued, self.lds_issued) = (0, 0, 0);
    }

    /// Puts an operation into a queue. `registers` become poisoned; `inst` names it in errors.
    pub fn issue(&mut self, queue: Queue, registers: Option<Range>, inst: u32) {
        self.issued += 1;
        let number = self.issued;
        let registers = registers.unwrap_or_default();
        for register in registers.first..registers.first + u16::from(registers.count) {
            self.poisoned[usize::from(register / 64)] |= 1 << (register % 64);
            self.owner[usize::from(register)] = (number, inst, queue);
        }
        self.any |= registers.count > 0;
        let pending = Pending { number, registers };
        match queue {
            Queue::Vector => self.vector.push_back(pending),
            Queue::Lds => self.lds.push_back(pending),
            Queue::Scalar => self.scalar.push(pending),
            Queue::Flat => {
                self.vector.push_back(pending);
                self.lds.push_back(Pending { number, registers: Range::default() });
                self.flat_lgkm.push(number);
            }
        }
        self.vector_issued += u32::from(matches!(queue, Queue::Vector | Queue::Flat));
        self.lds_issued += u32::from(matches!(queue, Queue::Lds | Queue::Flat));
    }

    /// The number of the latest operation in the vector queue, for comparison with [`Counters::vector_retired`].
    pub fn vector_number(&self) -> u32 {
        self.vector_issued
    }

    pub fn lds_number(&self) -> u32 {
        self.lds_issued
    }

    /// Operations of the vector queue up to this number have finished.
    pub fn vector_retired(&self) -> u32 {
        self.vector_issued - self.vector.len() as u32
    }

    pub fn lds_retired(&self) -> u32 {
        self.lds_issued - self.lds.len() as u32
    }

    /// Waits until at most the given numbers of operations are outstanding.
    pub fn wait(&mut self, wait: Wait) {
        while self.vector.len() > usize::from(wait.vector) {
            let pending = self.vector.pop_front().expect("the queue is not empty");
            if self.flat_lgkm.contains(&pending.number) {
                self.flat_done.push(pending);
            } else {
                self.retire(pending);
            }
        }
        // Scalar loads may be among those still outstanding, so they never count as the ones that finished.
        while self.lds.len() > usize::from(wait.lgkm) {
            let pending = self.lds.pop_front().expect("the queue is not empty");
            self.retire(pending);
        }
        if wait.lgkm == 0 {
            for pending in std::mem::take(&mut self.scalar) {
                self.retire(pending);
            }
            self.flat_lgkm.clear();
            for pending in std::mem::take(&mut self.flat_done) {
                self.retire(pending);
            }
        }
        self.any = self.poisoned.iter().any(|&word| word != 0);
    }

    fn retire(&mut self, pending: Pending) {
        let Range { first, count } = pending.registers;
        for register in first..first + u16::from(count) {
            // A later load into the same register keeps it poisoned.
            if self.owner[usize::from(register)].0 == pending.number {
                self.poisoned[usize::from(register / 64)] &= !(1 << (register % 64));
            }
        }
    }

    /// Fails when the instruction reads or overwrites a register whose load has not been waited for.
    ///
    /// `queue` is the one the instruction's own result goes to: results of one ordered queue arrive in order, so
    /// overwriting an earlier load of the same queue is fine. `text` gives the text of an instruction by its index.
    #[inline]
    pub fn check(
        &self,
        inst: &Inst,
        queue: Option<Queue>,
        text: impl Fn(u32) -> String,
    ) -> Result<(), Box<Error>> {
        if !self.any {
            return Ok(());
        }
        for range in &inst.reads {
            if let Some(register) = self.first_poisoned(*range) {
                return Err(self.poison(register, "reads", text));
            }
        }
        for range in &inst.writes {
            if let Some(register) = self.first_poisoned(*range) {
                let owner = self.owner[usize::from(register)].2;
                let in_order = queue == Some(owner) && matches!(owner, Queue::Vector | Queue::Lds);
                if !in_order {
                    return Err(self.poison(register, "overwrites", text));
                }
            }
        }
        Ok(())
    }

    fn first_poisoned(&self, range: Range) -> Option<u16> {
        let mut registers = range.first..range.first + u16::from(range.count);
        registers.find(|&register| self.poisoned[usize::from(register / 64)] >> (register % 64) & 1 == 1)
    }

    #[cold]
    fn poison(&self, register: u16, verb: &str, text: impl Fn(u32) -> String) -> Box<Error> {
        let (_, inst, queue) = self.owner[usize::from(register)];
        let counter = match queue {
            Queue::Vector => "vmcnt",
            Queue::Lds | Queue::Scalar => "lgkmcnt",
            Queue::Flat => "vmcnt and lgkmcnt",
        };
        let name = match register {
            0..256 => format!("v{register}"),
            256..512 => format!("a{}", register - 256),
            _ => format!("s{}", register - 512),
        };
        let message = format!("{verb} {name} before a wait on {counter} for its load `{}`", text(inst));
        Box::new(Error::new(Kind::Poison, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registers(first: u16) -> Option<Range> {
        Some(Range { first, count: 1 })
    }

    fn is_poisoned(counters: &Counters, register: u16) -> bool {
        counters.first_poisoned(Range { first: register, count: 1 }).is_some()
    }

    #[test]
    fn vector_loads_retire_in_order() {
        let mut counters = Counters::new();
        for register in 0..4 {
            counters.issue(Queue::Vector, registers(register), 0);
        }
        counters.wait(Wait { vector: 1, lgkm: 15 });
        let poisoned: Vec<bool> = (0..4).map(|register| is_poisoned(&counters, register)).collect();
        assert_eq!(poisoned, [false, false, false, true]);
    }

    #[test]
    fn scalar_loads_retire_only_at_zero() {
        let mut counters = Counters::new();
        counters.issue(Queue::Scalar, registers(512), 0);
        counters.issue(Queue::Lds, registers(3), 0);
        counters.wait(Wait { vector: 63, lgkm: 1 });
        assert!(is_poisoned(&counters, 512) && is_poisoned(&counters, 3));
        counters.wait(Wait { vector: 63, lgkm: 0 });
        assert!(!is_poisoned(&counters, 512) && !is_poisoned(&counters, 3));
    }

    #[test]
    fn flat_loads_need_both_counters() {
        let mut counters = Counters::new();
        counters.issue(Queue::Flat, registers(7), 0);
        counters.wait(Wait { vector: 0, lgkm: 15 });
        assert!(is_poisoned(&counters, 7));
        counters.wait(Wait { vector: 63, lgkm: 0 });
        assert!(!is_poisoned(&counters, 7));
    }

    #[test]
    fn a_second_load_keeps_its_register_poisoned() {
        let mut counters = Counters::new();
        counters.issue(Queue::Vector, registers(1), 0);
        counters.issue(Queue::Vector, registers(1), 1);
        counters.wait(Wait { vector: 1, lgkm: 15 });
        assert!(is_poisoned(&counters, 1));
    }
}
