//! Operators that compute each element from the elements at the same place: functions of one, two or more operands,
//! comparisons, logic and selection.

pub mod biased;
pub mod binary;
pub mod broadcast;
pub mod classify;
pub mod clip;
pub mod compare;
pub mod gated;
pub mod numeric;
pub mod pow;
pub mod row;
pub mod select;
pub mod unary;
pub mod variadic;

#[cfg(test)]
mod tests;
