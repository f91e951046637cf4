//! Code objects: the ELF file, its kernel descriptors and its metadata.

use crate::error::{Error, Kind, Result};
use crate::metadata::{self, Argument};
use crate::program::Program;
use crate::target::Target;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// A loaded code object.
#[derive(Clone)]
pub struct CodeObject {
    target: Target,
    kernels: Vec<Kernel>,
}

/// A kernel of a code object; cheap to clone.
#[derive(Clone)]
pub struct Kernel {
    pub(crate) inner: Arc<KernelInner>,
}

pub(crate) struct KernelInner {
    pub name: String,
    pub target: Target,
    pub descriptor: Descriptor,
    pub arguments: Vec<Argument>,
    pub max_block: u32,
    image: Arc<Image>,
    /// The function's bytes as an address range.
    code: (u64, u64),
    /// The functions that kernels of the object can call, likewise.
    functions: Arc<Vec<(u64, u64)>>,
    program: OnceLock<Result<Arc<Program>>>,
}

/// The bytes of a code object with the sections that execution needs, and its functions.
pub(crate) struct Image {
    bytes: Vec<u8>,
    sections: Vec<Section>,
}

struct Section {
    name: String,
    address: u64,
    offset: usize,
    len: usize,
    kind: u32,
    link: u32,
}

/// The fields of a kernel descriptor (64 bytes, LLVM's AMDGPU usage guide, "Kernel Descriptor").
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Descriptor {
    pub lds_bytes: u32,
    pub scratch_bytes: u32,
    pub argument_bytes: u32,
    pub rsrc1: u32,
    pub rsrc2: u32,
    pub properties: u16,
}

impl Descriptor {
    /// The MODE register at the start of a wave: rounding, denormals, clamping, IEEE mode, overflow of conversions.
    pub fn mode(&self) -> u32 {
        let bit = |from: u32, to: u32| (self.rsrc1 >> from & 1) << to;
        self.rsrc1 >> 12 & 255 | bit(21, 8) | bit(23, 9) | bit(26, 23)
    }
}

impl CodeObject {
    /// Reads an ELF code object for gfx942 or gfx950. Instructions are decoded at a kernel's first launch.
    pub fn load(bytes: &[u8]) -> Result<CodeObject> {
        let image = Arc::new(Image::parse(bytes)?);
        let target = Target::from_elf_flags(image.u32(48)?)?;
        let symbols = image.symbols()?;
        let metadata = image.metadata()?;
        let is_function = |name: &str| !name.ends_with(".kd") && !symbols.contains_key(&format!("{name}.kd"));
        let functions = symbols
            .iter()
            .filter(|(name, (address, size))| *size > 0 && is_function(name) && image.is_code(*address));
        let functions =
            Arc::new(functions.map(|(_, &(start, size))| (start, start + size)).collect::<Vec<_>>());
        let mut kernels = Vec::new();
        for (name, symbol) in &symbols {
            let Some(kernel) = name.strip_suffix(".kd") else { continue };
            let (descriptor, entry) = image.descriptor(symbol.0)?;
            let size = symbols.get(kernel).map_or(0, |function| function.1);
            let described = metadata.get(kernel);
            kernels.push(Kernel {
                inner: Arc::new(KernelInner {
                    name: kernel.to_string(),
                    target,
                    descriptor,
                    arguments: described.map(|m| m.arguments.clone()).unwrap_or_default(),
                    max_block: described.map_or(1024, |m| m.max_block),
                    image: image.clone(),
                    code: (entry, entry + size),
                    functions: functions.clone(),
                    program: OnceLock::new(),
                }),
            });
        }
        if kernels.is_empty() {
            return Err(Error::new(Kind::Object, "the code object holds no kernel descriptor (NAME.kd)"));
        }
        Ok(CodeObject { target, kernels })
    }

    /// The number of bytes of the ELF file at the start of `bytes`, from its section table.
    pub fn elf_len(header: &[u8]) -> Option<usize> {
        let header: &[u8; 64] = header.get(..64)?.try_into().ok()?;
        if header[..4] != *b"\x7fELF" {
            return None;
        }
        let table = u64::from_le_bytes(header[40..48].try_into().ok()?);
        let (size, count) =
            (u16::from_le_bytes([header[58], header[59]]), u16::from_le_bytes([header[60], header[61]]));
        usize::try_from(table).ok()?.checked_add(usize::from(size) * usize::from(count))
    }

    pub fn target(&self) -> Target {
        self.target
    }

    /// All kernels, sorted by name.
    pub fn kernels(&self) -> &[Kernel] {
        &self.kernels
    }

    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|kernel| kernel.name() == name)
    }
}

impl Kernel {
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    pub fn target(&self) -> Target {
        self.inner.target
    }

    /// LDS the kernel declares statically, in bytes.
    pub fn lds_bytes(&self) -> u32 {
        self.inner.descriptor.lds_bytes
    }

    /// Private memory of a lane, in bytes; not zero means spills or indexed arrays.
    pub fn scratch_bytes(&self) -> u32 {
        self.inner.descriptor.scratch_bytes
    }

    /// Bytes of the argument segment, hidden arguments included.
    pub fn argument_bytes(&self) -> u32 {
        self.inner.descriptor.argument_bytes
    }

    /// Where each argument lies, from the metadata note; empty when the note is missing.
    pub fn arguments(&self) -> &[Argument] {
        &self.inner.arguments
    }

    /// The most work-items a workgroup may have.
    pub fn max_block(&self) -> u32 {
        self.inner.max_block
    }

    /// Registers of a lane (architectural and accumulation) the kernel allocates.
    pub fn vector_registers(&self) -> u32 {
        (self.inner.descriptor.rsrc1 & 63) * 8 + 8
    }

    /// The instructions, one a line, as the disassembler prints them.
    pub fn listing(&self) -> Result<Vec<String>> {
        Ok(self.program()?.instructions.iter().map(|i| format!("{:#x}: {}", i.address, i.text)).collect())
    }

    /// The decoded instructions; decoded once.
    pub(crate) fn program(&self) -> Result<Arc<Program>> {
        let inner = &self.inner;
        let decode = || {
            let code = |&(start, end): &(u64, u64)| {
                Ok((inner.image.loaded(start, end.saturating_sub(start))?, start))
            };
            let mut functions = vec![code(&inner.code)?];
            let program = Program::decode(&functions, inner.target)?;
            if !program.has_calls() {
                return Ok(Arc::new(program));
            }
            for function in inner.functions.iter() {
                functions.push(code(function)?);
            }
            Program::decode(&functions, inner.target).map(Arc::new)
        };
        inner.program.get_or_init(decode).clone().map_err(|error| error.at(format!("kernel {}", inner.name)))
    }
}

impl Image {
    fn parse(bytes: &[u8]) -> Result<Image> {
        let mut image = Image { bytes: bytes.to_vec(), sections: Vec::new() };
        if image.slice(0, 20)?[..5] != *b"\x7fELF\x02" || image.u16(18)? != 224 {
            return Err(Error::new(Kind::Object, "not a 64-bit ELF file for AMDGPU"));
        }
        let table = image.usize(40)?;
        let (count, names) = (image.u16(60)?, image.u16(62)?);
        let mut raw = Vec::new();
        for index in 0..usize::from(count) {
            let at = table.checked_add(index * 64).ok_or_else(truncated)?;
            let section = Section {
                name: String::new(),
                kind: image.u32(at + 4)?,
                address: image.u64(at + 16)?,
                offset: image.usize(at + 24)?,
                len: image.usize(at + 32)?,
                link: image.u32(at + 40)?,
            };
            raw.push((image.u32(at)? as usize, section));
        }
        let strings = raw.get(usize::from(names)).map(|(_, section)| section.offset).ok_or_else(truncated)?;
        for (name, mut section) in raw {
            section.name = image.text(strings.saturating_add(name))?;
            image.sections.push(section);
        }
        Ok(image)
    }

    /// Address and size of every named symbol of `.dynsym` and `.symtab`.
    fn symbols(&self) -> Result<BTreeMap<String, (u64, u64)>> {
        const SYMTAB: u32 = 2;
        const DYNSYM: u32 = 11;
        let mut found = BTreeMap::new();
        for section in self.sections.iter().filter(|s| s.kind == SYMTAB || s.kind == DYNSYM) {
            let strings = self.sections.get(section.link as usize).ok_or_else(truncated)?;
            for index in 0..section.len / 24 {
                let at = section.offset + index * 24;
                let name = self.text(strings.offset.saturating_add(self.u32(at)? as usize))?;
                if !name.is_empty() && self.u16(at + 6)? != 0 {
                    found.insert(name, (self.u64(at + 8)?, self.u64(at + 16)?));
                }
            }
        }
        Ok(found)
    }

    /// The descriptor at an address, and the address of the kernel's first instruction.
    fn descriptor(&self, address: u64) -> Result<(Descriptor, u64)> {
        let raw = self.loaded(address, 64)?;
        let word = |at: usize| u32::from_le_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
        let descriptor = Descriptor {
            lds_bytes: word(0),
            scratch_bytes: word(4),
            argument_bytes: word(8),
            rsrc1: word(48),
            rsrc2: word(52),
            properties: word(56) as u16,
        };
        let offset = u64::from(word(16)) | u64::from(word(20)) << 32;
        Ok((descriptor, address.wrapping_add(offset)))
    }

    /// The metadata of each kernel, from the note that LLVM calls `NT_AMDGPU_METADATA`.
    fn metadata(&self) -> Result<BTreeMap<String, metadata::KernelMetadata>> {
        const NOTE: u32 = 7;
        const AMDGPU_METADATA: u32 = 32;
        for section in self.sections.iter().filter(|section| section.kind == NOTE) {
            let mut at = section.offset;
            while at + 12 <= section.offset.saturating_add(section.len) {
                let name = (self.u32(at)? as usize).next_multiple_of(4);
                let size = self.u32(at + 4)? as usize;
                let body = at.saturating_add(12).saturating_add(name);
                if self.u32(at + 8)? == AMDGPU_METADATA {
                    return metadata::parse(self.slice(body, size)?);
                }
                at = body.saturating_add(size.next_multiple_of(4));
            }
        }
        Ok(BTreeMap::new())
    }

    /// Whether an address lies in the section of instructions.
    fn is_code(&self, address: u64) -> bool {
        let holds = |section: &Section| {
            section.name == ".text"
                && (section.address..section.address + section.len as u64).contains(&address)
        };
        self.sections.iter().any(holds)
    }

    /// `len` bytes at an address of a loaded section.
    fn loaded(&self, address: u64, len: u64) -> Result<&[u8]> {
        const PROGBITS: u32 = 1;
        let inside = |section: &&Section| {
            section.kind == PROGBITS
                && section.address != 0
                && address >= section.address
                && address.saturating_add(len) <= section.address.saturating_add(section.len as u64)
        };
        let section = self.sections.iter().find(inside).ok_or_else(|| {
            Error::new(Kind::Object, format!("no section holds {len} bytes at {address:#x}"))
        })?;
        self.slice(section.offset + (address - section.address) as usize, len as usize)
    }

    fn slice(&self, at: usize, len: usize) -> Result<&[u8]> {
        at.checked_add(len).and_then(|end| self.bytes.get(at..end)).ok_or_else(truncated)
    }

    fn u16(&self, at: usize) -> Result<u16> {
        Ok(u16::from_le_bytes(self.slice(at, 2)?.try_into().expect("two bytes")))
    }

    fn u32(&self, at: usize) -> Result<u32> {
        Ok(u32::from_le_bytes(self.slice(at, 4)?.try_into().expect("four bytes")))
    }

    fn u64(&self, at: usize) -> Result<u64> {
        Ok(u64::from_le_bytes(self.slice(at, 8)?.try_into().expect("eight bytes")))
    }

    fn usize(&self, at: usize) -> Result<usize> {
        usize::try_from(self.u64(at)?).map_err(|_| truncated())
    }

    /// The zero-terminated text at a place.
    fn text(&self, at: usize) -> Result<String> {
        let rest = self.bytes.get(at..).ok_or_else(truncated)?;
        let end = rest.iter().position(|&byte| byte == 0).ok_or_else(truncated)?;
        Ok(String::from_utf8_lossy(&rest[..end]).into_owned())
    }
}

fn truncated() -> Error {
    Error::new(Kind::Object, "the ELF file ends before its tables do")
}
