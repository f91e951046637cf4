//! Batched sampling: one launch over logits in device memory, with no word from the host in between.

use tenon_kernels::gpu::scalar::Scalar;
use tenon_kernels::gpu::{Arg, Launch, sampling};
use tenon_plugin_api::{Error, Result, ffi};

use crate::driver::{Arguments, LaunchConfig};
use crate::opened::Opened;
use crate::stream::GpuStream;
use crate::timeline::Span;

/// Queues the draw of one token for each row.
///
/// # Safety
/// The addresses in `args` lead to device memory of the sizes that the contract says, until the work is done.
pub(crate) unsafe fn queue(opened: &Opened, stream: &GpuStream, args: &ffi::SampleArgs) -> Result<()> {
    if args.batch == 0 {
        return Ok(());
    }
    let scalar =
        Scalar::from_onnx(args.logits_dtype).filter(|scalar| scalar.is_float()).ok_or_else(|| {
            Error::unsupported(format!(
                "logits of element type {}: f32, f16 and bf16 are known",
                args.logits_dtype
            ))
        })?;
    let addresses = addresses(args)?;
    let is_aligned = addresses[1].is_multiple_of(4 * scalar.bytes() as u64);
    let plan = sampling::draw(scalar, args.batch as usize, args.vocabulary as usize, is_aligned);
    let plan = plan.map_err(crate::operator::refused)?;
    let (batch, vocabulary) = (args.batch, args.vocabulary);
    for launch in &plan.launches {
        // SAFETY: the caller vouches for the memory.
        let start = || unsafe { start(opened, stream, launch, &addresses) };
        if !opened.timeline.is_on() {
            start()?;
            continue;
        }
        let span = Span {
            symbol: launch.symbol.clone(),
            node: "sample".into(),
            op_type: "sample".into(),
            parameters: format!("{batch} rows of {vocabulary}"),
            stream: stream.queue.0,
            cost: Some(launch.cost),
        };
        opened.timeline.around(opened, stream.queue, span, start)?;
    }
    Ok(())
}

/// The addresses of the operands of [`sampling::draw`], in its order.
fn addresses(args: &ffi::SampleArgs) -> Result<[u64; sampling::DRAW_OPERANDS]> {
    let operands = [
        (args.tokens.addr(), "tokens"),
        (args.logits.addr(), "logits"),
        (args.temperatures.addr(), "temperatures"),
        (args.top_k.addr(), "top_k"),
        (args.top_p.addr(), "top_p"),
        (args.min_p.addr(), "min_p"),
        (args.seeds.addr(), "seeds"),
    ];
    if let Some((_, name)) = operands.iter().find(|(address, _)| *address == 0) {
        return Err(Error::invalid(format!("sample: {name} is NULL")));
    }
    let mut addresses = [args.log_probs.addr() as u64; sampling::DRAW_OPERANDS];
    for (to, (address, _)) in addresses.iter_mut().zip(operands) {
        *to = address as u64;
    }
    Ok(addresses)
}

/// Queues a launch whose arguments are addresses of operands and numbers.
///
/// # Safety
/// The addresses lead to what the kernel expects.
unsafe fn start(opened: &Opened, stream: &GpuStream, launch: &Launch, addresses: &[u64]) -> Result<()> {
    let (mut bytes, mut places) = (Vec::new(), Vec::new());
    let mut put = |value: &[u8]| {
        bytes.resize(bytes.len().next_multiple_of(value.len()), 0);
        places.push((bytes.len() as u32, value.len() as u32));
        bytes.extend_from_slice(value);
    };
    for arg in &launch.args {
        match arg {
            Arg::Pointer { operand, offset_bytes } => {
                put(&(addresses[*operand] + offset_bytes).to_le_bytes())
            }
            Arg::U32(value) => put(&value.to_le_bytes()),
            other => return Err(Error::internal(format!("an argument {other:?} of a sampling kernel"))),
        }
    }
    let config = LaunchConfig {
        grid: launch.grid,
        block: launch.block,
        cluster: launch.cluster,
        shared_bytes: launch.shared_bytes,
        // Others may still be writing the logits.
        is_dependent: false,
    };
    let function = opened.kernels.function(&launch.symbol, launch.shared_bytes)?;
    let args = Arguments { bytes: &bytes, places: &places };
    // SAFETY: the planner wrote the parameters for this kernel; the caller vouches for the memory.
    unsafe { opened.driver.launch(opened.context, function, &config, args, stream.queue) }
}
