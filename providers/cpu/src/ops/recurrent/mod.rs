//! Recurrent layers: LSTM, GRU, RNN and DynamicQuantizeLSTM.

mod activation;
mod frame;
mod gru;
mod lstm;
mod projection;
mod rational;
mod simple;

#[cfg(test)]
mod tests;

use super::{NEWEST, Operator};

pub const OPERATORS: &[Operator] = &[
    Operator::onnx("LSTM", 1, NEWEST, lstm::build),
    Operator::of("com.microsoft", "DynamicQuantizeLSTM", lstm::build_quantized),
    Operator::onnx("GRU", 1, NEWEST, gru::build),
    Operator::onnx("RNN", 1, NEWEST, simple::build),
];
