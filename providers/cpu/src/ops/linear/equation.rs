//! The equation of an Einsum: which label each dimension of each operand carries.

use smallvec::SmallVec;

use crate::error::{OpError, Result};

/// A dimension's name: a letter, or a position in the dimensions an ellipsis stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Label {
    /// Counted from the last dimension of the ellipsis, so that shorter operands align to the right.
    Ellipsis(usize),
    Letter(char),
}

/// Labels of an operand, one a dimension.
pub type Labels = SmallVec<[Label; 6]>;

/// A parsed equation, with ellipses not yet resolved.
pub struct Equation {
    inputs: Vec<Term>,
    /// `None`: every letter that appears once, in alphabetical order, after the ellipsis.
    output: Option<Term>,
}

/// Letters before the ellipsis, and after it where there is one.
struct Term {
    before: Vec<char>,
    after: Option<Vec<char>>,
}

impl Equation {
    pub fn parse(text: &str) -> Result<Equation> {
        let compact: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let (inputs, output) = match compact.split_once("->") {
            Some((inputs, output)) => (inputs, Some(Term::parse(output)?)),
            None => (compact.as_str(), None),
        };
        let inputs = inputs.split(',').map(Term::parse).collect::<Result<Vec<_>>>()?;
        Ok(Equation { inputs, output })
    }

    /// The labels of the operands and of the result, for operands of these ranks.
    pub fn resolve(&self, ranks: &[usize]) -> Result<(Vec<Labels>, Labels)> {
        if ranks.len() != self.inputs.len() {
            return Err(OpError::invalid(format!(
                "the equation has {} terms for {} inputs",
                self.inputs.len(),
                ranks.len()
            )));
        }
        let mut widest = 0;
        let mut operands = Vec::with_capacity(ranks.len());
        for (term, &rank) in self.inputs.iter().zip(ranks) {
            let letters = term.letters();
            let ellipsis = rank.checked_sub(letters).filter(|&rest| rest == 0 || term.after.is_some());
            let ellipsis = ellipsis.ok_or_else(|| {
                OpError::invalid(format!("a term of {letters} letters for an operand of {rank} dimensions"))
            })?;
            widest = widest.max(ellipsis);
            operands.push(term.labels(ellipsis));
        }
        let result = match &self.output {
            Some(term) => term.labels(if term.after.is_some() { widest } else { 0 }),
            None => implicit_result(&operands, widest),
        };
        let known =
            |label: &Label| matches!(label, Label::Ellipsis(_)) || operands.iter().any(|o| o.contains(label));
        let repeated = (1..result.len()).any(|i| result[..i].contains(&result[i]));
        if repeated || !result.iter().all(known) {
            return Err(OpError::invalid(
                "the result of an equation repeats a label or names one that no input has",
            ));
        }
        Ok((operands, result))
    }
}

impl Term {
    fn parse(text: &str) -> Result<Term> {
        let letters = |text: &str| match text.chars().find(|c| !c.is_ascii_alphabetic()) {
            Some(bad) => Err(OpError::invalid(format!("'{bad}' cannot be part of an Einsum equation"))),
            None => Ok(text.chars().collect()),
        };
        match text.split_once("...") {
            Some((before, after)) => Ok(Term { before: letters(before)?, after: Some(letters(after)?) }),
            None => Ok(Term { before: letters(text)?, after: None }),
        }
    }

    fn letters(&self) -> usize {
        self.before.len() + self.after.as_ref().map_or(0, Vec::len)
    }

    fn labels(&self, ellipsis: usize) -> Labels {
        let letters = |list: &Vec<char>| list.iter().copied().map(Label::Letter).collect::<Labels>();
        let mut labels = letters(&self.before);
        labels.extend((0..ellipsis).rev().map(Label::Ellipsis));
        labels.extend(self.after.iter().flat_map(letters));
        labels
    }
}

fn implicit_result(operands: &[Labels], ellipsis: usize) -> Labels {
    let mut letters: Vec<Label> =
        operands.iter().flatten().copied().filter(|label| matches!(label, Label::Letter(_))).collect();
    letters.sort_unstable();
    let mut result: Labels = (0..ellipsis).rev().map(Label::Ellipsis).collect();
    result.extend(letters.chunk_by(|a, b| a == b).filter(|same| same.len() == 1).map(|same| same[0]));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letters(labels: &Labels) -> String {
        labels.iter().map(|label| if let Label::Letter(c) = label { *c } else { '.' }).collect()
    }

    #[test]
    fn implicit_results_are_alphabetical() {
        let (_, result) = Equation::parse(" bj, ji ").unwrap().resolve(&[2, 2]).unwrap();
        assert_eq!(letters(&result), "bi");
        let (operands, result) = Equation::parse("b...a,...a").unwrap().resolve(&[4, 2]).unwrap();
        assert_eq!(letters(&result), "..b");
        assert_eq!(operands[1][0], operands[0][2]);
    }

    #[test]
    fn broken_equations_are_errors() {
        for (text, ranks) in [
            ("i->j", &[1][..]),
            ("i->ii", &[1]),
            ("ij", &[3]),
            ("i,j", &[1]),
            ("i...", &[0]),
            ("i->...", &[2]),
        ] {
            assert!(Equation::parse(text).and_then(|e| e.resolve(ranks)).is_err(), "{text}");
        }
        for text in ["i.j", "i1", "....", "i->->j"] {
            assert!(Equation::parse(text).is_err(), "{text}");
        }
    }
}
