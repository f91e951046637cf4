//! Measured times of kernels: those that others published (`published.toml`), and the evidence in a family's own tables.

use super::Estimate;
use super::attention;
use super::machine::{Machine, number};
use super::product::{self, Shape, Tile};
use crate::error::{KernelError, Result};
use crate::gpu::arch::{self, Arch, Mainloop};
use crate::gpu::matmul::wgmma;
use crate::table::{self, Row};

/// What a row is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The kernel's structure is known; constants are fitted to it.
    Fit,
    /// The structure is known; no constant has seen it.
    HeldOut,
    /// A library that chooses among kernels by itself: shown beside estimates, no part of any error.
    Library,
}

/// The structure of a measured kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Structure {
    Product(Shape, Tile),
    Attention(attention::Shape, attention::Tile),
    /// With the bytes in flight of a compute unit.
    Decode(attention::Shape, f64),
}

/// A measured time.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    pub chip: String,
    /// Whose kernel.
    pub kernel: String,
    /// `bf16`, `e4m3`.
    pub dtype: String,
    pub seconds: f64,
    /// The vendor's library in the same run.
    pub peer_seconds: Option<f64>,
    pub source: String,
    pub role: Role,
    pub structure: Structure,
}

impl Measured {
    /// What the model says.
    pub fn estimate(&self, machine: &Machine) -> Estimate {
        match &self.structure {
            Structure::Product(shape, tile) => product::product(shape, tile, machine),
            Structure::Attention(shape, tile) => attention::forward(shape, tile, machine),
            Structure::Decode(shape, bytes) => attention::decode(shape, *bytes, machine),
        }
    }

    /// `MxNxK` of a product as the operator names it, `batch x heads/kv heads x rows x keys` of attention.
    pub fn shape(&self) -> String {
        match &self.structure {
            Structure::Product(s, _) => format!("{}x{}x{}", s.rows, s.columns, s.depth),
            Structure::Attention(s, _) | Structure::Decode(s, _) => {
                let mask = if s.is_causal { " causal" } else { "" };
                format!("{}x{}/{}x{}x{} d{}{mask}", s.batch, s.heads, s.kv_heads, s.q_len, s.kv_len, s.head_v)
            }
        }
    }
}

/// Everything that was measured on the chips of a family.
pub fn measured(arch: &Arch) -> Result<Vec<Measured>> {
    let mut found = Vec::new();
    if let Some(text) = arch.table("published.toml") {
        for row in &table::parse(text)? {
            found.push(published(row)?);
        }
    }
    if let Ok(operator) = arch.operator("matmul")
        && operator.mainloop == Mainloop::Wgmma
    {
        found.extend(own_products(arch)?);
    }
    if let Ok(operator) = arch.operator("attention")
        && operator.mainloop == Mainloop::Wgmma
    {
        found.extend(own_attention(operator.table)?);
    }
    Ok(found)
}

fn published(row: &Row) -> Result<Measured> {
    let size = |key: &str| row.size(key).map(|v| u32::try_from(v).unwrap_or(u32::MAX));
    let or =
        |key: &str, default| row.size_or(key, Some(default)).map(|v| u32::try_from(v).unwrap_or(u32::MAX));
    let dtype = row.text("dtype")?;
    let bits = match dtype {
        "bf16" | "f16" => 16,
        "e4m3" => 8,
        other => return Err(KernelError::table(format!("published.toml: dtype '{other}'"))),
    };
    let role = match row.text("role")? {
        "fit" => Role::Fit,
        "held_out" => Role::HeldOut,
        "library" => Role::Library,
        other => return Err(KernelError::table(format!("role '{other}': fit, held_out or library"))),
    };
    let (structure, flops) = match row.name.as_str() {
        "matmul" => {
            let shape = Shape::new([row.size("m")?, row.size("n")?, row.size("k")?], bits);
            let plain = Tile::ping_pong(if bits == 16 { 64 } else { 128 });
            let tile = Tile {
                bm: or("bm", 256)?,
                bn: or("bn", 256)?,
                bk: or("bk", plain.bk as usize)?,
                waves_m: or("waves_m", 2)?,
                waves_n: or("waves_n", 4)?,
                barriers: f64::from(or("barriers", 8)?),
                ..plain
            };
            (
                Structure::Product(shape, tile),
                2.0 * [shape.rows, shape.columns, shape.depth].iter().map(|v| *v as f64).product::<f64>(),
            )
        }
        "attention" => {
            let shape = attention::Shape {
                bits,
                ..attention::Shape::own(
                    size("batch")?,
                    size("heads")?,
                    size("kv_heads")?,
                    size("len")?,
                    size("head")?,
                    row.text("mask")? == "causal",
                )
            };
            let tile = attention::Tile {
                bm: or("bm", 256)?,
                bn: or("bn", 64)?,
                readers: or("waves", 8)?,
                ahead: 1,
                resident: 1,
                barriers: f64::from(or("barriers", 8)?),
            };
            // The published rate counts half of a causal square.
            let [batch, heads, len, head] =
                [shape.batch, shape.heads, shape.q_len, shape.head_v].map(f64::from);
            let half = if shape.is_causal { 0.5 } else { 1.0 };
            (Structure::Attention(shape, tile), 4.0 * batch * heads * len * len * head * half)
        }
        other => return Err(KernelError::table(format!("row [[{other}]]: matmul or attention"))),
    };
    Ok(Measured {
        chip: row.text("chip")?.to_owned(),
        kernel: row.text("kernel")?.to_owned(),
        dtype: dtype.to_owned(),
        seconds: flops / (number(row, "tflops")? * 1e12),
        peer_seconds: None,
        source: row.text("source")?.to_owned(),
        role,
        structure,
    })
}

/// The measured rows of a family's `matmul.toml`. A range was measured at its upper end, an open one at 8192.
fn own_products(arch: &Arch) -> Result<Vec<Measured>> {
    let table = wgmma::table(arch.name)?;
    let chips = arch.chips()?;
    let at = |(low, high): (usize, usize)| if high == usize::MAX { low.max(8192) } else { high };
    let mut found = Vec::new();
    for row in &table.rows {
        let chip = chips.iter().find(|chip| chip.name == row.chip);
        let chip = chip.ok_or_else(|| KernelError::table(format!("matmul.toml: no chip '{}'", row.chip)))?;
        let machine = Machine::of(arch, chip.clone())?;
        let params = &table.candidates[row.candidate].params;
        let (m, n, k) = (at(row.shapes.m), at(row.shapes.n), at(row.shapes.k));
        let (rows, columns) = if params.is_swapped { (n, m) } else { (m, n) };
        let shape = Shape {
            out_bits: 8 * row.shapes.kind.output.bytes() as u32,
            ..Shape::new([rows, columns, k], 8 * row.shapes.kind.input.bytes() as u32)
        };
        found.push(Measured {
            chip: row.chip.clone(),
            kernel: table.candidates[row.candidate].name.clone(),
            dtype: row.shapes.kind.input.name().to_owned(),
            seconds: row.microseconds * 1e-6,
            peer_seconds: Some(row.peer_microseconds * 1e-6),
            source: "matmul.toml".to_owned(),
            role: Role::Fit,
            structure: Structure::Product(shape, Tile::wgmma(params, row.shapes.kind, &machine)),
        });
    }
    Ok(found)
}

/// The evidence in a family's `attention.toml` that names no further mask or layout.
fn own_attention(text: &str) -> Result<Vec<Measured>> {
    let mut found = Vec::new();
    for row in &table::parse(text)? {
        // The model knows caches of 16 bits only.
        if row.name == "coded_forward" || row.size_or("codes", Some(0))? != 0 {
            continue;
        }
        for number in 1.. {
            let Ok(evidence) = row.text(&format!("evidence_{number}")) else { break };
            if let Some(measured) = own_evidence(row, evidence)? {
                found.push(measured);
            }
        }
    }
    Ok(found)
}

/// `h100, 4 x 32/8 x 4096 x 4096: 674 TFLOP/s, cuDNN 599, 2026-11-23`.
fn own_evidence(row: &Row, evidence: &str) -> Result<Option<Measured>> {
    let wrong = || KernelError::table(format!("attention.toml: evidence '{evidence}' cannot be read"));
    let (what, rates) = evidence.split_once(": ").ok_or_else(wrong)?;
    let (chip, extents) = what.split_once(", ").ok_or_else(wrong)?;
    let parts: Vec<u32> =
        extents.split([' ', 'x', '/']).filter(|p| !p.is_empty()).map_while(|p| p.parse().ok()).collect();
    if extents.contains(['w', 'c', 'p', 'm']) {
        return Ok(None);
    }
    let [batch, heads, kv_heads, q_len, kv_len] = parts[..] else { return Err(wrong()) };
    let rate_of = |text: &str| text.split(' ').find_map(|word| word.parse::<f64>().ok());
    let rates: Vec<&str> = rates.split(", ").collect();
    let [ours, peer, ..] = rates[..] else { return Err(wrong()) };
    let rate = rate_of(ours).ok_or_else(wrong)?;
    let size = |key: &str| row.size(key).map(|v| u32::try_from(v).unwrap_or(u32::MAX));
    let is_causal = row.name == "forward" && row.text("mask")? == "causal";
    let shape = attention::Shape {
        batch,
        heads,
        kv_heads,
        q_len,
        kv_len,
        head_qk: size("head_qk")?,
        head_v: size("head_v")?,
        is_causal,
        bits: 16,
        coded: None,
    };
    let columns = f64::from(shape.head_qk + shape.head_v);
    let (structure, work) = if row.name == "decode" {
        let bytes = f64::from(batch) * f64::from(kv_len) * f64::from(kv_heads) * columns * 2.0;
        let stage_bytes = 64.0 * columns * 2.0;
        (Structure::Decode(shape, f64::from(size("stages")?) * stage_bytes), bytes / 1e9)
    } else {
        let tile = attention::Tile {
            bm: size("bm")?,
            bn: size("bn")?,
            readers: size("bm")? / 64,
            ahead: size("stages")?,
            resident: 1,
            barriers: 1.0,
        };
        let scores = f64::from(batch) * f64::from(heads) * f64::from(q_len) * f64::from(kv_len);
        let half = if is_causal { 0.5 } else { 1.0 };
        (Structure::Attention(shape, tile), 2.0 * scores * half * columns / 1e12)
    };
    Ok(Some(Measured {
        chip: chip.to_owned(),
        kernel: row.name.clone(),
        dtype: "bf16".to_owned(),
        seconds: work / rate,
        peer_seconds: rate_of(peer).map(|peer| work / peer),
        source: "attention.toml".to_owned(),
        role: Role::Fit,
        structure,
    }))
}

/// Everything that was measured on a chip.
pub fn on_chip(chip: &str) -> Result<Vec<Measured>> {
    let machine = Machine::find(chip)?;
    let all = measured(arch::find(machine.arch)?)?;
    Ok(all.into_iter().filter(|row| row.chip == chip).collect())
}
