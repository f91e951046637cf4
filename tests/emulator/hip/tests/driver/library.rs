//! The stand-in library as a host program sees it: opened at run time, functions fetched by name.

use libloading::Library;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

type List = *mut *mut c_void;

/// Opens the library once, with the environment it reads. The test binary lies beside it.
pub fn open(environment: &[(&str, &str)]) -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        for (name, value) in environment {
            // SAFETY: no other thread reads the environment yet: all tests open the library first.
            unsafe { std::env::set_var(name, value) };
        }
        let binary = std::env::current_exe().expect("the test has a path");
        let folder = binary.parent().expect("the test lies in a folder");
        // SAFETY: the library has no initialisers.
        unsafe { Library::new(folder.join("libamdhip64.so")) }.expect("the library was built with its tests")
    })
}

/// Calls a function of the library by name; every argument is a word or a pointer.
macro_rules! call {
    ($library:expr, $name:ident, $($argument:expr => $kind:ty),*) => {{
        let name = concat!(stringify!($name), "\0").as_bytes();
        // SAFETY: the types are those of the HIP interface.
        unsafe {
            let function = $library.get::<unsafe extern "C" fn($($kind),*) -> std::ffi::c_int>(name);
            function.expect(stringify!($name))($($argument),*)
        }
    }};
}
pub(crate) use call;

pub struct Driver(pub &'static Library);

/// The functions that tests call more than once; each returns the status.
impl Driver {
    pub fn set_device(&self, device: c_int) -> c_int {
        call!(self.0, hipSetDevice, device => c_int)
    }

    pub fn malloc(&self, bytes: usize) -> (c_int, u64) {
        let mut address = 0;
        let status = call!(self.0, hipMalloc, &mut address => *mut u64, bytes => usize);
        (status, address)
    }

    pub fn upload<T>(&self, values: &[T]) -> u64 {
        let bytes = size_of_val(values);
        let (status, address) = self.malloc(bytes);
        assert_eq!(status, 0);
        assert_eq!(self.copy(address, values.as_ptr() as u64, bytes, 1), 0);
        address
    }

    pub fn download<T: Default + Clone>(&self, address: u64, count: usize) -> Vec<T> {
        let mut values = vec![T::default(); count];
        assert_eq!(self.copy(values.as_mut_ptr() as u64, address, count * size_of::<T>(), 2), 0);
        values
    }

    pub fn copy(&self, to: u64, from: u64, bytes: usize, kind: c_int) -> c_int {
        call!(self.0, hipMemcpy, to => u64, from => u64, bytes => usize, kind => c_int)
    }

    pub fn stream(&self) -> usize {
        let mut stream = 0;
        assert_eq!(call!(self.0, hipStreamCreateWithFlags, &mut stream => *mut usize, 1 => c_uint), 0);
        stream
    }

    pub fn synchronize(&self, stream: usize) -> c_int {
        call!(self.0, hipStreamSynchronize, stream => usize)
    }

    pub fn load(&self, image: &[u8]) -> (c_int, usize) {
        let mut module = 0;
        let status = call!(self.0, hipModuleLoadData, &mut module => *mut usize, image.as_ptr() => *const u8);
        (status, module)
    }

    pub fn function(&self, module: usize, name: &std::ffi::CStr) -> (c_int, usize) {
        let mut function = 0;
        let status = call!(
            self.0, hipModuleGetFunction,
            &mut function => *mut usize, module => usize, name.as_ptr() => *const c_char
        );
        (status, function)
    }

    /// Launches with a pointer to each argument.
    pub fn launch(
        &self,
        function: usize,
        grid: u32,
        block: u32,
        stream: usize,
        arguments: &mut [*mut c_void],
    ) -> c_int {
        let none: List = std::ptr::null_mut();
        call!(
            self.0, hipModuleLaunchKernel,
            function => usize, grid => c_uint, 1 => c_uint, 1 => c_uint, block => c_uint, 1 => c_uint, 1 => c_uint,
            0 => c_uint, stream => usize, arguments.as_mut_ptr() => List, none => List
        )
    }

    /// Launches with all arguments in one buffer.
    pub fn launch_packed(
        &self,
        function: usize,
        grid: u32,
        block: u32,
        stream: usize,
        arguments: &[u8],
    ) -> c_int {
        let mut size = arguments.len();
        let mut extra = [
            std::ptr::without_provenance_mut(1),
            arguments.as_ptr() as *mut c_void,
            std::ptr::without_provenance_mut(2),
            (&raw mut size).cast(),
            std::ptr::without_provenance_mut(3),
        ];
        let none: List = std::ptr::null_mut();
        call!(
            self.0, hipModuleLaunchKernel,
            function => usize, grid => c_uint, 1 => c_uint, 1 => c_uint, block => c_uint, 1 => c_uint, 1 => c_uint,
            0 => c_uint, stream => usize, none => List, extra.as_mut_ptr() => List
        )
    }

    pub fn event(&self) -> usize {
        let mut event = 0;
        assert_eq!(call!(self.0, hipEventCreateWithFlags, &mut event => *mut usize, 0 => c_uint), 0);
        event
    }
}

/// A pointer to an argument's value.
pub fn pointer<T>(value: &mut T) -> *mut c_void {
    (&raw mut *value).cast()
}
