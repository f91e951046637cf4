//! Baseline and progressive JPEG (ITU-T T.81), decoded with the arithmetic that image libraries agree on: an accurate
//! integer inverse DCT, triangle-filtered chroma and 16-bit fixed-point colour conversion, so that results are exact.

mod entropy;
mod pixels;

use self::entropy::{Huffman, Scan};
use crate::error::{OpError, Result};

/// Pixels that an image may have, so that a few bytes cannot ask for all memory.
const MAX_PIXELS: usize = 1 << 28;

/// Interleaved RGB of an image.
pub struct Image {
    pub width: usize,
    pub height: usize,
    pub rgb: Vec<u8>,
}

/// One colour component and its quantized coefficients.
struct Component {
    id: u8,
    /// Sampling factors, horizontal and vertical.
    sampling: [usize; 2],
    quantization: usize,
    /// Blocks of the padded plane, and those that hold pixels.
    blocks: [usize; 2],
    used_blocks: [usize; 2],
    /// Samples across and down that hold pixels.
    size: [usize; 2],
    coefficients: Vec<[i16; 64]>,
}

/// The image as the frame header describes it.
struct Frame {
    width: usize,
    height: usize,
    progressive: bool,
    max_sampling: [usize; 2],
    components: Vec<Component>,
}

/// What the markers have set so far.
#[derive(Default)]
struct Tables {
    quantization: [Option<[u16; 64]>; 4],
    dc: [Option<Huffman>; 4],
    ac: [Option<Huffman>; 4],
    restart_interval: usize,
    /// The colour transform that an Adobe marker names.
    adobe_transform: Option<u8>,
}

/// Positions of the coefficients in the order they are coded.
const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7,
    14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39,
    46, 53, 60, 61, 54, 47, 55, 62, 63,
];

fn broken(what: &str) -> OpError {
    OpError::invalid(format!("cannot decode the JPEG image: {what}"))
}

/// Decodes a stream that starts with a JPEG marker. Errors of kind `Unsupported` name a coding that is left to others.
pub fn decode(stream: &[u8]) -> Result<Image> {
    let mut tables = Tables::default();
    let mut frame: Option<Frame> = None;
    let mut rest = stream.get(2..).unwrap_or(&[]);
    loop {
        let (marker, after) = next_marker(rest)?;
        if marker == 0xD9 {
            break;
        }
        let length = after.get(..2).map(|b| usize::from(u16::from_be_bytes([b[0], b[1]])));
        let segment = length
            .filter(|&n| n >= 2)
            .and_then(|n| after.get(2..n))
            .ok_or_else(|| broken("it ends inside a segment"))?;
        rest = &after[segment.len() + 2..];
        match marker {
            0xC0..=0xC2 if frame.is_none() => frame = Some(Frame::parse(segment, marker == 0xC2)?),
            0xC4 => tables.parse_huffman(segment)?,
            0xC0..=0xCF if marker != 0xC8 => {
                return Err(OpError::unsupported("a JPEG coding other than Huffman DCT"));
            }
            0xDB => tables.parse_quantization(segment)?,
            0xDD => tables.restart_interval = usize::from(be16(segment, 0)?),
            0xEE if segment.starts_with(b"Adobe") => tables.adobe_transform = segment.get(11).copied(),
            0xDA => {
                let frame = frame.as_mut().ok_or_else(|| broken("a scan comes before the frame"))?;
                rest = Scan::parse(segment, frame)?.decode(frame, &tables, rest)?;
            }
            _ => {}
        }
    }
    let frame = frame.ok_or_else(|| broken("it has no frame"))?;
    let rgb = pixels::to_rgb(&frame, &tables)?;
    Ok(Image { width: frame.width, height: frame.height, rgb })
}

/// The next marker and what follows it; anything before it is skipped. A missing end marker counts as one.
fn next_marker(mut bytes: &[u8]) -> Result<(u8, &[u8])> {
    loop {
        match bytes {
            [0xFF, marker @ 0x01..=0xFE, rest @ ..] => return Ok((*marker, rest)),
            [_, rest @ ..] => bytes = rest,
            [] => return Ok((0xD9, &[])),
        }
    }
}

fn be16(bytes: &[u8], at: usize) -> Result<u16> {
    let pair = bytes.get(at..at + 2).ok_or_else(|| broken("a segment is too short"))?;
    Ok(u16::from_be_bytes([pair[0], pair[1]]))
}

impl Tables {
    fn parse_quantization(&mut self, mut segment: &[u8]) -> Result<()> {
        while let [head, rest @ ..] = segment {
            let (wide, index) = (usize::from(head >> 4 != 0), usize::from(head & 15));
            let bytes = rest.get(..64 << wide).ok_or_else(|| broken("a quantization table is too short"))?;
            let slot =
                self.quantization.get_mut(index).ok_or_else(|| broken("a table has no such number"))?;
            let mut table = [0; 64];
            for (i, &at) in ZIGZAG.iter().enumerate() {
                table[usize::from(at)] = if wide == 1 { be16(bytes, 2 * i)? } else { u16::from(bytes[i]) };
            }
            *slot = Some(table);
            segment = &rest[64 << wide..];
        }
        Ok(())
    }

    fn parse_huffman(&mut self, mut segment: &[u8]) -> Result<()> {
        while let [head, rest @ ..] = segment {
            let (counts, rest) =
                rest.split_at_checked(16).ok_or_else(|| broken("a Huffman table is too short"))?;
            let total: usize = counts.iter().map(|&count| usize::from(count)).sum();
            let (values, rest) =
                rest.split_at_checked(total).ok_or_else(|| broken("a Huffman table is too short"))?;
            let class = if head >> 4 == 0 { &mut self.dc } else { &mut self.ac };
            let slot =
                class.get_mut(usize::from(head & 15)).ok_or_else(|| broken("a table has no such number"))?;
            *slot = Some(Huffman::new(counts, values)?);
            segment = rest;
        }
        Ok(())
    }
}

impl Frame {
    fn parse(segment: &[u8], progressive: bool) -> Result<Frame> {
        let (height, width) = (usize::from(be16(segment, 1)?), usize::from(be16(segment, 3)?));
        let count = usize::from(*segment.get(5).ok_or_else(|| broken("the frame is too short"))?);
        if segment[0] != 8 || !matches!(count, 1 | 3) {
            return Err(OpError::unsupported(format!(
                "a JPEG image of {} bits and {count} components",
                segment[0]
            )));
        }
        if width == 0 || height == 0 || width * height > MAX_PIXELS {
            return Err(broken(&format!("its size is {width} x {height}")));
        }
        let specifications = segment.get(6..6 + 3 * count).ok_or_else(|| broken("the frame is too short"))?;
        let factors =
            specifications.chunks_exact(3).map(|c| [usize::from(c[1] >> 4), usize::from(c[1] & 15)]);
        if factors.clone().flatten().any(|factor| !(1..=4).contains(&factor)) {
            return Err(broken("its sampling factors are not 1 to 4"));
        }
        let largest = |i: usize| factors.clone().map(|f| f[i]).max().unwrap_or(1);
        let max = [largest(0), largest(1)];
        let units = [width.div_ceil(8 * max[0]), height.div_ceil(8 * max[1])];
        let component = |(c, sampling): (&[u8], [usize; 2])| {
            let size = [(width * sampling[0]).div_ceil(max[0]), (height * sampling[1]).div_ceil(max[1])];
            let blocks = [units[0] * sampling[0], units[1] * sampling[1]];
            Component {
                id: c[0],
                sampling,
                quantization: usize::from(c[2] & 3),
                blocks,
                used_blocks: size.map(|samples| samples.div_ceil(8)),
                size,
                coefficients: vec![[0; 64]; blocks[0] * blocks[1]],
            }
        };
        let components = specifications.chunks_exact(3).zip(factors.clone()).map(component).collect();
        Ok(Frame { width, height, progressive, max_sampling: max, components })
    }
}
