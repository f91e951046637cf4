//! Drawing tokens from rows of scores: the reference that device kernels agree with token for token.
//!
//! The weight of a score is `2^40 · e^((score - largest) / temperature)` as an integer, from operations that round alike
//! everywhere, so that no sum depends on its order.

/// What restricts and directs the choice from one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// What scores are divided by; the largest score is taken where it is not above 0.
    pub temperature: f32,
    /// The tokens kept, largest score first and equal ones by position; 0 for all.
    pub top_k: u32,
    /// Of those the shortest run that makes up this part of their probability; 1 for all.
    pub top_p: f32,
    /// Of those the ones at least this part as probable as the likeliest token; 0 for all.
    pub min_p: f32,
    /// The same seed draws the same random number.
    pub seed: u64,
}

/// The weight of the largest score.
const WHOLE: u64 = 1 << 40;

/// How scores become weights.
#[derive(Clone, Copy)]
struct Scale {
    top: f32,
    /// Powers of two that a unit of score is worth.
    factor: f32,
}

impl Scale {
    fn weight(self, score: f32) -> u64 {
        if score == self.top {
            return WHOLE;
        }
        let powers = (self.top - score) * self.factor;
        if powers < 41.0 { power((powers * 16_777_216.0) as u32) } else { 0 }
    }
}

/// `2^(40 - distance · 2^-24)`.
fn power(distance: u32) -> u64 {
    const TERMS: [u32; 6] = [0x0007_890f, 0x0054_a8a1, 0x0274_f5c7, 0x0e35_335e, 0x3d7f_7520, 0xb172_17e0];
    let x = u64::from(distance << 8);
    let times_x = |y: u32| ((x * u64::from(y)) >> 32) as u32;
    let sum = TERMS[1..].iter().fold(TERMS[0], |y, term| term - times_x(y));
    (((1u64 << 32) - u64::from(times_x(sum))) << 8) >> (distance >> 24)
}

/// The least integer no smaller than `part · whole`, 1 at least and `whole` at most.
fn part_of(part: f32, whole: u64) -> u64 {
    let exact = f64::from(part) * whole as f64;
    (exact.ceil() as u64).clamp(1, whole.max(1))
}

/// The first 64 bits that Philox4x32-10 gives for the key `seed` at counter 0 (Salmon et al., SC 2011).
pub fn random_bits(seed: u64) -> u64 {
    let (mut k0, mut k1, mut c) = (seed as u32, (seed >> 32) as u32, [0u32; 4]);
    for _ in 0..10 {
        let first = u64::from(c[0]) * 0xd251_1f53;
        let second = u64::from(c[2]) * 0xcd9e_8d57;
        c = [
            (second >> 32) as u32 ^ c[1] ^ k0,
            second as u32,
            (first >> 32) as u32 ^ c[3] ^ k1,
            first as u32,
        ];
        k0 = k0.wrapping_add(0x9e37_79b9);
        k1 = k1.wrapping_add(0xbb67_ae85);
    }
    u64::from(c[1]) << 32 | u64::from(c[0])
}

/// The position of the largest score, the first of equals; 0 in a row of nothing but NaN.
fn largest(scores: &[f32]) -> usize {
    let mut best = None;
    for (at, &score) in scores.iter().enumerate() {
        if !score.is_nan() && best.is_none_or(|best: usize| score > scores[best]) {
            best = Some(at);
        }
    }
    best.unwrap_or(0)
}

impl Sampling {
    /// The tokens that can be drawn from a row, by position, with their weights. Only the first largest one where the
    /// temperature asks for it or no score is above minus infinity.
    pub fn candidates(&self, scores: &[f32]) -> Vec<(u32, u64)> {
        let best = largest(scores);
        let top = scores[best];
        // False for NaN.
        let is_drawn = self.temperature > 0.0 && top > f32::NEG_INFINITY;
        if !is_drawn {
            return vec![(best as u32, WHOLE)];
        }
        let scale = Scale { top, factor: std::f32::consts::LOG2_E / self.temperature };
        let numbers = scores.iter().enumerate().filter(|(_, score)| !score.is_nan());
        let mut order: Vec<(u32, f32)> = numbers.map(|(at, &score)| (at as u32, score)).collect();
        // Stable: equal scores stay by position.
        order.sort_by(|a, b| b.1.partial_cmp(&a.1).expect("NaN was left out"));
        let mut kept: Vec<(u32, u64)> =
            order.into_iter().map(|(at, score)| (at, scale.weight(score))).collect();
        if self.top_k > 0 {
            kept.truncate(self.top_k as usize);
        }
        if self.top_p < 1.0 {
            let total = kept.iter().map(|&(_, weight)| weight).sum();
            let needed = part_of(self.top_p.max(0.0), total);
            let mut sum = 0;
            let reaches = |&(_, weight): &(u32, u64)| {
                sum += weight;
                sum >= needed
            };
            let last = kept.iter().position(reaches).unwrap_or(kept.len() - 1);
            kept.truncate(last + 1);
        }
        let least = if self.min_p > 0.0 { part_of(self.min_p.min(1.0), WHOLE) } else { 1 };
        kept.retain(|&(_, weight)| weight >= least);
        kept.sort_by_key(|&(at, _)| at);
        kept
    }

    /// Draws a token from a row of scores that is not empty.
    pub fn draw(&self, scores: &[f32]) -> u32 {
        let kept = self.candidates(scores);
        let total: u64 = kept.iter().map(|&(_, weight)| weight).sum();
        let target = ((u128::from(random_bits(self.seed)) * u128::from(total)) >> 64) as u64;
        let mut sum = 0;
        let passes = |&&(_, weight): &&(u32, u64)| {
            sum += weight;
            sum > target
        };
        kept.iter().find(passes).map_or(0, |&(at, _)| at)
    }
}

/// The natural logarithm of a token's probability in the row as it is: no temperature, no filter.
pub fn log_probability(scores: &[f32], token: u32) -> f32 {
    let top = scores[largest(scores)];
    let score = scores[token as usize];
    let below = if score == top { 0.0 } else { score - top };
    let scale = Scale { top, factor: std::f32::consts::LOG2_E };
    let total: u64 = scores.iter().filter(|score| !score.is_nan()).map(|&score| scale.weight(score)).sum();
    below - (total as f32 / WHOLE as f32).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 };

    #[test]
    fn weights_are_exponentials_to_seven_digits() {
        for i in 0..=4000u32 {
            let powers = f64::from(i) * 0.01;
            let weight = power((powers * 16_777_216.0) as u32) as f64;
            let exact = WHOLE as f64 * (-((powers * 16_777_216.0).floor() / 16_777_216.0)).exp2();
            assert!((weight - exact).abs() <= exact * 2e-8 + 1.0, "{powers}: {weight} {exact}");
        }
        assert_eq!(power(0), WHOLE);
    }

    #[test]
    fn random_numbers_are_those_of_the_publication() {
        // The known answer of Philox4x32-10 for key and counter 0.
        assert_eq!(random_bits(0), 0xe169_c58d_6627_e8d5);
    }

    #[test]
    fn filters_come_one_after_the_other() {
        let scores: Vec<f32> = [0.1f32, 0.4, 0.05, 0.25, 0.2].iter().map(|p| p.ln()).collect();
        let kept = |sampling: Sampling| -> Vec<u32> {
            sampling.candidates(&scores).into_iter().map(|(at, _)| at).collect()
        };
        assert_eq!(kept(PLAIN), [0, 1, 2, 3, 4]);
        assert_eq!(kept(Sampling { top_k: 3, ..PLAIN }), [1, 3, 4]);
        assert_eq!(kept(Sampling { top_p: 0.6, ..PLAIN }), [1, 3]);
        // 0.4 of the 0.85 that are left make up 0.47.
        assert_eq!(kept(Sampling { top_k: 3, top_p: 0.45, ..PLAIN }), [1]);
        assert_eq!(kept(Sampling { min_p: 0.4, ..PLAIN }), [1, 3, 4]);
        assert_eq!(kept(Sampling { top_p: 0.0, ..PLAIN }), [1]);
        assert_eq!(kept(Sampling { temperature: 0.0, ..PLAIN }), [1]);
    }

    #[test]
    fn rows_of_nothing_finite_give_their_first_largest_token() {
        let lowest = f32::NEG_INFINITY;
        assert_eq!(PLAIN.draw(&[f32::NAN, f32::NAN]), 0);
        assert_eq!(PLAIN.draw(&[f32::NAN, lowest, lowest]), 1);
        assert_eq!(PLAIN.draw(&[1.0, f32::INFINITY, lowest]), 1);
    }
}
