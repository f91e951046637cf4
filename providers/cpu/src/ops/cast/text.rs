//! Conversion between strings and numbers.

use super::convert::{Conversion, Options};
use super::machine;
use crate::error::{OpError, Result};
use crate::kernel::Context;
use crate::ops::layout::text::{self, Strings};
use crate::tensor::{DType, Tensor};

/// Input 0, numbers, to output 0, strings: integers in decimal, truth values as 0 or 1, f32 and smaller floats with up
/// to 8 significant digits, f64 with as many as tell it from its neighbours.
pub fn to_strings(cx: &Context<'_>) -> Result<Tensor> {
    let input = cx.input(0)?;
    let written = match input.dtype() {
        DType::F64 => input.as_slice::<f64>()?.iter().map(|&value| float_text(value, None)).collect(),
        DType::U64 => input.as_slice::<u64>()?.iter().map(u64::to_string).collect(),
        dtype if dtype.is_integer() || dtype == DType::Bool => {
            widened(cx, input, DType::I64)?.as_slice::<i64>()?.iter().map(i64::to_string).collect()
        }
        _ => {
            let wide = widened(cx, input, DType::F32)?;
            wide.as_slice::<f32>()?
                .iter()
                .map(|&value| float_text(f64::from(value), Some(8)))
                .collect::<Vec<_>>()
        }
    };
    text::write(cx, 0, input.dims(), |i| written[i].as_bytes())
}

/// Input 0, strings, to output 0, numbers of type `to`.
pub fn from_strings(cx: &Context<'_>, to: DType, options: Options) -> Result<Tensor> {
    let input = cx.input(0)?;
    let strings = Strings::new(input)?;
    let via = match to {
        DType::F32 => DType::F32,
        DType::U64 => DType::U64,
        dtype if dtype.is_integer() || dtype == DType::Bool => DType::I64,
        _ => DType::F64,
    };
    let mut parsed = if via == to { cx.output(0, to, input.dims())? } else { cx.scratch(via, input.dims())? };
    match via {
        DType::F32 => fill(&strings, parsed.as_mut_slice::<f32>()?, |text| text.parse().ok())?,
        DType::U64 => fill(&strings, parsed.as_mut_slice::<u64>()?, |text| {
            text.parse().ok().or_else(|| text.parse::<f64>().ok().map(|value| value as u64))
        })?,
        DType::I64 => fill(&strings, parsed.as_mut_slice::<i64>()?, parse_integer)?,
        _ => fill(&strings, parsed.as_mut_slice::<f64>()?, |text| text.parse().ok())?,
    }
    if via == to {
        return Ok(parsed);
    }
    let mut out = cx.output(0, to, input.dims())?;
    Conversion::new(via, to, options)?.run(&parsed, &mut out, machine(cx))?;
    Ok(out)
}

fn widened(cx: &Context<'_>, tensor: &Tensor, to: DType) -> Result<Tensor> {
    let mut wide = cx.scratch(to, tensor.dims())?;
    Conversion::new(tensor.dtype(), to, Options::default())?.run(tensor, &mut wide, machine(cx))?;
    Ok(wide)
}

fn fill<T>(strings: &Strings<'_>, out: &mut [T], parse: impl Fn(&str) -> Option<T>) -> Result<()> {
    for (i, out) in out.iter_mut().enumerate() {
        let text = String::from_utf8_lossy(strings.get(i));
        *out = parse(text.trim()).ok_or_else(|| {
            OpError::invalid(format!("the string '{text}' at position {i} is not a number"))
        })?;
    }
    Ok(())
}

fn parse_integer(text: &str) -> Option<i64> {
    let truth = || match text.to_ascii_lowercase().as_str() {
        "true" => Some(1),
        "false" => Some(0),
        _ => None,
    };
    text.parse().ok().or_else(|| text.parse::<f64>().ok().map(|value| value as i64)).or_else(truth)
}

/// `value` with up to `digits` significant digits, or as few as are exact, with an exponent where that is shorter (C's
/// `%g`).
fn float_text(value: f64, digits: Option<usize>) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "INF".into() } else { "-INF".into() };
    }
    let scientific = digits.map_or_else(|| format!("{value:e}"), |digits| format!("{value:.*e}", digits - 1));
    let (mantissa, exponent) = scientific.split_once('e').expect("the e format has an exponent");
    let exponent: i32 = exponent.parse().expect("the exponent is an integer");
    if exponent < -4 || exponent >= digits.unwrap_or(17) as i32 {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", without_trailing_zeros(mantissa), exponent.abs());
    }
    let Some(digits) = digits else { return value.to_string() };
    let decimals = (digits as i32 - 1 - exponent).max(0) as usize;
    without_trailing_zeros(&format!("{value:.decimals$}")).to_string()
}

fn without_trailing_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_with_few_digits() {
        let texts = [1.5, 100.0, -0.25, 1e20, 2.71875, 1e-7, 0.0, 123_456_792.0]
            .map(|value| float_text(value, Some(8)));
        assert_eq!(texts, ["1.5", "100", "-0.25", "1e+20", "2.71875", "1e-07", "0", "1.2345679e+08"]);
        assert_eq!(float_text(f64::NEG_INFINITY, None), "-INF");
        assert_eq!(float_text(0.1, None), "0.1");
    }
}
