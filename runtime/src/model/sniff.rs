//! Recognises files that are certainly not ONNX models and says what they are.

/// What `bytes` are, when they are certainly not an ONNX model; the answer completes "this is ...".
pub(super) fn foreign_format(bytes: &[u8]) -> Option<&'static str> {
    if bytes.is_empty() {
        return Some("an empty file; the download or export did not finish");
    }
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    if starts(b"version https://git-lfs") {
        return Some("a Git LFS pointer, not the file it stands for; fetch it with `git lfs pull`");
    }
    if starts(b"\x1f\x8b") {
        return Some("gzip-compressed; decompress it first");
    }
    if starts(b"PK\x03\x04") {
        return Some(
            "a zip archive, or a PyTorch checkpoint, which is one; unpack it, or export the model to ONNX",
        );
    }
    if starts(b"\x28\xb5\x2f\xfd") {
        return Some("zstd-compressed; decompress it first");
    }
    if starts(b"BZh") || starts(b"\xfd7zXZ\0") || starts(b"7z\xbc\xaf") {
        return Some("compressed; decompress it first");
    }
    if starts(b"GGUF") {
        return Some("a GGUF language model; run it with `generate`, which builds its graph");
    }
    if starts(b"\x89HDF") {
        return Some("an HDF5 file, such as Keras saves; export the model to ONNX");
    }
    if starts(b"\x93NUMPY") {
        return Some("a NumPy array, which can be an input but is not a model");
    }
    if starts(b"\x7fELF") || starts(b"MZ") {
        return Some("a program or library");
    }
    if bytes.get(4..8) == Some(b"ORTM") {
        return Some("an ONNX Runtime (.ort) model; use the .onnx file it was made from");
    }
    if bytes.get(4..8) == Some(b"TFL3") {
        return Some("a TensorFlow Lite model; convert it to ONNX");
    }
    if starts(b"\x80") && bytes.get(1).is_some_and(|v| (2..=5).contains(v)) {
        return Some("a Python pickle, such as PyTorch saves; export the model to ONNX");
    }
    if is_safetensors(bytes) {
        return Some("a safetensors file, which has weights but no graph; export the model to ONNX");
    }
    text_format(bytes)
}

/// Eight bytes of header length, then a JSON object of that length.
fn is_safetensors(bytes: &[u8]) -> bool {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else { return false };
    let length = u64::from_le_bytes(*length);
    length >= 2 && length <= rest.len() as u64 && rest.starts_with(b"{\"")
}

fn text_format(bytes: &[u8]) -> Option<&'static str> {
    let start = &bytes[..bytes.len().min(512)];
    let text = start.trim_ascii_start();
    let has = |prefix: &[u8]| text.len() >= prefix.len() && text[..prefix.len()].eq_ignore_ascii_case(prefix);
    if has(b"<!doctype html") || has(b"<html") {
        return Some("a web page; the download link leads to a page, not to the file");
    }
    if has(b"<?xml") || has(b"<") && start.is_ascii() {
        return Some("XML or the textual form of ONNX; save the model in binary form");
    }
    if has(b"{") && start.iter().all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace()) {
        return Some("JSON; save the model in binary form");
    }
    let textual = start.iter().all(|b| b.is_ascii_graphic() || b" \t\r\n".contains(b));
    textual.then_some("a text file; save the model in binary form")
}

#[cfg(test)]
mod tests {
    use super::foreign_format;

    #[test]
    fn common_mistakes_are_named() {
        let mut safetensors = 2u64.to_le_bytes().to_vec();
        safetensors.extend(b"{\"}");
        for (bytes, word) in [
            (&b""[..], "empty"),
            (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
            (b"<!DOCTYPE html><html>", "web page"),
            (b"\n  <html lang=en>", "web page"),
            (b"\x1f\x8b\x08\x00", "gzip"),
            (b"PK\x03\x04rest", "zip"),
            (b"GGUF\x03", "GGUF"),
            (b"\x80\x02}q", "pickle"),
            (b"Not Found", "text"),
            (&safetensors, "safetensors"),
        ] {
            let answer = foreign_format(bytes).unwrap_or_else(|| panic!("{bytes:?} was taken for ONNX"));
            assert!(answer.contains(word), "{bytes:?}: {answer}");
        }
        assert_eq!(foreign_format(b"\x08\x07\x12\x07pytorch"), None);
    }
}
