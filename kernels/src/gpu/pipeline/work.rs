//! A kernel as counts: what one iteration of its main loop does, how often, and what surrounds it.

/// Which constant says how well an iteration's parts overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// Loads, reads and products of different stages are independent.
    Product,
    /// Exponentials wait for the first product and the second product for them.
    Attention,
}

/// One iteration of the main loop of one workgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Iteration {
    /// Operations of matrix instructions, padding included; a multiply-add counts two.
    pub matrix_flops: f64,
    /// Operations of single lanes of the vector units.
    pub vector_ops: f64,
    pub exponentials: f64,
    pub shared_read_bytes: f64,
    pub shared_write_bytes: f64,
    /// From the die's cache into the compute unit.
    pub load_bytes: f64,
    /// Into one die's cache, for all workgroups that run on the die together.
    pub fabric_bytes_per_die: f64,
    /// Waits for other waves.
    pub barriers: f64,
}

/// What a kernel does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    pub schedule: Schedule,
    /// Bits of an operand's element.
    pub element_bits: u32,
    pub groups: f64,
    /// Workgroups that fit a compute unit together.
    pub resident: u32,
    /// Iterations of a workgroup, on average.
    pub iterations: f64,
    pub iteration: Iteration,
    /// `None` where all workgroups take as long; else how many times the mean the longest one takes.
    pub unevenness: Option<f64>,
    /// Loads of a workgroup that are under way together.
    pub bytes_in_flight: f64,
    /// Results of a workgroup.
    pub store_bytes: f64,
    /// Of every workgroup beside its stores: the sum of a split.
    pub end_seconds: f64,
    /// Bytes that cross device memory.
    pub memory_bytes: f64,
    /// Of what follows the workgroups.
    pub extra_seconds: f64,
    pub useful_flops: f64,
    pub useful_bytes: f64,
}
