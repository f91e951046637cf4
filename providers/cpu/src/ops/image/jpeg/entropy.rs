//! Entropy-coded scans: Huffman codes to coefficients.

use super::{Component, Frame, Tables, ZIGZAG, broken};
use crate::error::Result;

/// A Huffman table, decoded a bit at a time by code length.
pub struct Huffman {
    /// For each length: the first code, and the index of its value; `count` codes follow.
    lengths: [(u32, u32, u32); 16],
    values: Vec<u8>,
}

impl Huffman {
    /// `counts[i]` codes have `i + 1` bits.
    pub fn new(counts: &[u8], values: &[u8]) -> Result<Huffman> {
        let (mut code, mut index) = (0u32, 0u32);
        let mut lengths = [(0, 0, 0); 16];
        for (i, (slot, &count)) in lengths.iter_mut().zip(counts).enumerate() {
            let count = u32::from(count);
            if code + count > 1 << (i + 1) {
                return Err(broken("a Huffman table has too many codes"));
            }
            *slot = (code, index, count);
            code = (code + count) << 1;
            index += count;
        }
        Ok(Huffman { lengths, values: values.to_vec() })
    }
}

/// The bits of a scan up to the next marker; zeros follow its end.
struct Bits<'a> {
    bytes: &'a [u8],
    buffer: u32,
    available: u32,
    /// Bytes made up after the end.
    missing: usize,
}

impl<'a> Bits<'a> {
    fn new(bytes: &'a [u8]) -> Bits<'a> {
        Bits { bytes, buffer: 0, available: 0, missing: 0 }
    }

    fn fill(&mut self) {
        while self.available <= 24 {
            let byte = match self.bytes {
                [0xFF, 0x00, rest @ ..] => {
                    self.bytes = rest;
                    0xFF
                }
                [0xFF, ..] | [] => {
                    self.missing += 1;
                    0
                }
                [byte, rest @ ..] => {
                    self.bytes = rest;
                    *byte
                }
            };
            self.buffer |= u32::from(byte) << (24 - self.available);
            self.available += 8;
        }
    }

    /// The next `count` bits, at most 16.
    fn take(&mut self, count: u32) -> u32 {
        if count == 0 {
            return 0;
        }
        if self.available < count {
            self.fill();
        }
        let value = self.buffer >> (32 - count);
        self.buffer <<= count;
        self.available -= count;
        value
    }

    fn symbol(&mut self, table: &Huffman) -> Result<u8> {
        if self.available < 16 {
            self.fill();
        }
        for (length, &(first, index, count)) in (1..).zip(&table.lengths) {
            let code = self.buffer >> (32 - length);
            if code.wrapping_sub(first) < count {
                self.take(length);
                return Ok(table.values[(index + code - first) as usize]);
            }
        }
        Err(broken("a Huffman code is not in its table"))
    }

    /// A value of `size` bits in JPEG's signed form.
    fn signed(&mut self, size: u32) -> i32 {
        let value = self.take(size) as i32;
        if size > 0 && value < 1 << (size - 1) { value - (1 << size) + 1 } else { value }
    }

    /// True when much more was read than is there.
    fn is_exhausted(&self) -> bool {
        self.missing > 64
    }

    /// Goes on behind the next restart marker.
    fn restart(&mut self) -> Result<()> {
        let at = self.bytes.windows(2).position(|pair| pair[0] == 0xFF && (0xD0..=0xD7).contains(&pair[1]));
        let at = at.ok_or_else(|| broken("a restart marker is missing"))?;
        *self = Bits::new(&self.bytes[at + 2..]);
        Ok(())
    }
}

/// One scan: which components, which coefficients, which bits of them.
pub struct Scan {
    /// Component, DC table and AC table.
    parts: Vec<(usize, usize, usize)>,
    first: usize,
    last: usize,
    /// The bits before these were coded by earlier scans; 0 for none.
    high: u32,
    low: u32,
}

impl Scan {
    pub fn parse(segment: &[u8], frame: &Frame) -> Result<Scan> {
        let short = || broken("a scan header is too short");
        let count = usize::from(*segment.first().ok_or_else(short)?);
        let parts = segment.get(1..1 + 2 * count).ok_or_else(short)?;
        let &[first, last, bits, ..] = segment.get(1 + 2 * count..).ok_or_else(short)? else {
            return Err(short());
        };
        let part = |pair: &[u8]| {
            let at = frame.components.iter().position(|component| component.id == pair[0]);
            let at = at.ok_or_else(|| broken("a scan names a component that is not there"))?;
            Ok((at, usize::from(pair[1] >> 4 & 3), usize::from(pair[1] & 3)))
        };
        let parts = parts.chunks_exact(2).map(part).collect::<Result<Vec<_>>>()?;
        let (first, last, high, low) = match frame.progressive {
            true => (usize::from(first), usize::from(last), u32::from(bits >> 4), u32::from(bits & 15)),
            false => (0, 63, 0, 0),
        };
        let valid = first <= last && last < 64 && low < 14 && (first > 0 || last == 0 || !frame.progressive);
        if !valid || parts.is_empty() || (first > 0 && parts.len() != 1) {
            return Err(broken("a scan header is not valid"));
        }
        Ok(Scan { parts, first, last, high, low })
    }

    /// Decodes the scan into the frame's coefficients and returns what follows it.
    pub fn decode<'a>(&self, frame: &mut Frame, tables: &Tables, bytes: &'a [u8]) -> Result<&'a [u8]> {
        let mut bits = Bits::new(bytes);
        let mut state = State { predictions: [0; 4], run: 0 };
        let max = frame.max_sampling;
        let units = match self.parts.as_slice() {
            &[(only, ..)] => frame.components[only].used_blocks,
            _ => [frame.width.div_ceil(8 * max[0]), frame.height.div_ceil(8 * max[1])],
        };
        for unit in 0..units[0] * units[1] {
            if tables.restart_interval > 0 && unit > 0 && unit % tables.restart_interval == 0 {
                bits.restart()?;
                state = State { predictions: [0; 4], run: 0 };
            }
            let at = [unit % units[0], unit / units[0]];
            for &(index, dc, ac) in &self.parts {
                let component = &mut frame.components[index];
                let [across, down] = if self.parts.len() == 1 { [1, 1] } else { component.sampling };
                for (y, x) in (0..down).flat_map(|y| (0..across).map(move |x| (y, x))) {
                    let block = component.block([at[0] * across + x, at[1] * down + y]);
                    self.decode_block(
                        &mut bits,
                        &mut state,
                        frame.progressive,
                        index,
                        (tables.dc[dc].as_ref(), tables.ac[ac].as_ref()),
                        block,
                    )?;
                }
            }
            if bits.is_exhausted() {
                return Err(broken("it ends inside a scan"));
            }
        }
        Ok(bits.bytes)
    }

    fn decode_block(
        &self,
        bits: &mut Bits<'_>,
        state: &mut State,
        progressive: bool,
        component: usize,
        (dc, ac): (Option<&Huffman>, Option<&Huffman>),
        block: &mut [i16; 64],
    ) -> Result<()> {
        let missing = || broken("a scan uses a Huffman table that is not there");
        if self.first == 0 && self.high > 0 {
            block[0] |= (bits.take(1) << self.low) as i16;
            return Ok(());
        }
        if self.first == 0 {
            let size = u32::from(bits.symbol(dc.ok_or_else(missing)?)?);
            if size > 15 {
                return Err(broken("a coefficient is too large"));
            }
            let value = state.predictions[component].wrapping_add(bits.signed(size));
            state.predictions[component] = value;
            block[0] = (value << self.low) as i16;
        }
        if self.last == 0 {
            return Ok(());
        }
        let ac = ac.ok_or_else(missing)?;
        match (progressive, self.high) {
            (false, _) => self.decode_run(bits, &mut 0, ac, 1, block),
            (true, 0) => self.decode_run(bits, &mut state.run, ac, self.first, block),
            (true, _) => self.refine(bits, &mut state.run, ac, block),
        }
    }

    /// The first bits of the coefficients `first ..= self.last`. `skip` counts blocks that are known to have none.
    fn decode_run(
        &self,
        bits: &mut Bits<'_>,
        skip: &mut u32,
        ac: &Huffman,
        first: usize,
        block: &mut [i16; 64],
    ) -> Result<()> {
        if *skip > 0 {
            *skip -= 1;
            return Ok(());
        }
        let mut k = first;
        while k <= self.last {
            let symbol = bits.symbol(ac)?;
            let (zeros, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
            if size == 0 {
                if zeros < 15 {
                    *skip = (1 << zeros) - 1 + bits.take(zeros);
                    return Ok(());
                }
                k += 16;
                continue;
            }
            k += zeros as usize;
            let at = *ZIGZAG.get(k).ok_or_else(|| broken("a block has too many coefficients"))?;
            block[usize::from(at)] = (bits.signed(size) << self.low) as i16;
            k += 1;
        }
        Ok(())
    }

    /// One more bit of coefficients that earlier scans began, and those that start with this bit.
    fn refine(&self, bits: &mut Bits<'_>, skip: &mut u32, ac: &Huffman, block: &mut [i16; 64]) -> Result<()> {
        let step = 1i16 << self.low;
        let mut k = self.first;
        while *skip == 0 && k <= self.last {
            let symbol = bits.symbol(ac)?;
            let (mut zeros, size) = (symbol >> 4, symbol & 15);
            let value = match (size, bits_if(size > 0, bits)) {
                (0, _) if zeros < 15 => {
                    *skip = (1 << zeros) + bits.take(u32::from(zeros));
                    break;
                }
                (0, _) => 0,
                (_, 1) => step,
                _ => -step,
            };
            // `zeros` coefficients that are still zero are passed over; the others take a bit each on the way.
            while k <= self.last {
                let coefficient = &mut block[usize::from(ZIGZAG[k])];
                k += 1;
                if *coefficient != 0 {
                    correct(bits, coefficient, step);
                } else if zeros > 0 {
                    zeros -= 1;
                } else {
                    *coefficient = value;
                    break;
                }
            }
        }
        if *skip > 0 {
            for &at in &ZIGZAG[k..=self.last] {
                let coefficient = &mut block[usize::from(at)];
                if *coefficient != 0 {
                    correct(bits, coefficient, step);
                }
            }
            *skip -= 1;
        }
        Ok(())
    }
}

/// What carries over from block to block.
struct State {
    predictions: [i32; 4],
    run: u32,
}

fn bits_if(wanted: bool, bits: &mut Bits<'_>) -> u32 {
    if wanted { bits.take(1) } else { 0 }
}

/// Adds the next bit of a coefficient, away from zero.
fn correct(bits: &mut Bits<'_>, coefficient: &mut i16, step: i16) {
    if bits.take(1) == 1 && *coefficient & step == 0 {
        *coefficient += if *coefficient > 0 { step } else { -step };
    }
}

impl Component {
    fn block(&mut self, at: [usize; 2]) -> &mut [i16; 64] {
        &mut self.coefficients[at[1] * self.blocks[0] + at[0]]
    }
}
