//! Operators that give the same bytes another shape.

use tenon_plugin_api::{Error, Result};

use super::{Family, axis_of};
use crate::operator::{Decline, Expansion, Lowered, Lowering, Operator};

pub(super) const FAMILIES: &[Family] = &[
    Family { domain: "", op_types: &["Identity", "Dropout"], lower: identity },
    Family { domain: "", op_types: &["Reshape"], lower: reshape },
    Family { domain: "", op_types: &["Flatten"], lower: flatten },
    Family { domain: "", op_types: &["Squeeze", "Unsqueeze"], lower: squeeze },
];

/// How the new shape follows.
enum View {
    Same,
    /// As the operator Reshape takes it.
    Reshape {
        spec: Vec<i64>,
        allow_zero: bool,
    },
    /// The dimensions that the graph declares for the output.
    Declared,
    Flatten(usize),
    /// `None`: every dimension of 1.
    Squeeze(Option<Vec<i64>>),
    Unsqueeze(Vec<i64>),
}

impl Operator for View {
    fn expand(&self, cx: &mut Expansion<'_, '_>) -> Result<()> {
        let input = cx.input(0)?;
        let dims = cx.dims(0)?;
        let total: usize = dims.iter().product();
        let shape = match self {
            View::Same => dims.clone(),
            View::Reshape { spec, allow_zero } => reshaped(&dims, spec, *allow_zero)?,
            View::Declared => {
                let declared = cx.declared_output(0).unwrap_or_default();
                let spec: Vec<i64> = declared.iter().map(|dim| dim.map_or(-1, |size| size as i64)).collect();
                reshaped(&dims, &spec, true)?
            }
            View::Flatten(axis) => {
                vec![dims[..*axis].iter().product(), dims[*axis..].iter().product()]
            }
            View::Squeeze(axes) => squeezed(&dims, axes.as_deref())?,
            View::Unsqueeze(axes) => unsqueezed(&dims, axes)?,
        };
        if shape.iter().product::<usize>() != total {
            return Err(Error::invalid(format!("{dims:?} cannot take the shape {shape:?}")));
        }
        cx.view(0, input, 0, &shape)
    }
}

/// The shape that Reshape's second input asks for.
fn reshaped(dims: &[usize], spec: &[i64], allow_zero: bool) -> Result<Vec<usize>> {
    let wrong = || Error::invalid(format!("{dims:?} cannot take the shape {spec:?}"));
    let mut shape = Vec::with_capacity(spec.len());
    let mut free = None;
    for (axis, &size) in spec.iter().enumerate() {
        shape.push(match size {
            -1 if free.is_none() => {
                free = Some(axis);
                1
            }
            0 if !allow_zero => *dims.get(axis).ok_or_else(wrong)?,
            size => usize::try_from(size).map_err(|_| wrong())?,
        });
    }
    if let Some(axis) = free {
        let (total, rest): (usize, usize) = (dims.iter().product(), shape.iter().product());
        if rest == 0 || !total.is_multiple_of(rest) {
            return Err(wrong());
        }
        shape[axis] = total / rest;
    }
    Ok(shape)
}

fn squeezed(dims: &[usize], axes: Option<&[i64]>) -> Result<Vec<usize>> {
    let drops: Vec<usize> = match axes {
        None => (0..dims.len()).filter(|&axis| dims[axis] == 1).collect(),
        Some(axes) => axes.iter().map(|&axis| counted(axis, dims.len())).collect::<Result<_>>()?,
    };
    Ok((0..dims.len()).filter(|axis| !drops.contains(axis)).map(|axis| dims[axis]).collect())
}

fn unsqueezed(dims: &[usize], axes: &[i64]) -> Result<Vec<usize>> {
    let rank = dims.len() + axes.len();
    let added: Vec<usize> = axes.iter().map(|&axis| counted(axis, rank)).collect::<Result<_>>()?;
    let mut rest = dims.iter();
    let shape: Option<Vec<usize>> =
        (0..rank).map(|axis| if added.contains(&axis) { Some(1) } else { rest.next().copied() }).collect();
    shape.ok_or_else(|| Error::invalid(format!("axes {axes:?} name one twice")))
}

fn counted(axis: i64, rank: usize) -> Result<usize> {
    axis_of(axis, rank).map_err(|Decline(reason)| Error::invalid(reason))
}

fn identity(l: &Lowering<'_>) -> Lowered {
    l.scalar(0)?;
    if l.node.op_type() == "Dropout" {
        let trains = l.has_input(2) && l.numbers(2, 1).is_none_or(|mode| mode.first() != Some(&0.0));
        if trains || l.has_output(1) {
            return Err(Decline::new("dropout that trains has no GPU kernel"));
        }
        // The ratio does not matter when nothing is dropped.
        if l.has_input(1) && l.numbers(1, 1).is_none() {
            return Err(Decline::new("the ratio is not a constant"));
        }
    }
    Ok(Box::new(View::Same))
}

fn reshape(l: &Lowering<'_>) -> Lowered {
    l.scalar(0)?;
    let allow_zero = l.node.int_or("allowzero", 0)? != 0;
    if l.node.version() < 5 {
        let spec = l.node.ints("shape")?.ok_or_else(|| Decline::new("attribute 'shape' is missing"))?;
        return Ok(Box::new(View::Reshape { spec: spec.to_vec(), allow_zero }));
    }
    if let Ok(spec) = l.ints(1) {
        return Ok(Box::new(View::Reshape { spec, allow_zero }));
    }
    // One dimension follows from the number of elements; the others must be known by number, or by a name that the
    // input's dimensions bear too.
    let unknown = l.unknown_dims(0)?;
    if unknown <= 1 {
        return Ok(Box::new(View::Declared));
    }
    Err(Decline::new("the shape is computed during the run"))
}

fn flatten(l: &Lowering<'_>) -> Lowered {
    l.scalar(0)?;
    let rank = l.rank(0)? as i64;
    let axis = l.node.int_or("axis", 1)?;
    let axis = if axis < 0 { axis + rank } else { axis };
    match usize::try_from(axis) {
        Ok(axis) if axis <= rank as usize => Ok(Box::new(View::Flatten(axis))),
        _ => Err(Decline(format!("axis {axis} is outside a tensor of {rank} dimensions"))),
    }
}

fn squeeze(l: &Lowering<'_>) -> Lowered {
    l.scalar(0)?;
    let attribute = l.node.ints("axes")?.map(<[i64]>::to_vec);
    let axes = match attribute {
        Some(axes) => Some(axes),
        None => l.optional_ints(1)?,
    };
    match (l.node.op_type(), axes) {
        ("Squeeze", axes) => Ok(Box::new(View::Squeeze(axes))),
        (_, Some(axes)) => Ok(Box::new(View::Unsqueeze(axes))),
        _ => Err(Decline::new("the axes are missing")),
    }
}
