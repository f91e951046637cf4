//! The state of one wave of 64 lanes, and how operands are read and written.

use crate::counter::Counters;
use crate::inst::{Inst, Operand, Part, Sdwa, Select, Source, Unused};
use crate::syntax::Float;

/// Lanes of a wave.
pub(crate) const LANES: usize = 64;

/// One 32-bit register of all lanes.
pub(crate) type Register = [u32; LANES];

/// The part of the flat address space that is the workgroup's LDS.
pub(crate) const SHARED_BASE: u64 = 1 << 48;
/// The part of the flat address space that is the lane's scratch.
pub(crate) const PRIVATE_BASE: u64 = 2 << 48;

pub(crate) const VCC: usize = 106;
pub(crate) const M0: usize = 124;
pub(crate) const EXEC: usize = 126;

/// What registers hold before they are written: a NaN in every float format of 16 bits and more.
const UNWRITTEN: u32 = 0xffff_ffff;

/// Fields of the MODE register that are modelled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mode(pub u32);

impl Mode {
    pub fn flushes_single(self) -> bool {
        self.0 >> 4 & 3 != 3
    }

    pub fn rounds_to_nearest(self) -> bool {
        self.0 & 15 == 0
    }

    /// Conversions to 8-bit floats clamp instead of overflowing.
    pub fn clamps_overflow(self) -> bool {
        self.0 >> 23 & 1 == 1
    }
}

/// Why a wave does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Running,
    AtBarrier,
    /// Gave the other waves a turn.
    Yielded,
    Ended,
}

pub(crate) struct Wave {
    /// Index of the next instruction.
    pub pc: usize,
    pub scalars: [u32; 128],
    /// Architectural registers, then accumulation registers.
    pub vectors: Box<[Register]>,
    pub scc: bool,
    /// Operands that M0 indexes, while register indexing is on.
    pub indexed: u32,
    pub mode: Mode,
    pub state: State,
    pub counters: Counters,
    /// Private memory: `scratch_bytes` of each lane, one lane after the other.
    pub scratch: Vec<u8>,
    pub executed: u64,
}

impl Wave {
    pub fn new() -> Wave {
        Wave {
            pc: 0,
            scalars: [0; 128],
            vectors: vec![[UNWRITTEN; LANES]; 512].into_boxed_slice(),
            scc: false,
            indexed: 0,
            mode: Mode(0),
            state: State::Ended,
            counters: Counters::new(),
            scratch: Vec::new(),
            executed: 0,
        }
    }

    /// Makes the wave ready to start with the lanes of `exec`; `used` counts the vector registers to clear.
    pub fn reset(&mut self, exec: u64, mode: Mode, used: [usize; 2]) {
        self.pc = 0;
        self.scalars.fill(UNWRITTEN);
        self.vectors[..used[0].max(1)].fill([UNWRITTEN; LANES]);
        self.vectors[256..256 + used[1]].fill([UNWRITTEN; LANES]);
        self.set_exec(exec);
        self.scc = false;
        self.indexed = 0;
        self.mode = mode;
        self.state = State::Running;
        self.counters.clear();
        self.executed = 0;
    }

    pub fn exec(&self) -> u64 {
        self.scalar64(EXEC)
    }

    pub fn set_exec(&mut self, mask: u64) {
        self.set_scalar64(EXEC, mask);
    }

    pub fn scalar64(&self, register: usize) -> u64 {
        u64::from(self.scalars[register]) | u64::from(self.scalars[register + 1]) << 32
    }

    pub fn set_scalar64(&mut self, register: usize, value: u64) {
        self.scalars[register] = value as u32;
        self.scalars[register + 1] = (value >> 32) as u32;
    }

    /// Word `part` of an operand that is the same in all lanes; lane 0 of a vector register.
    pub fn uniform(&self, operand: &Operand, part: usize) -> u32 {
        match operand.source {
            Source::Scalar(register) => self.scalars[(usize::from(register) + part) & 127],
            Source::Constant(value) => (value >> (32 * (part & 1))) as u32,
            Source::Vector(register) => self.vectors[(usize::from(register) + part) & 511][0],
            Source::Scc => u32::from(self.scc && part == 0),
            Source::Vccz => u32::from(self.scalar64(VCC) == 0 && part == 0),
            Source::Execz => u32::from(self.exec() == 0 && part == 0),
            Source::None => 0,
        }
    }

    pub fn uniform64(&self, operand: &Operand) -> u64 {
        u64::from(self.uniform(operand, 0)) | u64::from(self.uniform(operand, 1)) << 32
    }

    /// Writes word `part` of a scalar destination.
    pub fn set_uniform(&mut self, operand: &Operand, part: usize, value: u32) {
        if let Source::Scalar(register) = operand.source {
            self.scalars[(usize::from(register) + part) & 127] = value;
        }
    }

    pub fn set_uniform64(&mut self, operand: &Operand, value: u64) {
        self.set_uniform(operand, 0, value as u32);
        self.set_uniform(operand, 1, (value >> 32) as u32);
    }

    /// Word `part` of an operand in all lanes without modifiers; `buffer` holds it when it is uniform.
    pub fn raw<'a>(&'a self, operand: &Operand, part: usize, buffer: &'a mut Register) -> &'a Register {
        if let Source::Vector(register) = operand.source {
            return &self.vectors[(usize::from(register) + part) & 511];
        }
        *buffer = [self.uniform(operand, part); LANES];
        buffer
    }

    /// Word `part` of operand `index` in all lanes, with selection, sign and denormal handling applied.
    pub fn source<'a>(
        &'a self,
        inst: &Inst,
        index: usize,
        part: usize,
        buffer: &'a mut Register,
    ) -> &'a Register {
        let operand = &inst.operands[index];
        let flush = inst.flushes && self.mode.flushes_single();
        let first = usize::from(inst.first_source);
        let selects = inst.select.is_some() && (first..first + 2).contains(&index);
        if !(operand.negate || operand.absolute || flush || selects) {
            return self.raw(operand, part, buffer);
        }
        let mut other = [0; LANES];
        let mut value = *self.raw(operand, part, &mut other);
        if selects {
            self.select(inst, index, &mut value);
        }
        apply_sign(operand, inst.float, part, &mut value);
        if flush {
            value.iter_mut().for_each(|word| *word = flush_denormal(*word));
        }
        *buffer = value;
        buffer
    }

    /// Applies lane or part selection to a source.
    fn select(&self, inst: &Inst, index: usize, value: &mut Register) {
        match &inst.select {
            // Only the first source moves between lanes.
            Some(Select::Dpp(dpp)) if index == usize::from(inst.first_source) => {
                let (old, exec) = (*value, self.exec());
                for (lane, word) in value.iter_mut().enumerate() {
                    let from = dpp.source[lane];
                    let valid = from != 255 && exec >> from & 1 == 1;
                    *word = if valid { old[usize::from(from)] } else { 0 };
                }
            }
            Some(Select::Sdwa(sdwa)) => {
                let part = sdwa.sources[index - usize::from(inst.first_source)];
                let extend = inst.operands[index].sign_extend;
                value.iter_mut().for_each(|word| *word = extract(*word, part, extend));
            }
            _ => {}
        }
    }

    /// Lanes that an instruction with DPP may write.
    fn enabled_lanes(&self, inst: &Inst) -> u64 {
        let exec = self.exec();
        let Some(Select::Dpp(dpp)) = &inst.select else { return exec };
        let mut enabled = exec & dpp.enabled;
        if !dpp.bound_zero {
            for lane in 0..LANES {
                let from = dpp.source[lane];
                if from == 255 || exec >> from & 1 == 0 {
                    enabled &= !(1 << lane);
                }
            }
        }
        enabled
    }

    /// Writes word `part` of destination `index` in the lanes that execute.
    pub fn write(&mut self, inst: &Inst, index: usize, part: usize, value: &Register) {
        let Source::Vector(register) = inst.operands[index].source else {
            return;
        };
        let enabled = if inst.select.is_some() { self.enabled_lanes(inst) } else { self.exec() };
        let destination = &mut self.vectors[(usize::from(register) + part) & 511];
        if let Some(Select::Sdwa(sdwa)) = &inst.select
            && sdwa.destination.width != 32
        {
            let merged = std::array::from_fn(|lane| insert(destination[lane], value[lane], sdwa));
            merge(destination, &merged, enabled);
            return;
        }
        merge(destination, value, enabled);
    }

    /// Writes a single float result: output multiplier, clamp and denormal handling applied.
    pub fn write_float(&mut self, inst: &Inst, index: usize, value: &mut Register) {
        if inst.modifiers.output != 0 || inst.modifiers.clamp {
            let scale = [1.0, 2.0, 4.0, 0.5][usize::from(inst.modifiers.output)];
            for word in value.iter_mut() {
                let scaled = f32::from_bits(*word) * scale;
                *word = if inst.modifiers.clamp { clamp(scaled) } else { scaled }.to_bits();
            }
        }
        if self.mode.flushes_single() {
            value.iter_mut().for_each(|word| *word = flush_denormal(*word));
        }
        self.write(inst, index, 0, value);
    }

    /// Writes a mask of lanes to a scalar pair; lanes that do not execute give 0.
    pub fn write_mask(&mut self, operand: &Operand, mask: u64) {
        let mask = mask & self.exec();
        self.set_uniform64(operand, mask);
    }
}

/// Clamps to [0, 1]; NaN gives 0.
pub(crate) fn clamp(value: f32) -> f32 {
    if value > 0.0 { value.min(1.0) } else { 0.0 }
}

pub(crate) fn flush_denormal(word: u32) -> u32 {
    if word & 0x7f80_0000 == 0 { word & 0x8000_0000 } else { word }
}

/// Applies the sign modifiers of an operand to one of its words.
fn apply_sign(operand: &Operand, float: Float, part: usize, value: &mut Register) {
    let sign = match float {
        Float::Single => 1 << 31,
        Float::Half => 1 << 15,
        Float::Double => u32::from(part == 1) << 31,
    };
    if operand.absolute {
        value.iter_mut().for_each(|word| *word &= !sign);
    }
    if operand.negate {
        value.iter_mut().for_each(|word| *word ^= sign);
    }
}

fn merge(destination: &mut Register, value: &Register, enabled: u64) {
    if enabled == u64::MAX {
        *destination = *value;
        return;
    }
    for lane in 0..LANES {
        if enabled >> lane & 1 == 1 {
            destination[lane] = value[lane];
        }
    }
}

fn extract(word: u32, part: Part, sign_extend: bool) -> u32 {
    if part.width == 32 {
        return word;
    }
    let above = 32 - u32::from(part.width);
    let moved = word >> part.shift << above;
    if sign_extend { (moved as i32 >> above) as u32 } else { moved >> above }
}

fn insert(old: u32, value: u32, sdwa: &Sdwa) -> u32 {
    let Part { shift, width } = sdwa.destination;
    let mask = ((1u32 << width) - 1) << shift;
    let placed = value << shift & mask;
    match sdwa.unused {
        Unused::Zero => placed,
        Unused::Preserve => old & !mask | placed,
        Unused::SignExtend => {
            let above = 32 - u32::from(width) - u32::from(shift);
            ((placed << above) as i32 >> above) as u32
        }
    }
}
