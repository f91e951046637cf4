//! What each part of LDS was last used for, so that an access that no barrier orders is found.
//!
//! An access by another wave is ordered when that wave finished it (waited for it) before a barrier that both waves
//! passed since. Data that a load writes straight into LDS must in addition be waited for by its own wave.

/// How an instruction touches LDS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    Atomic,
    /// Written by a load from global memory.
    Direct,
}

/// An LDS instruction of the current stretch between barriers.
#[derive(Clone, Copy)]
struct Record {
    wave: u16,
    access: Access,
    /// The operation's number in its counter's queue.
    number: u32,
    epoch: u32,
    inst: u32,
}

/// Operations of a wave that had finished: by queue.
#[derive(Clone, Copy, Default)]
pub(crate) struct Finished {
    pub vector: u32,
    pub lds: u32,
}

/// Why an access is wrong, and the index of the earlier instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conflict {
    /// The same wave did not wait for its load.
    Poison { inst: u32 },
    /// Another wave's access is not ordered by a barrier.
    Race { inst: u32, wave: u16, access: Access },
}

/// The last uses of one cell, as numbers of records; numbers below `base` need no check any more.
#[derive(Clone, Copy, Default)]
struct Cell {
    write: u32,
    read: u32,
    /// A read by a wave other than the one of `read`.
    other_read: u32,
}

pub(crate) struct Shadow {
    cells: Vec<Cell>,
    /// Bytes of a cell as a power of two.
    shift: u32,
    records: Vec<Record>,
    /// The number of the first record.
    base: u32,
    epoch: u32,
    /// What each wave had finished when it arrived at the last barrier.
    released: Vec<Finished>,
}

impl Shadow {
    pub fn new() -> Shadow {
        let (cells, records, released) = (Vec::new(), Vec::new(), Vec::new());
        Shadow { cells, shift: 2, records, base: 1, epoch: 0, released }
    }

    /// Prepares for a workgroup. `granule` is the least number of bytes that an instruction writes: 1, 2 or 4.
    pub fn reset(&mut self, lds_bytes: usize, waves: usize, granule: u32) {
        self.shift = granule.trailing_zeros();
        let cells = lds_bytes.div_ceil(1 << self.shift);
        self.cells.resize(cells, Cell::default());
        self.forget();
        // Numbers never repeat, unless they run out.
        if self.base > u32::MAX / 2 {
            self.base = 1;
            self.cells.fill(Cell::default());
        }
        self.epoch = 0;
        self.released.clear();
        self.released.resize(waves, Finished::default());
    }

    fn forget(&mut self) {
        self.base += self.records.len() as u32;
        self.records.clear();
    }

    /// Starts an instruction's accesses.
    pub fn begin(&mut self, wave: usize, access: Access, number: u32, inst: u32) {
        self.records.push(Record { wave: wave as u16, access, number, epoch: self.epoch, inst });
    }

    /// Notes that the instruction touches `bytes` bytes at `address`. `retired` is what its wave's vector queue
    /// has finished.
    #[inline]
    pub fn touch(&mut self, address: usize, bytes: usize, retired: u32) -> Result<(), Conflict> {
        let number = self.base + self.records.len() as u32 - 1;
        let current = self.records[self.records.len() - 1];
        let last = (address + bytes - 1) >> self.shift;
        for at in address >> self.shift..=last {
            let cell = self.cells[at];
            self.verify(cell.write, &current, retired)?;
            if current.access == Access::Read {
                if cell.read >= self.base && self.record(cell.read).wave != current.wave {
                    self.cells[at].other_read = cell.read;
                }
                self.cells[at].read = number;
            } else {
                self.verify(cell.read, &current, retired)?;
                self.verify(cell.other_read, &current, retired)?;
                self.cells[at].write = number;
            }
        }
        Ok(())
    }

    #[inline]
    fn record(&self, number: u32) -> &Record {
        &self.records[(number - self.base) as usize]
    }

    /// Checks the current access against an earlier one.
    #[inline]
    fn verify(&self, earlier: u32, current: &Record, retired: u32) -> Result<(), Conflict> {
        if earlier < self.base {
            return Ok(());
        }
        let earlier = self.record(earlier);
        if earlier.wave == current.wave {
            let in_order = earlier.access != Access::Direct || current.access == Access::Direct;
            if in_order || earlier.number <= retired {
                return Ok(());
            }
            return Err(Conflict::Poison { inst: earlier.inst });
        }
        if earlier.access == Access::Atomic && current.access == Access::Atomic {
            return Ok(());
        }
        let released = self.released[usize::from(earlier.wave)];
        let finished = if earlier.access == Access::Direct { released.vector } else { released.lds };
        if earlier.epoch < self.epoch && earlier.number <= finished {
            return Ok(());
        }
        Err(Conflict::Race { inst: earlier.inst, wave: earlier.wave, access: earlier.access })
    }

    /// All waves passed a barrier. `finished` is what each had finished; `quiet` when none has anything outstanding.
    pub fn barrier(&mut self, finished: impl Iterator<Item = Finished>, quiet: bool) {
        self.epoch += 1;
        self.released.clear();
        self.released.extend(finished);
        if quiet {
            self.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Finished = Finished { vector: 0, lds: 0 };
    const ALL: Finished = Finished { vector: u32::MAX, lds: u32::MAX };

    fn shadow() -> Shadow {
        let mut shadow = Shadow::new();
        shadow.reset(64, 2, 4);
        shadow
    }

    #[test]
    fn a_write_and_a_read_of_another_wave_race_until_a_barrier() {
        for finished in [NOTHING, ALL] {
            let mut shadow = shadow();
            shadow.begin(0, Access::Write, 1, 10);
            assert_eq!(shadow.touch(8, 4, 0), Ok(()));
            shadow.begin(1, Access::Read, 1, 11);
            let race = Conflict::Race { inst: 10, wave: 0, access: Access::Write };
            assert_eq!(shadow.touch(8, 4, 0), Err(race));
            assert_eq!(shadow.touch(12, 4, 0), Ok(()));
            shadow.barrier([finished; 2].into_iter(), false);
            shadow.begin(1, Access::Read, 2, 12);
            // The barrier orders only what was waited for.
            assert_eq!(shadow.touch(8, 4, 0).is_ok(), finished.lds == u32::MAX);
        }
    }

    #[test]
    fn overwriting_what_another_wave_reads_is_a_race_even_after_reading_it_too() {
        let mut shadow = shadow();
        for wave in [0, 1] {
            shadow.begin(wave, Access::Read, 1, wave as u32);
            assert_eq!(shadow.touch(0, 16, 0), Ok(()));
        }
        shadow.begin(1, Access::Write, 2, 2);
        assert_eq!(shadow.touch(0, 4, 0), Err(Conflict::Race { inst: 0, wave: 0, access: Access::Read }));
    }

    #[test]
    fn a_direct_load_is_poison_for_its_own_wave_until_it_retires() {
        let mut shadow = shadow();
        shadow.begin(0, Access::Direct, 3, 5);
        assert_eq!(shadow.touch(0, 4, 0), Ok(()));
        shadow.begin(0, Access::Read, 1, 6);
        assert_eq!(shadow.touch(0, 4, 2), Err(Conflict::Poison { inst: 5 }));
        assert_eq!(shadow.touch(0, 4, 3), Ok(()));
    }

    #[test]
    fn atomics_of_two_waves_do_not_race() {
        let mut shadow = shadow();
        for wave in [0, 1] {
            shadow.begin(wave, Access::Atomic, 1, 0);
            assert_eq!(shadow.touch(0, 4, 0), Ok(()));
        }
    }
}
