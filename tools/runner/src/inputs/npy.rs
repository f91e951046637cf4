//! NumPy's `.npy` format: arrays of any numeric dtype, booleans and strings, read to tensors and written from them.

use std::io::{Read, Write};

use anyhow::{Context, Result, bail, ensure};
use tenon_runtime::dtype::{DType, decode_f64};
use tenon_runtime::tensor::{Tensor, byte_len, element_count};

/// The longest header that is read.
const MAX_HEADER_BYTES: usize = 1 << 20;

/// What a file says about its elements.
struct Header {
    /// NumPy's type character: `f`, `i`, `u`, `b`, `c`, `S`, `U`, `V`, ...
    kind: char,
    /// Bytes of an element.
    size: usize,
    big_endian: bool,
    column_major: bool,
    dims: Vec<usize>,
}

/// Reads one array. NumPy stores dtypes it does not know (bfloat16, float8, ...) as plain bytes; `expected`, the dtype
/// that the model wants, says what those are.
pub fn read(mut reader: impl Read, expected: Option<DType>) -> Result<Tensor> {
    let mut header = read_header(&mut reader)?;
    let column_major = header.column_major && header.dims.len() > 1;
    if column_major {
        header.dims.reverse();
    }
    let tensor = match header.kind {
        'S' | 'U' => read_strings(reader, &header)?,
        _ => read_numbers(reader, &header, expected)?,
    };
    if column_major { transposed(&tensor) } else { Ok(tensor) }
}

fn read_header(reader: &mut impl Read) -> Result<Header> {
    let prefix = take_exactly(&mut *reader, 8).context("not a .npy array")?;
    ensure!(prefix.starts_with(b"\x93NUMPY"), "not a .npy array");
    let length = match prefix[6] {
        1 => take_exactly(&mut *reader, 2)?.iter().rev().fold(0, |n, b| n << 8 | usize::from(*b)),
        2 | 3 => take_exactly(&mut *reader, 4)?.iter().rev().fold(0, |n, b| n << 8 | usize::from(*b)),
        version => bail!("version {version} of the .npy format is not known"),
    };
    ensure!(length <= MAX_HEADER_BYTES, "the .npy header of {length} bytes is too long");
    let text = String::from_utf8(take_exactly(reader, length)?).context("the .npy header is not text")?;
    parse_header(&text).with_context(|| format!("cannot understand the .npy header {}", text.trim_end()))
}

/// Parses `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
fn parse_header(text: &str) -> Result<Header> {
    let field = |name: &str| {
        let after = text.split_once(&format!("'{name}'")).map(|(_, rest)| rest.trim_start());
        after
            .and_then(|rest| rest.strip_prefix(':'))
            .map(str::trim_start)
            .with_context(|| format!("no '{name}'"))
    };
    let descr = field("descr")?;
    let descr = descr.strip_prefix('\'').and_then(|d| d.split_once('\'')).map(|(d, _)| d);
    let descr = descr.context("structured arrays are not tensors")?;
    let (order, rest) = descr.split_at_checked(1).context("the type is empty")?;
    let mut rest = rest.chars();
    let kind = rest.next().context("the type has no kind")?;
    let count: usize = rest.as_str().parse().unwrap_or(0);
    let size = if kind == 'U' { count.checked_mul(4).context("the strings are too long")? } else { count };
    let dims =
        field("shape")?.strip_prefix('(').and_then(|s| s.split_once(')')).context("the shape is no tuple")?.0;
    let dims = dims.split(',').map(str::trim).filter(|d| !d.is_empty());
    Ok(Header {
        kind,
        size,
        big_endian: order == ">",
        column_major: field("fortran_order")?.starts_with("True"),
        dims: dims.map(|d| d.trim_end_matches('L').parse()).collect::<Result<_, _>>().context("the shape")?,
    })
}

fn read_numbers(reader: impl Read, header: &Header, expected: Option<DType>) -> Result<Tensor> {
    let dtype = match (header.kind, header.size) {
        ('b', 1) => DType::Bool,
        ('i', 1) => DType::I8,
        ('i', 2) => DType::I16,
        ('i', 4) => DType::I32,
        ('i', 8) => DType::I64,
        ('u', 1) => DType::U8,
        ('u', 2) => DType::U16,
        ('u', 4) => DType::U32,
        ('u', 8) => DType::U64,
        ('f', 2) => DType::F16,
        ('f', 4) => DType::F32,
        ('f', 8) => DType::F64,
        ('c', 8) => DType::Complex64,
        ('c', 16) => DType::Complex128,
        ('V', size) => match expected {
            Some(dtype) if size > 0 && dtype.bits() == size * 8 => dtype,
            _ => bail!(
                "the array holds raw elements of {size} bytes, and the model does not say which dtype they are"
            ),
        },
        (kind, size) => bail!("arrays of NumPy type '{kind}{size}' cannot become tensors"),
    };
    let mut bytes = take_exactly(reader, byte_len(dtype, &header.dims)?)?;
    if header.big_endian {
        let part = if header.kind == 'c' { header.size / 2 } else { header.size };
        bytes.chunks_exact_mut(part).for_each(<[u8]>::reverse);
    }
    Ok(Tensor::copy_from_bytes(dtype, &header.dims, &bytes)?)
}

fn read_strings(reader: impl Read, header: &Header) -> Result<Tensor> {
    let width = header.size;
    let count = element_count(&header.dims)?;
    let total = count.checked_mul(width).context("more text than memory can hold")?;
    let bytes = take_exactly(reader, total)?;
    ensure!(width > 0 || count < MAX_HEADER_BYTES, "{count} empty strings are not a plausible array");
    let cell = |i: usize| &bytes[i * width..(i + 1) * width];
    let strings = (0..count)
        .map(|i| match header.kind {
            'S' => {
                let text = std::str::from_utf8(cell(i)).context("a string is not UTF-8")?;
                Ok(text.trim_end_matches('\0').to_owned())
            }
            _ => unicode(cell(i), header.big_endian),
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Tensor::from_strings(&header.dims, &strings)?)
}

/// Fixed-width UTF-32, padded with zeros.
fn unicode(cell: &[u8], big_endian: bool) -> Result<String> {
    let code = |c: &[u8; 4]| if big_endian { u32::from_be_bytes(*c) } else { u32::from_le_bytes(*c) };
    let codes: Vec<u32> = cell.as_chunks::<4>().0.iter().map(code).collect();
    let end = codes.iter().rposition(|c| *c != 0).map_or(0, |i| i + 1);
    codes[..end].iter().map(|c| char::from_u32(*c).context("a string holds an invalid code point")).collect()
}

fn take_exactly(reader: impl Read, wanted: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(wanted as u64).read_to_end(&mut bytes).context("cannot read the array")?;
    ensure!(bytes.len() == wanted, "the file ends after {} of {wanted} bytes", bytes.len());
    Ok(bytes)
}

/// The tensor with its axes in reverse order, which turns column-major elements into row-major ones.
fn transposed(tensor: &Tensor) -> Result<Tensor> {
    let dims: Vec<usize> = tensor.dims().iter().rev().copied().collect();
    let order = reversed_axes_order(&dims);
    if tensor.dtype() == DType::String {
        let strings: Vec<&str> = tensor.strings()?.collect();
        let moved: Vec<&str> = order.iter().map(|i| strings[*i]).collect();
        return Ok(Tensor::from_strings(&dims, &moved)?);
    }
    let width = tensor.dtype().bits() / 8;
    let mut bytes = Vec::with_capacity(tensor.byte_len());
    for i in order {
        bytes.extend_from_slice(&tensor.as_bytes()[i * width..(i + 1) * width]);
    }
    Ok(Tensor::copy_from_bytes(tensor.dtype(), &dims, &bytes)?)
}

/// For each element of a row-major array of shape `dims`, its place in the column-major one.
fn reversed_axes_order(dims: &[usize]) -> Vec<usize> {
    let mut places = vec![0];
    let mut stride = 1;
    let strides: Vec<usize> = dims
        .iter()
        .map(|d| {
            let s = stride;
            stride *= d;
            s
        })
        .collect();
    for (d, s) in dims.iter().zip(strides) {
        places = places.iter().flat_map(|p| (0..*d).map(move |i| p + i * s)).collect();
    }
    places
}

/// Writes `tensor` as one array. NumPy has no bfloat16 and no 8-bit floats: those are written as raw elements; elements
/// below one byte are widened to `int8`, `uint8` or `float32`.
pub fn write(mut writer: impl Write, tensor: &Tensor) -> Result<()> {
    let (descr, bytes) = encode(tensor)?;
    let dims: Vec<String> = tensor.dims().iter().map(|d| format!("{d},")).collect();
    let mut header =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}), }}", dims.concat());
    let prefix = 10;
    while !(prefix + header.len() + 1).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let length =
        u16::try_from(header.len()).context("the tensor has too many dimensions for a .npy header")?;
    writer.write_all(b"\x93NUMPY\x01\x00")?;
    writer.write_all(&length.to_le_bytes())?;
    writer.write_all(header.as_bytes())?;
    writer.write_all(&bytes)?;
    Ok(())
}

/// NumPy's type string and the elements in its encoding.
fn encode(tensor: &Tensor) -> Result<(String, Vec<u8>)> {
    let dtype = tensor.dtype();
    let plain = match dtype {
        DType::F16 => "<f2",
        DType::F32 => "<f4",
        DType::F64 => "<f8",
        DType::I8 => "|i1",
        DType::I16 => "<i2",
        DType::I32 => "<i4",
        DType::I64 => "<i8",
        DType::U8 => "|u1",
        DType::U16 => "<u2",
        DType::U32 => "<u4",
        DType::U64 => "<u8",
        DType::Bool => "|b1",
        DType::Complex64 => "<c8",
        DType::Complex128 => "<c16",
        DType::BF16 => "<V2",
        DType::String => return encode_strings(tensor),
        _ if dtype.bits() == 8 => "|V1",
        _ => return encode_packed(tensor),
    };
    Ok((plain.to_owned(), tensor.as_bytes().to_vec()))
}

fn encode_packed(tensor: &Tensor) -> Result<(String, Vec<u8>)> {
    let values = decode_f64(tensor.dtype(), tensor.as_bytes(), tensor.len())
        .with_context(|| format!("tensors of {} cannot be written as .npy", tensor.dtype()))?;
    Ok(match tensor.dtype() {
        DType::I4 | DType::I2 => ("|i1".into(), values.iter().map(|v| *v as i8 as u8).collect()),
        DType::U4 | DType::U2 => ("|u1".into(), values.iter().map(|v| *v as u8).collect()),
        _ => ("<f4".into(), values.iter().flat_map(|v| (*v as f32).to_le_bytes()).collect()),
    })
}

fn encode_strings(tensor: &Tensor) -> Result<(String, Vec<u8>)> {
    let strings: Vec<Vec<char>> = tensor.strings()?.map(|s| s.chars().collect()).collect();
    let width = strings.iter().map(Vec::len).max().unwrap_or(0).max(1);
    let mut bytes = Vec::with_capacity(strings.len() * width * 4);
    for s in &strings {
        for i in 0..width {
            bytes.extend_from_slice(&s.get(i).map_or(0, |c| *c as u32).to_le_bytes());
        }
    }
    Ok((format!("<U{width}"), bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(tensor: &Tensor, expected: Option<DType>) -> Tensor {
        let mut file = Vec::new();
        write(&mut file, tensor).unwrap();
        assert_eq!(file.len() % 64, (file.len() - file.iter().position(|b| *b == b'\n').unwrap() - 1) % 64);
        read(file.as_slice(), expected).unwrap()
    }

    fn array(descr: &str, fortran: bool, shape: &str, data: &[u8]) -> Vec<u8> {
        let fortran = if fortran { "True" } else { "False" };
        let header = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n");
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        file.extend_from_slice(&(header.len() as u16).to_le_bytes());
        file.extend_from_slice(header.as_bytes());
        file.extend_from_slice(data);
        file
    }

    #[test]
    fn tensors_survive_writing_and_reading() {
        let tensors = [
            Tensor::from_slice(&[2, 3], &[1.5f32, -2.0, f32::NAN, f32::INFINITY, 0.0, -0.0]).unwrap(),
            Tensor::scalar(7i64),
            Tensor::from_slice::<f64>(&[0, 4], &[]).unwrap(),
            Tensor::from_bools(&[3], &[true, false, true]).unwrap(),
            Tensor::from_slice(&[2], &[half::f16::from_f32(0.5), half::f16::from_f32(-2.0)]).unwrap(),
            Tensor::from_strings(&[2, 2], &["", "naïve", "日本", "x"]).unwrap(),
        ];
        for t in tensors {
            assert_eq!(round_trip(&t, None), t);
        }
    }

    #[test]
    fn raw_elements_take_the_dtype_of_the_model() {
        let t = Tensor::from_slice(&[2], &[half::bf16::from_f32(1.0), half::bf16::from_f32(-3.0)]).unwrap();
        assert_eq!(round_trip(&t, Some(DType::BF16)), t);
        let mut file = Vec::new();
        write(&mut file, &t).unwrap();
        assert!(read(file.as_slice(), None).unwrap_err().to_string().contains("raw elements of 2 bytes"));
        assert!(read(file.as_slice(), Some(DType::F32)).is_err());
    }

    #[test]
    fn packed_integers_are_widened() {
        let t = Tensor::copy_from_bytes(DType::I4, &[3], &[0x8f, 0x07]).unwrap();
        assert_eq!(round_trip(&t, None).to_vec::<i8>().unwrap(), [-1, -8, 7]);
    }

    #[test]
    fn column_major_arrays_are_transposed() {
        // The 2x3 matrix [[0, 1, 2], [3, 4, 5]], stored by columns.
        let file = array("<i2", true, "(2, 3)", &[0, 0, 3, 0, 1, 0, 4, 0, 2, 0, 5, 0]);
        let t = read(file.as_slice(), None).unwrap();
        assert_eq!(t.dims(), [2, 3]);
        assert_eq!(t.to_vec::<i16>().unwrap(), [0, 1, 2, 3, 4, 5]);
        let cube: Vec<u8> = (0..24).collect();
        let t = read(array("|u1", true, "(2, 3, 4)", &cube).as_slice(), None).unwrap();
        let values = t.to_vec::<u8>().unwrap();
        // Element [i, j, k] lies at i + 2 j + 6 k in column-major order.
        assert_eq!(values[12 + 2 * 4 + 3], 1 + 2 * 2 + 6 * 3);
    }

    #[test]
    fn big_endian_arrays_are_swapped() {
        let file = array(">f4", false, "(1,)", &1.25f32.to_be_bytes());
        assert_eq!(read(file.as_slice(), None).unwrap().to_vec::<f32>().unwrap(), [1.25]);
        let text = array(">U2", false, "(1,)", &[0, 0, 0, b'o', 0, 0, 0, b'k']);
        assert_eq!(read(text.as_slice(), None).unwrap().strings().unwrap().collect::<Vec<_>>(), ["ok"]);
    }

    #[test]
    fn broken_files_are_errors() {
        let short = array("<f4", false, "(4,)", &[0; 15]);
        assert!(read(short.as_slice(), None).unwrap_err().to_string().contains("15 of 16 bytes"));
        assert!(read(&b"\x93NUMPY"[..], None).is_err());
        let huge = array("<f4", false, "(4611686018427387904, 16)", &[]);
        assert!(read(huge.as_slice(), None).is_err());
        let object = array("|O", false, "(1,)", &[0; 8]);
        assert!(read(object.as_slice(), None).unwrap_err().to_string().contains("cannot become tensors"));
    }
}
