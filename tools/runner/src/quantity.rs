//! Times, sizes and numbers as people read them.

use std::time::Duration;

use tenon_roofline::table::significant;

/// Three significant digits and a unit: `1.23 ms`.
pub fn time(duration: Duration) -> String {
    let ns = duration.as_nanos() as f64;
    let (value, unit) = match ns {
        _ if ns < 1e3 => (ns, "ns"),
        _ if ns < 1e6 => (ns / 1e3, "µs"),
        _ if ns < 1e9 => (ns / 1e6, "ms"),
        _ => (ns / 1e9, "s"),
    };
    format!("{} {unit}", significant(value))
}

/// Bytes in binary units: `12.5 MiB`.
pub fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{count} B") } else { format!("{} {unit}", significant(value)) };
        }
        value /= 1024.0;
    }
    format!("{} TiB", significant(value))
}

/// A tensor element: up to five significant digits, without noise for integers.
pub fn element(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf".into() } else { "-inf".into() };
    }
    if value == value.trunc() && value.abs() < 1e15 {
        return format!("{value}");
    }
    let magnitude = value.abs();
    if (1e-4..1e6).contains(&magnitude) {
        let digits = (4 - magnitude.log10().floor() as i32).max(0) as usize;
        let text = format!("{value:.digits$}");
        return if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            text
        };
    }
    format!("{value:.4e}")
}

/// Milliseconds, for JSON.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_well() {
        assert_eq!(time(Duration::from_nanos(873)), "873 ns");
        assert_eq!(time(Duration::from_nanos(12_345)), "12.3 µs");
        assert_eq!(time(Duration::from_micros(1_234_567)), "1.23 s");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(13_107_200), "12.5 MiB");
        assert_eq!(bytes(5 << 40), "5.00 TiB");
        assert_eq!(element(3.0), "3");
        assert_eq!(element(0.123456), "0.12346");
        assert_eq!(element(-1234.5678), "-1234.6");
        assert_eq!(element(1.5e-7), "1.5000e-7");
        assert_eq!(element(f64::NEG_INFINITY), "-inf");
    }
}
