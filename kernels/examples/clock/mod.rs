//! The clock of the benchmarks: what a thread spent on a core, which other processes disturb less than wall time.

use std::time::Instant;

/// Seconds this thread has spent on a core, or wall time where the system does not say.
#[cfg(target_os = "linux")]
pub fn thread_time(_: Instant) -> f64 {
    #[repr(C)]
    struct Timespec {
        seconds: i64,
        nanoseconds: i64,
    }
    unsafe extern "C" {
        fn clock_gettime(clock: i32, time: *mut Timespec) -> i32;
    }
    const THREAD_CPUTIME: i32 = 3;
    let mut time = Timespec { seconds: 0, nanoseconds: 0 };
    // SAFETY: the structure has the layout of a 64-bit system's timespec.
    unsafe { clock_gettime(THREAD_CPUTIME, &mut time) };
    time.seconds as f64 + time.nanoseconds as f64 / 1e9
}

/// Wall time since `start` in seconds.
#[cfg(not(target_os = "linux"))]
pub fn thread_time(start: Instant) -> f64 {
    start.elapsed().as_secs_f64()
}
