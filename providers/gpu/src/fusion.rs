//! Joins chains of element-wise work into one kernel: a value that only one map reads, at its own positions, is computed
//! where it is read.

use std::collections::{HashMap, HashSet};

use tenon_kernels::gpu::elementwise::{Class, MapOp};
use tenon_kernels::gpu::layout::contiguous;
use tenon_kernels::gpu::scalar::Scalar;

use crate::map::{Map, MapInput};
use crate::schedule::{Builder, Home, Task, ValueId, Work};

/// Fuses the maps of `builder` in place.
pub(crate) fn run(builder: &mut Builder<'_>, outputs: &[ValueId]) {
    resolve_views(builder);
    let readers = readers(builder, outputs);
    // A map that was absorbed leaves its place empty; the one that absorbed it stands where it stood.
    let mut works: Vec<Option<Work>> = std::mem::take(&mut builder.works).into_iter().map(Some).collect();
    let mut written_at: HashMap<ValueId, usize> = HashMap::new();
    for position in 0..works.len() {
        let Some(Work { nodes, task: Task::Map(map) }) = works[position].take_if(is_map) else { continue };
        let (mut map, mut nodes) = (map, nodes);
        while let Some((merged, producer)) = absorb_one(builder, &works, &written_at, &readers, &map) {
            map = merged;
            if let Some(absorbed) = works[producer].take() {
                nodes.splice(0..0, absorbed.nodes);
            }
        }
        nodes.dedup();
        written_at.insert(map.output, position);
        works[position] = Some(Work { nodes, task: Task::Map(map) });
    }
    builder.works = works.into_iter().flatten().collect();
}

fn is_map(work: &mut Work) -> bool {
    matches!(work.task, Task::Map(_))
}

/// Lets maps read through views: the operand becomes the viewed value with an offset.
fn resolve_views(builder: &mut Builder<'_>) {
    let mut works = std::mem::take(&mut builder.works);
    for work in &mut works {
        let Task::Map(map) = &mut work.task else { continue };
        for input in &mut map.inputs {
            let (root, offset) = builder.root(input.value);
            if root != input.value && builder.scalar(root) == input.scalar {
                input.value = root;
                input.offset += (offset / input.scalar.bytes() as u64) as i64;
            }
        }
    }
    builder.works = works;
}

/// How often each root value is read by maps, is an operand of a plan or a copy, or is handed out.
pub(crate) fn readers(builder: &Builder<'_>, outputs: &[ValueId]) -> HashMap<ValueId, usize> {
    let mut readers: HashMap<ValueId, usize> = HashMap::new();
    let mut count = |value: ValueId| *readers.entry(builder.root(value).0).or_insert(0) += 1;
    for work in &builder.works {
        match &work.task {
            Task::Plan { operands, .. } => operands.iter().flatten().for_each(|&value| count(value)),
            Task::Map(map) => {
                let distinct: HashSet<ValueId> = map.inputs.iter().map(|input| input.value).collect();
                distinct.into_iter().for_each(&mut count);
            }
            Task::Copy { to, from, .. } => [*to, *from].into_iter().for_each(&mut count),
        }
    }
    outputs.iter().for_each(|&value| count(value));
    readers
}

/// The map with one producer merged into it, and that producer's place.
fn absorb_one(
    builder: &Builder<'_>,
    works: &[Option<Work>],
    written_at: &HashMap<ValueId, usize>,
    readers: &HashMap<ValueId, usize>,
    map: &Map,
) -> Option<(Map, usize)> {
    let candidates: HashSet<ValueId> = map.inputs.iter().map(|input| input.value).collect();
    let mut candidates: Vec<ValueId> = candidates.into_iter().collect();
    candidates.sort_unstable();
    candidates.into_iter().find_map(|value| {
        let &position = written_at.get(&value)?;
        let Task::Map(producer) = &works[position].as_ref()?.task else { return None };
        let is_private = builder.states[value].home == Home::Arena && readers.get(&value) == Some(&1);
        let total = |dims: &[usize]| dims.iter().product::<usize>();
        let fits = is_private
            && producer.class == map.class
            && keeps_its_value(producer)
            && total(&producer.dims) == total(&map.dims)
            && map.inputs.iter().filter(|input| input.value == value).all(|input| is_dense(input, &map.dims));
        if !fits {
            return None;
        }
        let producer = reshaped(producer, &map.dims)?;
        Some((map.absorb(&producer)?, position))
    })
}

/// True when the input is read in the order of the output's elements.
pub(crate) fn is_dense(input: &MapInput, dims: &[usize]) -> bool {
    let own = contiguous(dims);
    input.offset == 0
        && input.strides.iter().zip(&own).zip(dims).all(|((stride, own), &dim)| dim == 1 || stride == own)
}

/// The producer over other dimensions of the same number of elements, when all its inputs allow it.
fn reshaped(producer: &Map, dims: &[usize]) -> Option<Map> {
    if producer.dims == dims {
        return Some(producer.clone());
    }
    let inputs: Option<Vec<MapInput>> = producer
        .inputs
        .iter()
        .map(|input| {
            let mut input = input.clone();
            if input.strides.iter().zip(&producer.dims).all(|(&stride, &dim)| stride == 0 || dim == 1) {
                input.strides = vec![0; dims.len()];
                return Some(input);
            }
            let offset = std::mem::take(&mut input.offset);
            let dense = is_dense(&input, &producer.dims);
            input.offset = offset;
            input.strides = contiguous(dims);
            dense.then_some(input)
        })
        .collect();
    Some(Map { dims: dims.to_vec(), inputs: inputs?, ..producer.clone() })
}

/// True when the value before it is stored is the one after it is read back, up to the rounding of floats.
fn keeps_its_value(producer: &Map) -> bool {
    match (producer.class, producer.scalar) {
        (Class::F32, scalar) if scalar.is_float() => true,
        (Class::F64, Scalar::F64) | (Class::I64, Scalar::I64) => true,
        (_, Scalar::Bool) => producer.exprs.last().is_some_and(|expr| {
            matches!(
                expr.op,
                MapOp::Equal
                    | MapOp::Less
                    | MapOp::LessOrEqual
                    | MapOp::Greater
                    | MapOp::GreaterOrEqual
                    | MapOp::And
                    | MapOp::Or
                    | MapOp::Xor
                    | MapOp::Not
                    | MapOp::IsNan
            )
        }),
        _ => false,
    }
}
