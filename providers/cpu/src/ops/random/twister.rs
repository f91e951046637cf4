//! The Mersenne Twister MT19937 (Matsumoto and Nishimura, 1998) with the seeding and the draws that numpy's legacy
//! `RandomState` made a convention, so that a seed gives the same numbers here and there.

const N: usize = 624;
const M: usize = 397;

/// A generator of pseudo-random numbers.
pub struct Twister {
    state: [u32; N],
    next: usize,
    /// The second of the last pair of normal draws.
    spare: Option<f64>,
}

impl Twister {
    /// The generator that numpy's `RandomState(seed)` has.
    pub fn new(seed: u32) -> Twister {
        let mut state = [seed; N];
        for i in 1..N {
            let last = state[i - 1];
            state[i] = (last ^ last >> 30).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        Twister { state, next: N, spare: None }
    }

    fn refill(&mut self) {
        for i in 0..N {
            let y = self.state[i] & 0x8000_0000 | self.state[(i + 1) % N] & 0x7FFF_FFFF;
            let twist = if y & 1 == 1 { 0x9908_B0DF } else { 0 };
            self.state[i] = self.state[(i + M) % N] ^ y >> 1 ^ twist;
        }
        self.next = 0;
    }

    /// 32 even bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.next == N {
            self.refill();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= y << 7 & 0x9D2C_5680;
        y ^= y << 15 & 0xEFC6_0000;
        y ^ y >> 18
    }

    /// An even draw from `0 .. 1` with 53 bits.
    pub fn uniform(&mut self) -> f64 {
        let (high, low) = (self.next_u32() >> 5, self.next_u32() >> 6);
        (f64::from(high) * 67_108_864.0 + f64::from(low)) / 9_007_199_254_740_992.0
    }

    /// A draw from the standard normal distribution, by Marsaglia's polar method.
    pub fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        loop {
            let x = 2.0 * self.uniform() - 1.0;
            let y = 2.0 * self.uniform() - 1.0;
            let square = x * x + y * y;
            if square > 0.0 && square < 1.0 {
                let factor = (-2.0 * square.ln() / square).sqrt();
                self.spare = Some(factor * x);
                return factor * y;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_those_of_the_published_generator() {
        let mut twister = Twister::new(5489);
        assert_eq!(twister.next_u32(), 3_499_211_612);
        let last = (0..9999).map(|_| twister.next_u32()).last();
        assert_eq!(last, Some(4_123_659_995));
        // The first draws of RandomState(0).
        assert!((Twister::new(0).uniform() - 0.548_813_503_927_324_8).abs() < 1e-15);
        assert!((Twister::new(0).normal() - 1.764_052_345_967_664).abs() < 1e-12);
    }
}
