//! The disassembler's text taken apart: mnemonic, operands, modifiers.

use crate::inst::{Operand, Source};

/// An instruction's text in parts.
pub(crate) struct Text<'a> {
    pub mnemonic: &'a str,
    pub operands: Vec<&'a str>,
    /// `name:value`, or a bare `name` with an empty value.
    pub modifiers: Vec<(&'a str, &'a str)>,
}

/// The float type that decides what a constant such as `1.0` means and where a sign is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Float {
    #[default]
    Single,
    Half,
    Double,
}

impl<'a> Text<'a> {
    /// Operands are separated by commas outside brackets; modifiers follow the last operand after blanks.
    pub fn parse(line: &'a str) -> Text<'a> {
        let (mnemonic, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let mut text = Text { mnemonic, operands: Vec::new(), modifiers: Vec::new() };
        for part in split(rest, ',') {
            let mut words = split(part.trim(), ' ').into_iter().filter(|word| !word.is_empty());
            let Some(first) = words.next() else { continue };
            if text.operands.is_empty() && is_modifier(first) {
                text.modifiers.push(split_modifier(first));
            } else {
                text.operands.push(first);
            }
            text.modifiers.extend(words.map(split_modifier));
        }
        text
    }

    /// The value of a modifier; empty when it is bare.
    pub fn modifier(&self, name: &str) -> Option<&'a str> {
        self.modifiers.iter().find(|(found, _)| *found == name).map(|(_, value)| *value)
    }

    pub fn has(&self, name: &str) -> bool {
        self.modifier(name).is_some()
    }
}

/// True for instructions such as `s_waitcnt` whose only words are modifiers.
fn is_modifier(word: &str) -> bool {
    word.contains("cnt(")
}

fn split_modifier(word: &str) -> (&str, &str) {
    if let Some((name, value)) = word.split_once(':') {
        return (name, value);
    }
    match word.strip_suffix(')').and_then(|open| open.split_once('(')) {
        Some((name, value)) => (name, value),
        None => (word, ""),
    }
}

/// Splits at a separator that is outside brackets and parentheses.
fn split(text: &str, separator: char) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '[' | '(' => depth += 1,
            ']' | ')' => depth -= 1,
            _ if c == separator && depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// A number in decimal or hexadecimal.
pub(crate) fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let value = match digits.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok()? as i64,
        None => digits.parse().ok()?,
    };
    Some(if negative { -value } else { value })
}

/// The list of bits in `[1,0,1]`, first element in bit 0.
pub(crate) fn bits(text: &str) -> u8 {
    let elements = text.trim_matches(['[', ']']).split(',');
    elements.enumerate().fold(0, |bits, (at, element)| bits | u8::from(element == "1") << at)
}

/// An operand; `None` for text that is none, such as `off`.
pub(crate) fn operand(text: &str, float: Float) -> Option<Operand> {
    // A literal that could be an inline constant is printed with its form.
    let mut text = inside(text, "lit").unwrap_or(text);
    let mut operand = Operand::default();
    if let Some(value) = constant(text, float) {
        operand.source = Source::Constant(value);
        return Some(operand);
    }
    loop {
        if let Some(rest) = text.strip_prefix('-') {
            (operand.negate, text) = (true, rest);
        } else if let Some(rest) = text.strip_prefix('|').and_then(|rest| rest.strip_suffix('|')) {
            (operand.absolute, text) = (true, rest);
        } else if let Some(rest) = inside(text, "neg") {
            (operand.negate, text) = (true, rest);
        } else if let Some(rest) = inside(text, "abs") {
            (operand.absolute, text) = (true, rest);
        } else if let Some(rest) = inside(text, "sext") {
            (operand.sign_extend, text) = (true, rest);
        } else {
            break;
        }
    }
    if let Some(value) = constant(text, float) {
        operand.source = Source::Constant(value);
        return Some(operand);
    }
    (operand.source, operand.count) = register(text)?;
    Some(operand)
}

fn inside<'a>(text: &'a str, function: &str) -> Option<&'a str> {
    text.strip_prefix(function)?.strip_prefix('(')?.strip_suffix(')')
}

/// A constant as the 64 bits an operand of the float type sees.
fn constant(text: &str, float: Float) -> Option<u64> {
    if let Some(value) = integer(text) {
        // A literal of a 64-bit float is its upper half; inline integers are small.
        let is_literal = text.starts_with("0x");
        return Some(match (is_literal, float) {
            (true, Float::Double) => (value as u64) << 32,
            (true, _) => value as u64,
            (false, _) => value as u64,
        });
    }
    let value: f64 = if text.contains('.') { text.parse().ok()? } else { return None };
    let reciprocal_of_two_pi = text.starts_with("0.15915");
    Some(match float {
        Float::Double if reciprocal_of_two_pi => 0x3fc4_5f30_6dc9_c882,
        Float::Double => value.to_bits(),
        Float::Single if reciprocal_of_two_pi => 0x3e22_f983,
        Float::Single => u64::from((value as f32).to_bits()),
        Float::Half => u64::from(half::f16::from_f64(value).to_bits()),
    })
}

fn register(text: &str) -> Option<(Source, u8)> {
    let special = match text {
        "vcc" => (Source::Scalar(106), 2),
        "vcc_lo" => (Source::Scalar(106), 1),
        "vcc_hi" => (Source::Scalar(107), 1),
        "exec" => (Source::Scalar(126), 2),
        "exec_lo" => (Source::Scalar(126), 1),
        "exec_hi" => (Source::Scalar(127), 1),
        "m0" => (Source::Scalar(124), 1),
        "flat_scratch" => (Source::Scalar(102), 2),
        "flat_scratch_lo" => (Source::Scalar(102), 1),
        "flat_scratch_hi" => (Source::Scalar(103), 1),
        "xnack_mask" => (Source::Scalar(104), 2),
        "scc" | "src_scc" => (Source::Scc, 1),
        "vccz" | "src_vccz" => (Source::Vccz, 1),
        "execz" | "src_execz" => (Source::Execz, 1),
        "src_shared_base" => (Source::Constant(crate::wave::SHARED_BASE), 2),
        "src_shared_limit" => (Source::Constant(crate::wave::SHARED_BASE | 0xffff_ffff), 2),
        "src_private_base" => (Source::Constant(crate::wave::PRIVATE_BASE), 2),
        "src_private_limit" => (Source::Constant(crate::wave::PRIVATE_BASE | 0xffff_ffff), 2),
        _ => (Source::None, 0),
    };
    if special.0 != Source::None {
        return Some(special);
    }
    let (file, numbers) = if let Some(rest) = text.strip_prefix("ttmp") {
        ('t', rest)
    } else {
        (text.chars().next()?, text.get(1..)?)
    };
    let (first, count) = match numbers.strip_prefix('[').and_then(|n| n.strip_suffix(']')) {
        Some(range) => {
            let (first, last) = range.split_once(':')?;
            let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
            (first, u8::try_from(last.checked_sub(first)? + 1).ok()?)
        }
        None => (numbers.parse().ok()?, 1),
    };
    let source = match file {
        'v' if first < 256 => Source::Vector(first),
        'a' if first < 256 => Source::Vector(256 + first),
        's' if first < 106 => Source::Scalar(first as u8),
        't' if first < 16 => Source::Scalar(108 + first as u8),
        _ => return None,
    };
    Some((source, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands_and_modifiers_are_told_apart() {
        let text = Text::parse("v_mfma_scale_f32_16x16x128_f8f6f4 v[0:3], a[4:5], -|v7| op_sel:[1,0] cbsz:4");
        assert_eq!(text.operands, ["v[0:3]", "a[4:5]", "-|v7|"]);
        assert_eq!(text.modifiers, [("op_sel", "[1,0]"), ("cbsz", "4")]);
        let wait = Text::parse("s_waitcnt vmcnt(3) lgkmcnt(0)");
        assert_eq!((wait.operands.len(), wait.modifier("vmcnt")), (0, Some("3")));
        let hwreg = Text::parse("s_setreg_imm32_b32 hwreg(HW_REG_MODE, 4, 2), 3");
        assert_eq!(hwreg.operands, ["hwreg(HW_REG_MODE, 4, 2)", "3"]);
    }

    #[test]
    fn constants_follow_the_float_type() {
        let of = |text, float| operand(text, float).map(|operand| operand.source);
        assert_eq!(of("1.0", Float::Single), Some(Source::Constant(0x3f80_0000)));
        assert_eq!(of("1.0", Float::Half), Some(Source::Constant(0x3c00)));
        assert_eq!(of("-4.0", Float::Double), Some(Source::Constant((-4f64).to_bits())));
        assert_eq!(of("0x40080000", Float::Double), Some(Source::Constant(3f64.to_bits())));
        assert_eq!(of("-1", Float::Single), Some(Source::Constant(u64::MAX)));
        assert_eq!(of("lit(0xffffffff)", Float::Single), Some(Source::Constant(0xffff_ffff)));
        assert_eq!(of("off", Float::Single), None);
    }

    #[test]
    fn registers_have_ranges_and_signs() {
        let operand = operand("-|a[4:7]|", Float::Single).expect("an operand");
        assert_eq!((operand.source, operand.count), (Source::Vector(260), 4));
        assert!(operand.negate && operand.absolute);
    }
}
