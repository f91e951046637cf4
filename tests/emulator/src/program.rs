//! Decoding: from the disassembler's text to instructions ready to execute.

use crate::disassemble::{Line, disassemble};
use crate::error::{Kind, Outcome, Result, fault};
use crate::execute::{self, Machine, Operation, Shape};
use crate::inst::{
    Class, Dpp, FIRST_SCALAR, Inst, Modifiers, Operand, Part, Range, Sdwa, Select, Unused, Wait,
};
use crate::matrix::Matrix;
use crate::syntax::{self, Float, Text, bits, integer};
use crate::target::Target;

/// The instructions of one kernel.
pub(crate) struct Program {
    pub instructions: Vec<Inst>,
    /// Where execution starts.
    pub entry: usize,
    /// The least number of LDS bytes that one of its instructions writes: 1, 2 or 4.
    pub granule: u32,
    pub has_direct_loads: bool,
    /// Architectural and accumulation registers that its instructions name, counted from 0.
    pub registers: [usize; 2],
}

/// Modifiers that are modelled, or that only matter to caches.
const KNOWN: &[&str] = &[
    "abid",
    "bank_mask",
    "bitop3",
    "blgp",
    "bound_ctrl",
    "cbsz",
    "clamp",
    "div",
    "dst_sel",
    "dst_unused",
    "glc",
    "expcnt",
    "idxen",
    "lds",
    "lgkmcnt",
    "mul",
    "neg_hi",
    "neg_lo",
    "nt",
    "offen",
    "offset",
    "offset0",
    "offset1",
    "op_sel",
    "op_sel_hi",
    "quad_perm",
    "row_bcast",
    "row_half_mirror",
    "row_mask",
    "row_mirror",
    "row_newbcast",
    "row_ror",
    "row_shl",
    "row_shr",
    "sc0",
    "sc1",
    "slc",
    "src0_sel",
    "src1_sel",
    "vmcnt",
    "wave_rol",
    "wave_ror",
    "wave_shl",
    "wave_shr",
];

impl Program {
    /// Decodes functions, each its code and address; execution starts at the first one. Instructions that are not modelled fail when they are executed.
    pub fn decode(functions: &[(&[u8], u64)], target: Target) -> Result<Program> {
        let mut program = Program {
            instructions: Vec::new(),
            entry: 0,
            granule: 4,
            has_direct_loads: false,
            registers: [0; 2],
        };
        for (code, address) in functions {
            for line in &disassemble(code, *address, target)? {
                let (inst, operation) = decode_line(line, target);
                program.granule = program.granule.min(u32::from(operation.granule));
                program.has_direct_loads |= inst.class == Class::DirectToLds;
                program.note_registers(&inst);
                program.instructions.push(inst);
            }
        }
        program.instructions.sort_by_key(|inst| inst.address);
        program.entry = functions.first().and_then(|(_, address)| program.index_of(*address)).unwrap_or(0);
        program.resolve_branches();
        Ok(program)
    }

    /// Some instruction calls another function.
    pub fn has_calls(&self) -> bool {
        self.instructions.iter().any(|inst| inst.text.starts_with("s_swappc_b64"))
    }

    fn note_registers(&mut self, inst: &Inst) {
        for range in inst.reads.iter().chain(&inst.writes) {
            let end = usize::from(range.first) + usize::from(range.count);
            match range.first {
                0..256 => self.registers[0] = self.registers[0].max(end.min(256)),
                256..FIRST_SCALAR => self.registers[1] = self.registers[1].max(end.min(512) - 256),
                _ => {}
            }
        }
        // Indexed registers may be any.
        if inst.text.starts_with("s_set_gpr_idx") {
            self.registers = [256; 2];
        }
    }

    /// Turns branch targets from addresses to indices; a target outside the function becomes the end.
    fn resolve_branches(&mut self) {
        for at in 0..self.instructions.len() {
            let inst = &self.instructions[at];
            if inst.class != Class::Branch
                || !inst.text.starts_with("s_branch") && !inst.text.starts_with("s_cbranch")
            {
                continue;
            }
            let words = i64::from(inst.immediate as u16 as i16);
            let target = inst.next.wrapping_add((4 * words) as u64);
            let index = self.index_of(target).unwrap_or(self.instructions.len());
            self.instructions[at].immediate = index as u32;
        }
    }

    pub fn index_of(&self, address: u64) -> Option<usize> {
        self.instructions.binary_search_by_key(&address, |inst| inst.address).ok()
    }

    /// An instruction's address and text.
    pub fn describe(&self, index: u32) -> String {
        match self.instructions.get(index as usize) {
            Some(inst) => format!("{:#x}: {}", inst.address, inst.text),
            None => "the end of the code".to_string(),
        }
    }
}

/// Fails, naming the instruction's mnemonic.
pub(crate) fn unsupported(_: &mut Machine<'_>, i: &Inst) -> Outcome {
    let mnemonic = i.text.split_whitespace().next().unwrap_or_default();
    Err(fault(Kind::Unsupported, format!("`{mnemonic}` or one of its modifiers is not modelled")))
}

fn decode_line(line: &Line, target: Target) -> (Inst, Operation) {
    let text = Text::parse(&line.text);
    let name = base_name(text.mnemonic);
    let known =
        text.modifiers.iter().all(|(modifier, _)| KNOWN.contains(modifier) || is_flag(name, modifier));
    let found = execute::lookup(name, &text).filter(|_| known);
    let mut operation = found.unwrap_or(Operation::new(Class::Scalar, Shape::NoResult, unsupported));
    let float = float_of(name);
    let operands = operands(name, &text, float);
    let matrix = if operation.class == Class::Matrix {
        Matrix::parse(name, &text, target).map(Box::new)
    } else {
        None
    };
    if operation.class == Class::Matrix && matrix.is_none() {
        operation.execute = unsupported;
    }
    let select = select(text.mnemonic, &text);
    if select.is_none() && (text.mnemonic.contains("_dpp") || text.mnemonic.contains("_sdwa")) {
        operation.execute = unsupported;
    }
    let (reads, writes) = usage(&operation, &operands);
    let inst = Inst {
        execute: operation.execute,
        operands,
        modifiers: modifiers(name, &text),
        offsets: offsets(&text),
        immediate: immediate(name, &text),
        width: operation.width,
        float,
        class: operation.class,
        flushes: operation.flushes,
        queue: operation.queue,
        first_source: if operation.shape == Shape::TwoResults { 2 } else { 1 },
        wait: Wait { vector: counter(&text, "vmcnt", 63), lgkm: counter(&text, "lgkmcnt", 15) },
        select,
        matrix,
        reads,
        writes,
        address: line.address,
        next: line.address + u64::from(line.bytes),
        text: line.text.as_str().into(),
    };
    (inst, operation)
}

/// Words that some instructions print as modifiers although they are part of an immediate.
fn is_flag(name: &str, _modifier: &str) -> bool {
    matches!(name, "s_sendmsg" | "s_waitcnt_depctr")
}

/// The mnemonic without its encoding.
fn base_name(mnemonic: &str) -> &str {
    ["_e64_dpp", "_dpp", "_sdwa", "_e32", "_e64"]
        .iter()
        .find_map(|suffix| mnemonic.strip_suffix(suffix))
        .unwrap_or(mnemonic)
}

fn float_of(name: &str) -> Float {
    let mixes = ["v_mfma_", "v_dot", "v_fma_mix", "v_mad_mix", "v_cvt_scalef32_"];
    if mixes.iter().any(|prefix| name.starts_with(prefix)) {
        Float::Single
    } else if name.ends_with("_f16") {
        Float::Half
    } else if name.ends_with("_f64") {
        Float::Double
    } else {
        Float::Single
    }
}

fn operands(name: &str, text: &Text<'_>, float: Float) -> [Operand; 6] {
    let mut operands = [Operand::default(); 6];
    // A constant such as 1.0 that fills 64 bits is a double; a hexadecimal literal there is an integer.
    let fractional = if name.ends_with("_b64") { Float::Double } else { float };
    for (operand, word) in operands.iter_mut().zip(&text.operands) {
        let float = if word.contains('.') { fractional } else { float };
        *operand = syntax::operand(word, float).unwrap_or_default();
    }
    operands
}

/// The registers an instruction reads and writes.
fn usage(operation: &Operation, operands: &[Operand; 6]) -> (Vec<Range>, Vec<Range>) {
    let written = match operation.shape {
        Shape::Result | Shape::Update => 0..1,
        Shape::TwoResults | Shape::Swap => 0..2,
        Shape::NoResult => 0..0,
    };
    let read = match operation.shape {
        Shape::Result => 1..6,
        Shape::TwoResults => 2..6,
        Shape::Update | Shape::Swap | Shape::NoResult => 0..6,
    };
    let ranges =
        |indices: std::ops::Range<usize>| operands[indices].iter().filter_map(Operand::range).collect();
    (ranges(read), ranges(written))
}

fn modifiers(name: &str, text: &Text<'_>) -> Modifiers {
    let list = |modifier: &str| text.modifier(modifier).map(bits);
    let packed = ["v_pk_", "v_mfma_", "v_dot", "v_fma_mix", "v_mad_mix"].iter().any(|p| name.starts_with(p));
    let mixes = name.starts_with("v_fma_mix") || name.starts_with("v_mad_mix");
    let op_sel = text.modifier("op_sel").map_or(0, |value| select_bits(value, packed));
    Modifiers {
        clamp: text.has("clamp"),
        output: match (text.modifier("mul"), text.modifier("div")) {
            (Some("2"), _) => 1,
            (Some("4"), _) => 2,
            (_, Some("2")) => 3,
            _ => 0,
        },
        op_sel,
        op_sel_hi: list("op_sel_hi").unwrap_or(if mixes { 0 } else { 7 }),
        neg_lo: list("neg_lo").unwrap_or(0),
        neg_hi: list("neg_hi").unwrap_or(0),
        returns: text.has("sc0"),
        offen: text.has("offen"),
        idxen: text.has("idxen"),
        bitop3: text.modifier("bitop3").and_then(integer).unwrap_or(0) as u8,
    }
}

/// `op_sel` as the encoding has it: the last element of a short list is the destination's, which is bit 3.
fn select_bits(value: &str, packed: bool) -> u8 {
    let list = bits(value);
    let count = value.split(',').count();
    if packed || count == 4 || count == 1 {
        return list;
    }
    let sources = list & ((1 << (count - 1)) - 1);
    sources | (list >> (count - 1) & 1) << 3
}

fn offsets(text: &Text<'_>) -> [i32; 2] {
    let number = |modifier: &str| text.modifier(modifier).and_then(integer);
    match number("offset") {
        Some(offset) => [offset as i32, 0],
        None => ["offset0", "offset1"].map(|modifier| number(modifier).unwrap_or(0) as i32),
    }
}

fn counter(text: &Text<'_>, name: &str, most: u8) -> u8 {
    text.modifier(name).and_then(integer).map_or(most, |value| value as u8)
}

/// Branch offset, lane pattern, or hardware register field.
fn immediate(name: &str, text: &Text<'_>) -> u32 {
    if name == "ds_swizzle_b32" {
        return text.modifier("offset").and_then(swizzle).unwrap_or(0x7c1f & 0x1f);
    }
    if name.starts_with("s_set_gpr_idx") {
        let list = text.operands.iter().find_map(|operand| operand.strip_prefix("gpr_idx("));
        let places = ["SRC0", "SRC1", "SRC2", "DST"].into_iter().enumerate();
        return places
            .filter(|(_, place)| list.is_some_and(|l| l.contains(place)))
            .fold(0, |mode, (at, _)| mode | 1 << at);
    }
    if name.starts_with("s_getreg") || name.starts_with("s_setreg") {
        let register = text.operands.iter().find(|operand| operand.starts_with("hwreg("));
        return register.map_or(0, |operand| hardware_register(operand));
    }
    text.operands.first().and_then(|operand| integer(operand)).unwrap_or(0) as u32
}

/// `hwreg(NAME, offset, width)` in one number; an unknown name gives register 0.
fn hardware_register(operand: &str) -> u32 {
    use execute::scalar::hardware;
    let inside = operand.trim_start_matches("hwreg(").trim_end_matches(')');
    let mut parts = inside.split(',').map(str::trim);
    let register = match parts.next().unwrap_or_default() {
        "HW_REG_MODE" => hardware::MODE,
        "HW_REG_STATUS" => hardware::STATUS,
        "HW_REG_HW_ID" => hardware::HW_ID,
        "HW_REG_LDS_ALLOC" => hardware::LDS_ALLOC,
        "HW_REG_XCC_ID" => hardware::XCC_ID,
        _ => 0,
    };
    let mut number = |otherwise| parts.next().and_then(integer).map_or(otherwise, |value| value as u32);
    let offset = number(0);
    register | offset << 6 | number(32) << 11
}

/// The 16 bits of a `ds_swizzle_b32` pattern.
fn swizzle(value: &str) -> Option<u32> {
    if let Some(number) = integer(value) {
        return Some(number as u32);
    }
    let inside = value.strip_prefix("swizzle(")?.strip_suffix(')')?;
    let parts: Vec<&str> = inside.split(',').map(|part| part.trim().trim_matches('"')).collect();
    let number = |at: usize| parts.get(at).and_then(|part| integer(part)).map(|value| value as u32);
    let masks = |and: u32, or: u32, xor: u32| and | or << 5 | xor << 10;
    Some(match *parts.first()? {
        "QUAD_PERM" => 0x8000 | number(1)? | number(2)? << 2 | number(3)? << 4 | number(4)? << 6,
        "SWAP" => masks(31, 0, number(1)?),
        "REVERSE" => masks(31, 0, number(1)? - 1),
        "BROADCAST" => masks(32 - number(1)?, number(2)?, 0),
        "BITMASK_PERM" => {
            let bit = |pattern: u32, c: char| {
                let (and, or, xor) = match c {
                    'p' => (1, 0, 0),
                    'i' => (1, 0, 1),
                    '1' => (0, 1, 0),
                    _ => (0, 0, 0),
                };
                pattern << 1 & masks(30, 30, 30) | masks(and, or, xor)
            };
            parts.get(1)?.chars().fold(0, bit)
        }
        _ => return None,
    })
}

/// Lane or part selection; `None` when there is none or it is not modelled.
fn select(mnemonic: &str, text: &Text<'_>) -> Option<Select> {
    if mnemonic.contains("_sdwa") {
        return sdwa(text).map(Select::Sdwa);
    }
    if !mnemonic.contains("_dpp") {
        return None;
    }
    let number = |modifier: &str| text.modifier(modifier).and_then(integer);
    let source = (0..64u8).map(|lane| dpp_source(text, lane)).collect::<Option<Vec<u8>>>()?;
    let (rows, banks) = (number("row_mask").unwrap_or(15), number("bank_mask").unwrap_or(15));
    let enabled = (0..64).filter(|lane| rows >> (lane / 16) & 1 == 1 && banks >> (lane / 4 % 4) & 1 == 1);
    Some(Select::Dpp(Box::new(Dpp {
        source: source.try_into().ok()?,
        enabled: enabled.fold(0, |mask, lane| mask | 1 << lane),
        bound_zero: text.has("bound_ctrl"),
    })))
}

/// The lane that `lane` reads, 255 when it is outside the row or wave.
fn dpp_source(text: &Text<'_>, lane: u8) -> Option<u8> {
    const NONE: u8 = 255;
    let (row, at) = (lane & !15, lane & 15);
    for (modifier, value) in &text.modifiers {
        let number = || integer(value).map(|value| value as u8);
        return Some(match *modifier {
            "quad_perm" => {
                let lanes: Vec<&str> = value.trim_matches(['[', ']']).split(',').collect();
                lane & !3 | integer(lanes.get(usize::from(lane & 3))?.trim())? as u8
            }
            "row_shr" => {
                if at >= number()? {
                    lane - number()?
                } else {
                    NONE
                }
            }
            "row_shl" => {
                if at + number()? < 16 {
                    lane + number()?
                } else {
                    NONE
                }
            }
            "row_ror" => row | (at + 16 - number()?) & 15,
            "row_mirror" => row | (15 - at),
            "row_half_mirror" => lane & !7 | (7 - (lane & 7)),
            "row_newbcast" => row | number()?,
            "row_bcast" if number()? == 15 => {
                if lane >= 16 {
                    row - 1
                } else {
                    NONE
                }
            }
            "row_bcast" => {
                if lane >= 32 {
                    31
                } else {
                    NONE
                }
            }
            "wave_shl" => {
                if lane < 63 {
                    lane + 1
                } else {
                    NONE
                }
            }
            "wave_shr" => {
                if lane > 0 {
                    lane - 1
                } else {
                    NONE
                }
            }
            "wave_rol" => (lane + 1) & 63,
            "wave_ror" => (lane + 63) & 63,
            _ => continue,
        });
    }
    None
}

fn sdwa(text: &Text<'_>) -> Option<Sdwa> {
    let part = |modifier: &str| {
        Some(match text.modifier(modifier).unwrap_or("DWORD") {
            "DWORD" => Part { shift: 0, width: 32 },
            "WORD_0" => Part { shift: 0, width: 16 },
            "WORD_1" => Part { shift: 16, width: 16 },
            "BYTE_0" => Part { shift: 0, width: 8 },
            "BYTE_1" => Part { shift: 8, width: 8 },
            "BYTE_2" => Part { shift: 16, width: 8 },
            "BYTE_3" => Part { shift: 24, width: 8 },
            _ => return None,
        })
    };
    let unused = match text.modifier("dst_unused").unwrap_or("UNUSED_PAD") {
        "UNUSED_PAD" => Unused::Zero,
        "UNUSED_SEXT" => Unused::SignExtend,
        "UNUSED_PRESERVE" => Unused::Preserve,
        _ => return None,
    };
    Some(Sdwa { sources: [part("src0_sel")?, part("src1_sel")?], destination: part("dst_sel")?, unused })
}
