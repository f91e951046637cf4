//! Elements of fewer than 8 bits, packed low bits first, as one code a byte and back.

/// Unpacks the `codes.len()` elements of `bits` bits from element `start` on.
pub fn unpack(packed: &[u8], bits: usize, start: usize, codes: &mut [u8]) {
    let mask = ((1u16 << bits) - 1) as u8;
    for (i, code) in codes.iter_mut().enumerate() {
        let at = (start + i) * bits;
        let (byte, shift) = (at / 8, at % 8);
        let low = u16::from(packed[byte]);
        let high = if shift + bits > 8 { u16::from(packed[byte + 1]) << 8 } else { 0 };
        *code = ((low | high) >> shift) as u8 & mask;
    }
}

/// Packs codes of `bits` bits, of which only the low `bits` count; spare bits of the last byte are zero. `packed` starts
/// at a byte boundary and has exactly the bytes needed.
pub fn pack(codes: &[u8], bits: usize, packed: &mut [u8]) {
    packed.fill(0);
    let mask = ((1u16 << bits) - 1) as u8;
    for (i, code) in codes.iter().enumerate() {
        let at = i * bits;
        let (byte, shift) = (at / 8, at % 8);
        let wide = u16::from(code & mask) << shift;
        packed[byte] |= wide as u8;
        if shift + bits > 8 {
            packed[byte + 1] |= (wide >> 8) as u8;
        }
    }
}

/// The value of a two's complement code of `bits` bits.
pub fn sign_extend(code: u8, bits: usize) -> i8 {
    let shift = 8 - bits;
    ((code << shift) as i8) >> shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_inverts_unpacking() {
        for bits in [2usize, 4, 6] {
            let codes: Vec<u8> = (0..37u8).map(|i| i.wrapping_mul(29) & ((1 << bits) - 1)).collect();
            let mut packed = vec![0xFF; (37 * bits).div_ceil(8)];
            pack(&codes, bits, &mut packed);
            for start in [0, 1, 8, 35] {
                let mut back = vec![0; 37 - start];
                unpack(&packed, bits, start, &mut back);
                assert_eq!(back, codes[start..], "{bits} bits from {start}");
            }
        }
        assert_eq!([sign_extend(0xF, 4), sign_extend(7, 4), sign_extend(2, 2)], [-1, 7, -2]);
    }
}
