//! A vendor's compiler of device text as a library: found at run time, or not there at all. NVRTC and hipRTC have the same
//! functions under names of their own.

use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr::{null, null_mut};

use libloading::Library;
use tenon_plugin_api::{Error, Result};

use crate::compiler::Compiler;

/// What a vendor calls its library and the functions in it.
#[derive(Clone, Copy, Debug)]
pub struct LibraryNames {
    /// File names, the preferred one first.
    pub files: &'static [&'static str],
    /// What the names of all functions begin with: `nvrtc`.
    pub prefix: &'static str,
    /// The functions that give the size and the bytes of machine code, and of a text for targets that the driver compiles
    /// further, without the prefix.
    pub image: [&'static str; 2],
    pub portable: Option<[&'static str; 2]>,
    /// Options for a target.
    pub options: fn(target: &str) -> Vec<String>,
    /// Targets that the driver compiles further.
    pub is_portable: fn(target: &str) -> bool,
    /// The namespace around texts, for a compiler that declares names of its own which texts declare too.
    pub namespace: Option<&'static str>,
}

type Program = *mut c_void;
type Create = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Data = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;
type Version = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;

/// The loaded compiler. Its functions may be called from any thread, a program from one at a time.
pub struct CompilerLibrary {
    names: LibraryNames,
    version: (c_int, c_int),
    create: Create,
    compile: Compile,
    log: (Size, Data),
    image: (Size, Data),
    portable: Option<(Size, Data)>,
    destroy: Destroy,
    _library: Library,
}

impl CompilerLibrary {
    /// Loads the library where the loader finds one that has every function.
    ///
    /// # Safety
    /// The names are those of a library with the functions of nvrtc.h, which are unchanged since its version 11.2.
    pub unsafe fn load(names: LibraryNames) -> Option<CompilerLibrary> {
        names.files.iter().find_map(|file| {
            // SAFETY: the caller vouches for what the name stands for; it runs nothing but its own start when it is loaded.
            let library = unsafe { Library::new(*file) }.ok()?;
            // SAFETY: as above.
            unsafe { CompilerLibrary::from(library, names) }
        })
    }

    /// # Safety
    /// The library is what `names` describe.
    unsafe fn from(library: Library, names: LibraryNames) -> Option<CompilerLibrary> {
        macro_rules! find {
            ($name:expr, $type:ty) => {{
                let symbol = format!("{}{}\0", names.prefix, $name);
                // SAFETY: the caller vouches for the library, and so for the type of its function.
                *unsafe { library.get::<$type>(symbol.as_bytes()) }.ok()?
            }};
        }
        let mut version = (0, 0);
        let ask = find!("Version", Version);
        // SAFETY: the call writes the integers it is given.
        if unsafe { ask(&mut version.0, &mut version.1) } != 0 {
            return None;
        }
        let portable = match names.portable {
            Some([size, data]) => Some((find!(size, Size), find!(data, Data))),
            None => None,
        };
        Some(CompilerLibrary {
            names,
            version,
            create: find!("CreateProgram", Create),
            compile: find!("CompileProgram", Compile),
            log: (find!("GetProgramLogSize", Size), find!("GetProgramLog", Data)),
            image: (find!(names.image[0], Size), find!(names.image[1], Data)),
            portable,
            destroy: find!("DestroyProgram", Destroy),
            _library: library,
        })
    }

    /// What a pair of functions tells of a program.
    fn fetch(&self, program: Program, (size, data): (Size, Data)) -> Option<Vec<u8>> {
        let mut length = 0;
        // SAFETY: the program is alive; the call writes the size it is given.
        if unsafe { size(program, &mut length) } != 0 {
            return None;
        }
        let mut bytes = vec![0u8; length];
        // SAFETY: the buffer has the length that was just asked for.
        (unsafe { data(program, bytes.as_mut_ptr().cast()) } == 0).then_some(bytes)
    }

    /// The text in its namespace; kernels have C names and so keep theirs.
    fn framed(&self, source: &str) -> String {
        match self.names.namespace {
            Some(name) => format!("namespace {name} {{\n#line 1\n{source}\n}}\n"),
            None => source.to_owned(),
        }
    }

    fn log_of(&self, program: Program) -> String {
        let bytes = self.fetch(program, self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).trim_matches(['\0', '\n']).to_owned()
    }
}

/// A text as C wants it.
fn text(value: &str) -> Result<CString> {
    CString::new(value).map_err(|_| Error::internal("device text holds a zero byte"))
}

impl Compiler for CompilerLibrary {
    fn identity(&self) -> String {
        format!("{} {}.{}", self.names.prefix, self.version.0, self.version.1)
    }

    fn compile(
        &self,
        name: &str,
        source: &str,
        defines: &[(String, String)],
        target: &str,
    ) -> Result<Vec<u8>> {
        let (source, file) = (text(&self.framed(source))?, text(&format!("{name}.cu"))?);
        let mut options: Vec<CString> =
            (self.names.options)(target).iter().map(|option| text(option)).collect::<Result<_>>()?;
        for (name, value) in defines {
            options.push(text(&format!("-D{name}={value}"))?);
        }
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let mut program = null_mut();
        // SAFETY: the texts end in zero and outlive the program, which has no headers.
        let made = unsafe { (self.create)(&mut program, source.as_ptr(), file.as_ptr(), 0, null(), null()) };
        if made != 0 {
            return Err(Error::internal("the run-time compiler makes no program").with_provider_code(made));
        }
        // SAFETY: the program was just made; there are as many options as counted.
        let status = unsafe { (self.compile)(program, pointers.len() as c_int, pointers.as_ptr()) };
        let form = self.portable.filter(|_| (self.names.is_portable)(target)).unwrap_or(self.image);
        let image = if status == 0 { self.fetch(program, form) } else { None };
        let log = if image.is_none() { self.log_of(program) } else { String::new() };
        // SAFETY: the program is not used again.
        unsafe { (self.destroy)(&mut program) };
        image.ok_or_else(|| {
            Error::internal(format!("unit '{name}' does not compile for {target}:\n{log}"))
                .with_provider_code(status)
        })
    }
}
