//! Shape and layout operators: those that view, move, join, cut, pad or generate elements without computing with them.

pub mod cells;
pub mod generate;
pub mod join;
pub mod mover;
pub mod number;
pub mod pad;
pub mod text;
pub mod transpose;
pub mod view;
pub mod window;
