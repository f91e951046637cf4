//! Statuses with the numbers of `hiprtcResult`.

/// What every function returns.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub i32);

impl Status {
    pub const SUCCESS: Status = Status(0);
    pub const INVALID_INPUT: Status = Status(3);
    pub const INVALID_PROGRAM: Status = Status(4);
    pub const INVALID_OPTION: Status = Status(5);
    pub const COMPILATION: Status = Status(6);
}
