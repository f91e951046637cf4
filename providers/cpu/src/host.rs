//! What the system says of the machine: its processor and its memory.

/// The processor's name as the kernel reports it.
pub fn processor_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(':')).map_or_else(|| "CPU".into(), |(_, name)| name.trim().into())
}

/// Bytes of main memory; 0 when the system does not say.
pub fn memory_total() -> u64 {
    meminfo("MemTotal:")
}

/// Bytes of main memory that can be had without swapping; 0 when the system does not say.
pub fn memory_available() -> u64 {
    meminfo("MemAvailable:")
}

/// One figure of the kernel's memory report, in bytes.
fn meminfo(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(key));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)).and_then(|kib| kib.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
