//! Sizes that the host names by an expression over other sizes, such as `max(past, total)`.

/// The value of an expression as the host writes it: a name, an integer, `a*b`, `(a + b)`, `max(a, b)`, `min(a, b)`.
/// `None` where a name is unknown, or for other expressions.
pub(crate) fn evaluate(text: &str, size: &dyn Fn(&str) -> Option<usize>) -> Option<usize> {
    usize::try_from(value(text, size)?).ok()
}

fn value(text: &str, size: &dyn Fn(&str) -> Option<usize>) -> Option<i64> {
    // A name may look like an expression.
    if let Some(size) = size(text) {
        return i64::try_from(size).ok();
    }
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let each = |list: &str, separator: &str| -> Option<Vec<i64>> {
        split(list, separator).into_iter().map(|item| value(item, size)).collect()
    };
    if let Some(list) = inside(text, "max(") {
        return each(list, ", ")?.into_iter().max();
    }
    if let Some(list) = inside(text, "min(") {
        return each(list, ", ")?.into_iter().min();
    }
    if let Some(list) = inside(text, "(").filter(|list| split(list, " + ").len() > 1) {
        return each(list, " + ")?.into_iter().try_fold(0i64, i64::checked_add);
    }
    let factors = split(text, "*");
    if factors.len() < 2 {
        return None;
    }
    factors.into_iter().try_fold(1i64, |product, factor| product.checked_mul(value(factor, size)?))
}

/// What stands between `open` and the last parenthesis, when that closes the first.
fn inside<'a>(text: &'a str, open: &str) -> Option<&'a str> {
    let list = text.strip_prefix(open)?.strip_suffix(')')?;
    let mut depth = 0i32;
    let is_whole = list.chars().all(|c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        depth >= 0
    });
    is_whole.then_some(list)
}

/// The parts between separators outside all parentheses.
fn split<'a>(text: &'a str, separator: &str) -> Vec<&'a str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0i32);
    for (at, c) in text.char_indices() {
        depth += i32::from(c == '(') - i32::from(c == ')');
        if depth == 0 && at >= start && text[at..].starts_with(separator) {
            parts.push(&text[start..at]);
            start = at + separator.len();
        }
    }
    parts.push(&text[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_over_known_names_have_values() {
        let size = |name: &str| match name {
            "past" => Some(5),
            "total" => Some(7),
            "a + b" => Some(9),
            _ => None,
        };
        for (text, wanted) in [
            ("past", Some(5)),
            ("12", Some(12)),
            ("max(past, total)", Some(7)),
            ("min(past, total, 3)", Some(3)),
            ("(total + -1*past)", Some(2)),
            ("2*max(past, (total + 1))", Some(16)),
            ("a + b", Some(9)),
            ("max(past, other)", None),
            ("floor(past / 2)", None),
            ("(past + -9)", None),
            ("", None),
            ("max(", None),
            ("(past) + (total)", None),
        ] {
            assert_eq!(evaluate(text, &size), wanted, "{text}");
        }
    }
}
