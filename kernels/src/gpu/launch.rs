//! How a problem is started on a GPU, as plain data: kernels in order, their grids and their arguments.
//!
//! A plan names operands by number (each planner documents its own) and knows no address, so one plan serves every run
//! with the same shapes, and tests read it without a device.

use crate::estimate::Cost;

/// Kernels that together compute one operator, to be started in order on one stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub launches: Vec<Launch>,
    /// Scratch memory, aligned to 256 bytes, that the launches share.
    pub workspace_bytes: u64,
    /// Leading bytes of the workspace that must be zero before the first launch; the launches leave them zero.
    pub zeroed_bytes: u64,
}

/// One kernel start.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// Name of the entry point, unique among all kernels of an arch.
    pub symbol: String,
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y, z.
    pub block: [u32; 3],
    /// Blocks of a cluster along x, y, z; all 1 where there are no clusters.
    pub cluster: [u32; 3],
    /// Dynamic shared memory (LDS) of a block.
    pub shared_bytes: u32,
    /// In the order of the kernel's parameters.
    pub args: Vec<Arg>,
    /// The kernel may be started before the one ahead of it in the stream has ended, because it waits for it itself
    /// before it touches anything that kernel wrote (programmatic dependent launch).
    pub is_dependent_launch: bool,
    pub cost: Cost,
}

/// One argument of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    /// Address of an operand plus an offset; NULL where the operand is absent.
    Pointer {
        operand: usize,
        offset_bytes: u64,
    },
    /// Address in the plan's workspace.
    Workspace {
        offset_bytes: u64,
    },
    /// A tensor map by value.
    TensorMap(TensorMap),
    U32(u32),
    I32(i32),
    I64(i64),
    F32(f32),
    /// A structure by value, in the device's (little-endian) layout.
    Bytes {
        bytes: Vec<u8>,
        align: usize,
    },
}

/// A rectangular view of an operand for the bulk copy engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    pub operand: usize,
    pub offset_bytes: u64,
    pub element: Element,
    /// Extents in elements, innermost first; 1 to 5 of them.
    pub dims: Vec<u64>,
    /// Distances in bytes between neighbours along every dimension but the innermost; multiples of 16.
    pub strides_bytes: Vec<u64>,
    /// Extents of what one copy moves, in elements; each at most 256.
    pub box_dims: Vec<u32>,
    pub swizzle: Swizzle,
    /// Copies take positions of windows instead of boxes.
    pub windows: Option<Windows>,
}

/// How a copy walks an image of dimensions channels, columns, rows, images: along columns, then rows, then images, a step
/// at a time, over the places where windows begin. `box_dims` are then channels and places: `[channels, places, 1, 1]`.
/// Arrays: columns, then rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// The first place, and the last one counted from the image's last element; -128 to 127.
    pub first: [i32; 2],
    pub last: [i32; 2],
    /// Distances of places; 1 to 8.
    pub steps: [u32; 2],
}

/// Element type of a tensor map. Reads outside the extents give zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    U8,
    U16,
    U32,
    F16,
    BF16,
    F32,
}

impl Element {
    pub fn bytes(self) -> u64 {
        match self {
            Element::U8 => 1,
            Element::U16 | Element::F16 | Element::BF16 => 2,
            Element::U32 | Element::F32 => 4,
        }
    }
}

/// How 16-byte pieces of a row are permuted in shared memory: by the row's number modulo 2, 4 or 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swizzle {
    None,
    Bytes32,
    Bytes64,
    Bytes128,
}
