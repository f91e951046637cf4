//! The operators, one file a family. To add an operator: write its kernel in its family's file and add one row to that
//! file's `OPERATORS` table; a new family is one more file and one more line in [`FAMILIES`].

mod attention;
mod cast;
mod conv;
mod elementwise;
mod epilogue;
mod gemm;
mod image;
mod index;
mod layout;
mod linear;
mod matmul;
mod ml;
mod moe;
mod norm;
mod pool;
mod quantize;
mod quantized;
mod random;
mod real;
mod recurrent;
mod reduce;
mod rows;
mod signal;
mod spread;
mod streams;
mod text;
mod training;
mod window;

use crate::error::{OpError, Result};
use crate::kernel::Kernel;
use crate::node::Node;

/// One operator over a range of opset versions of its domain.
pub struct Operator {
    /// `""` is `ai.onnx`.
    pub domain: &'static str,
    pub op_type: &'static str,
    /// First opset version this row implements.
    pub since: u32,
    /// Last opset version this row implements; `u32::MAX` when still current.
    pub until: u32,
    /// Builds the kernel, or says why this node cannot be run (element type, attribute value).
    pub build: fn(&Node) -> Result<Box<dyn Kernel>>,
}

impl Operator {
    /// A row of `ai.onnx` for the versions `since ..= until`.
    pub const fn onnx(
        op_type: &'static str,
        since: u32,
        until: u32,
        build: fn(&Node) -> Result<Box<dyn Kernel>>,
    ) -> Operator {
        Operator { domain: "", op_type, since, until, build }
    }

    /// A row of another domain, for all its versions.
    pub const fn of(
        domain: &'static str,
        op_type: &'static str,
        build: fn(&Node) -> Result<Box<dyn Kernel>>,
    ) -> Operator {
        Operator { domain, op_type, since: 1, until: u32::MAX, build }
    }
}

/// The newest version of everything: use as `until`.
pub const NEWEST: u32 = u32::MAX;

/// Every family's table.
const FAMILIES: &[&[Operator]] = &[
    elementwise::unary::OPERATORS,
    elementwise::numeric::OPERATORS,
    elementwise::binary::OPERATORS,
    elementwise::compare::OPERATORS,
    elementwise::pow::OPERATORS,
    elementwise::variadic::OPERATORS,
    elementwise::clip::OPERATORS,
    elementwise::select::OPERATORS,
    elementwise::classify::OPERATORS,
    elementwise::biased::OPERATORS,
    elementwise::gated::OPERATORS,
    cast::OPERATORS,
    quantize::OPERATORS,
    quantize::activation::OPERATORS,
    quantize::arithmetic::OPERATORS,
    quantize::pool::OPERATORS,
    random::OPERATORS,
    text::OPERATORS,
    text::tfidf::OPERATORS,
    training::OPERATORS,
    ml::transform::OPERATORS,
    ml::encode::OPERATORS,
    ml::linear::OPERATORS,
    ml::svm::OPERATORS,
    ml::ensemble::OPERATORS,
    reduce::OPERATORS,
    reduce::softmax::OPERATORS,
    reduce::arg::OPERATORS,
    reduce::cumulative::OPERATORS,
    reduce::normalize::OPERATORS,
    reduce::loss::OPERATORS,
    matmul::OPERATORS,
    conv::OPERATORS,
    pool::OPERATORS,
    norm::OPERATORS,
    recurrent::OPERATORS,
    attention::OPERATORS,
    moe::OPERATORS,
    streams::OPERATORS,
    layout::view::OPERATORS,
    layout::transpose::OPERATORS,
    layout::join::OPERATORS,
    layout::window::OPERATORS,
    layout::pad::OPERATORS,
    layout::generate::OPERATORS,
    index::gather::OPERATORS,
    index::scatter::OPERATORS,
    index::select::OPERATORS,
    index::one_hot::OPERATORS,
    index::unique::OPERATORS,
    index::topk::OPERATORS,
    index::nms::OPERATORS,
    index::ngram::OPERATORS,
    index::alignment::OPERATORS,
    image::resize::OPERATORS,
    image::affine_grid::OPERATORS,
    image::col2im::OPERATORS,
    image::crop::OPERATORS,
    image::deform_conv::OPERATORS,
    image::grid_sample::OPERATORS,
    image::region::OPERATORS,
    signal::dft::OPERATORS,
    signal::stft::OPERATORS,
    signal::window::OPERATORS,
    signal::mel::OPERATORS,
    linear::matrix::OPERATORS,
    linear::einsum::OPERATORS,
    image::unpool::OPERATORS,
    image::decoder::OPERATORS,
    index::gather_quantized::OPERATORS,
];

/// The row for a node's operator and version.
pub fn find(domain: &str, op_type: &str, version: u32) -> Option<&'static Operator> {
    FAMILIES.iter().flat_map(|family| family.iter()).find(|row| {
        row.op_type == op_type && row.domain == domain && (row.since..=row.until).contains(&version)
    })
}

/// Builds the kernel of a node, or says why there is none.
pub fn build(node: &Node) -> Result<Box<dyn Kernel>> {
    let domain = if node.domain.is_empty() { "ai.onnx" } else { node.domain.as_str() };
    match find(&node.domain, &node.op_type, node.version) {
        Some(row) => (row.build)(node),
        None => Err(OpError::unsupported(format!(
            "no CPU kernel for {domain}.{} at opset {}",
            node.op_type, node.version
        ))),
    }
}
