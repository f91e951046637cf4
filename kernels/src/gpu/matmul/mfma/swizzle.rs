//! Where LDS holds the 16-byte pieces of a tile's rows, so that rows are written and columns read without bank conflicts.

/// Bytes along K of a row in LDS, which is one step of the main loop.
pub const ROW_BYTES: u32 = 128;

/// By how many bits the number of a row is shifted before it permutes the row's pieces: reads of 16 bytes a lane are served
/// 16 lanes at a time from 64 banks on CDNA4 (two rows), eight at a time from 32 banks on CDNA3 (one row).
pub const fn shift(has_wide_reads: bool) -> u32 {
    if has_wide_reads { 1 } else { 0 }
}

/// Byte in the tile at which piece `piece` (of eight) of row `row` lies.
pub const fn place(shift: u32, row: u32, piece: u32) -> u32 {
    row * ROW_BYTES + ((piece ^ ((row >> shift) & 7)) << 4)
}

/// Byte in the tile that lane `lane` reads as piece `index` of a fragment of `mma` rows from row `first` on.
pub const fn read_address(shift: u32, mma: u32, first: u32, index: u32, lane: u32) -> u32 {
    place(shift, first + lane % mma, index * (64 / mma) + lane / mma)
}

/// By what the places of the pieces of row `k` of a panel are permuted: `turn` in `arch/cdna/matmul_direct.h`. `bytes`: of
/// an element.
pub const fn turn(bytes: u32, k: u32) -> u32 {
    if bytes == 2 { ((k >> 1 & 1) << 1) | ((k >> 3 & 1) << 2) } else { (k >> 1 & 3) | ((k >> 4 & 1) << 2) }
}

/// Byte in an operand's tile, whose rows run along M or N, that lane `lane` names for half `half` of piece `index` of the tile
/// of 16 columns `tile`.
pub const fn transposed_address(bytes: u32, tile: u32, index: u32, half: u32, lane: u32) -> u32 {
    let (rows, lanes, depth) = (8 / bytes, 2 * bytes, ROW_BYTES / bytes);
    let k = (index * 4 + lane / 16) * 2 * rows + half * rows + lane % 16 / lanes;
    let (byte, tiles) = (lane % lanes * 8, 8 / bytes);
    let piece = tile % tiles * bytes + byte / 16;
    tile / tiles * depth * ROW_BYTES + k * ROW_BYTES + ((piece ^ turn(bytes, k)) << 4) + byte % 16
}
