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
