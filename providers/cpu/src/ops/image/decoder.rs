//! ImageDecoder: pixels of an encoded image.

use std::io::Cursor;

use image::{DynamicImage, ImageReader};

use super::jpeg;
use crate::error::{OpError, OpErrorKind, Result};
use crate::kernel::{Context, Kernel};
use crate::node::Node;
use crate::ops::{NEWEST, Operator};
use crate::tensor::DType;

pub const OPERATORS: &[Operator] = &[Operator::onnx("ImageDecoder", 20, NEWEST, image_decoder)];

#[derive(Clone, Copy, PartialEq)]
enum PixelFormat {
    Rgb,
    Bgr,
    Grayscale,
}

struct ImageDecoder {
    format: PixelFormat,
}

fn image_decoder(node: &Node) -> Result<Box<dyn Kernel>> {
    let format = match node.string("pixel_format", "RGB")? {
        "RGB" => PixelFormat::Rgb,
        "BGR" => PixelFormat::Bgr,
        "Grayscale" => PixelFormat::Grayscale,
        other => return Err(OpError::invalid(format!("attribute 'pixel_format' is unknown: {other}"))),
    };
    Ok(Box::new(ImageDecoder { format }))
}

/// Interleaved 8-bit RGB pixels.
struct Pixels {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Kernel for ImageDecoder {
    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let Pixels { width, height, mut rgb } = decode(cx.input(0)?.as_slice::<u8>()?)?;
        let channels = if self.format == PixelFormat::Grayscale { 1 } else { 3 };
        let mut output = cx.output(0, DType::U8, &[height, width, channels])?;
        let bytes = output.as_bytes_mut();
        match self.format {
            PixelFormat::Rgb => bytes.copy_from_slice(&rgb),
            PixelFormat::Bgr => {
                rgb.chunks_exact_mut(3).for_each(|pixel| pixel.swap(0, 2));
                bytes.copy_from_slice(&rgb);
            }
            PixelFormat::Grayscale => {
                bytes.iter_mut().zip(rgb.as_chunks::<3>().0).for_each(|(to, &pixel)| *to = luma(pixel));
            }
        }
        cx.set(0, output);
        Ok(())
    }
}

/// The luma of ITU-R BT.601, in 16-bit fixed point.
fn luma([r, g, b]: [u8; 3]) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}

fn decode(stream: &[u8]) -> Result<Pixels> {
    if is_jpeg_2000(stream) {
        return decode_jpeg_2000(stream);
    }
    if stream.starts_with(b"\xFF\xD8") {
        match jpeg::decode(stream) {
            Ok(jpeg::Image { width, height, rgb }) => return Ok(Pixels { width, height, rgb }),
            Err(error) if error.kind() == OpErrorKind::Unsupported => {}
            Err(error) => return Err(error),
        }
    }
    let invalid =
        |error: &dyn std::fmt::Display| OpError::invalid(format!("cannot decode the image: {error}"));
    let reader = ImageReader::new(Cursor::new(stream)).with_guessed_format().map_err(|e| invalid(&e))?;
    let image = reader.decode().map_err(|e| invalid(&e))?;
    Ok(from_image(image))
}

fn from_image(image: DynamicImage) -> Pixels {
    let (width, height) = (image.width() as usize, image.height() as usize);
    Pixels { width, height, rgb: image.into_rgb8().into_raw() }
}

/// A JP2 file, or a bare codestream.
fn is_jpeg_2000(stream: &[u8]) -> bool {
    stream.starts_with(b"\0\0\0\x0CjP  \r\n\x87\n") || stream.starts_with(b"\xFF\x4F\xFF\x51")
}

fn decode_jpeg_2000(stream: &[u8]) -> Result<Pixels> {
    use hayro_jpeg2000::{DecodeSettings, DecoderContext, Image};

    let invalid = |error: hayro_jpeg2000::DecodeError| {
        OpError::invalid(format!("cannot decode the JPEG 2000 image: {error}"))
    };
    let image = Image::new(stream, &DecodeSettings::default()).map_err(invalid)?;
    let (width, height) = (image.width() as usize, image.height() as usize);
    let mut context = DecoderContext::default();
    let decoded = image.decode(&mut context).map_err(invalid)?;
    let (channels, data) = (decoded.components().len(), decoded.data_u8());
    let rgb = match channels {
        1 | 2 => data.chunks_exact(channels).flat_map(|pixel| [pixel[0]; 3]).collect(),
        3 | 4 => data.chunks_exact(channels).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect(),
        other => return Err(OpError::unsupported(format!("a JPEG 2000 image of {other} channels"))),
    };
    let pixels = Pixels { width, height, rgb };
    match pixels.rgb.len() == width * height * 3 {
        true => Ok(pixels),
        false => Err(OpError::unsupported("a JPEG 2000 image whose components differ in size")),
    }
}

#[cfg(test)]
mod tests {
    use crate::node::Attribute;
    use crate::testing::{node, run, tensor};

    #[test]
    fn a_pixmap_is_decoded_in_every_format() {
        let stream = b"P6 1 2 255\n\xFF\x00\x00\x00\xFF\x00";
        let decoded = |format: &str| {
            let attributes = [("pixel_format", Attribute::String(format.into()))];
            let output =
                run(&node("", "ImageDecoder", 20, &attributes, 1), &[Some(tensor(&[stream.len()], stream))]);
            output.unwrap()[0].as_slice::<u8>().unwrap().to_vec()
        };
        assert_eq!(decoded("RGB"), [255, 0, 0, 0, 255, 0]);
        assert_eq!(decoded("BGR"), [0, 0, 255, 0, 255, 0]);
        assert_eq!(decoded("Grayscale"), [76, 150]);
    }

    #[test]
    fn garbage_is_refused() {
        for stream in [&b""[..], b"not an image", b"\xFF\xD8\xFF\xE0", b"\xFF\x4F\xFF\x51\x00"] {
            let input = Some(tensor(&[stream.len()], stream));
            assert!(run(&node("", "ImageDecoder", 20, &[], 1), &[input]).is_err());
        }
    }
}
