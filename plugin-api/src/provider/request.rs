//! What a compile call hands to a device.

use crate::{Error, GraphView, Options, Result, ffi};

/// One compile call. Borrowed for the call, except that the bytes of constants live until the executable is dropped when
/// `constants_stay`.
pub struct CompileRequest<'a> {
    /// Nodes that the provider claimed.
    pub graph: GraphView<'a>,
    /// Empty: the device's own arch; else an arch or chip that need not be present.
    pub target: &'a str,
    /// The bytes of constants stay valid and unchanged until the executable is dropped: addresses of theirs may be kept.
    pub constants_stay: bool,
    /// Dimensions of the graph's values are exact for every run.
    pub specialize: bool,
    pub options: Options<'a>,
}

impl<'a> CompileRequest<'a> {
    /// Reads and checks the arguments of a compile call.
    ///
    /// # Safety
    /// `args` is NULL or as the header says, for `'a`.
    pub(super) unsafe fn new(args: *const ffi::CompileArgs) -> Result<CompileRequest<'a>> {
        // SAFETY: the caller vouches for every pointer.
        unsafe {
            let args = args.as_ref().ok_or_else(|| Error::invalid("compile: args is NULL"))?;
            crate::view::covers::<ffi::CompileArgs>(args.struct_size, "compile args")?;
            let graph = args.graph.as_ref().ok_or_else(|| Error::invalid("compile: graph is NULL"))?;
            let target =
                args.target.as_str().ok_or_else(|| Error::invalid("compile: target is not UTF-8"))?;
            Ok(CompileRequest {
                graph: GraphView::new(graph)?,
                target,
                constants_stay: args.constants_stay != 0,
                specialize: args.specialize != 0,
                options: Options::new(args.options, args.option_count)?,
            })
        }
    }
}
