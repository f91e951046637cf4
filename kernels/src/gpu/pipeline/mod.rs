//! What time a kernel should take on a chip, and why: a model of its main loop, its ends, its rounds over the compute
//! units, the caches and the clock. Every result is an estimate.
//!
//! A planner's parameters become [`Work`], counts that no vendor is named in ([`product`], [`attention`], [`stream`]);
//! [`estimate`] turns them into seconds on a [`Machine`], a chip with the `[[model]]` of its family. [`published`] reads
//! measured times, [`fit`] finds the constants that explain them and the error on rows that were left out.

pub mod attention;
mod candidate;
pub mod fit;
mod machine;
pub mod product;
pub mod published;
pub mod stream;
#[cfg(test)]
mod tests;
mod work;

pub use candidate::{Choice, attention_choice, matmul_choices};
pub use machine::{Clock, Machine, Model};
pub use work::{Iteration, Schedule, Work};

/// What sets a kernel's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limiter {
    /// Matrix instructions are issued without a pause, at the highest clock.
    Matrix,
    /// The same, at the lower clock that the chip's power allows.
    Clock,
    /// Vector and exponential instructions.
    Vector,
    /// Reads and writes of shared memory (LDS).
    Shared,
    /// Loads from the die's cache into a compute unit.
    Load,
    /// Too few bytes are on their way for the memory's latency.
    Latency,
    /// Traffic between the dies and the cache that they share.
    Fabric,
    /// Device memory.
    Memory,
    /// The last round leaves compute units idle.
    Rounds,
    /// Filling the pipeline, and writing the tile.
    Ends,
    /// Starting the kernel.
    Launch,
}

impl Limiter {
    /// As tables print it.
    pub fn name(self) -> &'static str {
        match self {
            Limiter::Matrix => "matrix units",
            Limiter::Clock => "matrix units, power-limited clock",
            Limiter::Vector => "vector units",
            Limiter::Shared => "shared memory",
            Limiter::Load => "loads into the unit",
            Limiter::Latency => "bytes in flight",
            Limiter::Fabric => "traffic between dies",
            Limiter::Memory => "device memory",
            Limiter::Rounds => "idle units in the last round",
            Limiter::Ends => "tile prologue and epilogue",
            Limiter::Launch => "kernel start",
        }
    }
}

/// A share of an estimated time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Component {
    pub name: &'static str,
    pub seconds: f64,
}

/// An expected time, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    pub seconds: f64,
    /// What the problem asks for, without padding and reading anything twice.
    pub flops: f64,
    pub bytes: f64,
    /// Shares that sum to `seconds`, from what cannot be avoided to what is lost.
    pub components: Vec<Component>,
    pub limiter: Limiter,
    /// Cycles of one iteration by resource, of all workgroups on a compute unit.
    pub cycles: Vec<(Limiter, f64)>,
    /// The clock under this load.
    pub clock_hz: f64,
    /// Mean relative error of the model on measured kernels that it was not fitted to.
    pub error: f64,
}

impl Estimate {
    pub fn flops_per_second(&self) -> f64 {
        self.flops / self.seconds
    }

    pub fn bytes_per_second(&self) -> f64 {
        self.bytes / self.seconds
    }
}

/// Exponent with which computing and device memory overlap over a whole kernel.
const MEMORY_OVERLAP: f64 = 4.0;

/// Expected time of `work` on `machine`.
pub fn estimate(work: &Work, machine: &Machine) -> Estimate {
    let mut clock_hz = machine.chip.clock_hz;
    let mut timing = Timing::at(work, machine, clock_hz);
    // Activity falls as the clock falls less than the rest: a few steps settle.
    for _ in 0..12 {
        let sustained = machine.sustained_hz * timing.activity.max(1e-6).powf(-machine.model.power_exponent);
        clock_hz = 0.5 * (clock_hz + sustained.min(machine.chip.clock_hz));
        timing = Timing::at(work, machine, clock_hz);
    }
    let highest = Timing::at(work, machine, machine.chip.clock_hz);
    Estimate {
        seconds: timing.seconds,
        flops: work.useful_flops,
        bytes: work.useful_bytes,
        components: components(work, machine, &timing, &highest),
        limiter: limiter(machine, &timing, clock_hz),
        cycles: timing.resources.to_vec(),
        clock_hz,
        error: machine.model.error,
    }
}

/// Times of the parts at one clock.
struct Timing {
    seconds: f64,
    /// Share of all matrix units' cycles that multiply.
    activity: f64,
    /// Cycles of an iteration on a compute unit, of each resource and together.
    resources: [(Limiter, f64); 6],
    iteration_cycles: f64,
    rounds: f64,
    /// Rounds if no unit ever waited for another.
    full_rounds: f64,
    end_seconds: f64,
    compute_seconds: f64,
    memory_seconds: f64,
    launch_seconds: f64,
    is_latency_bound: bool,
}

impl Timing {
    fn at(work: &Work, machine: &Machine, clock_hz: f64) -> Self {
        let (chip, model) = (&machine.chip, &machine.model);
        let units = f64::from(chip.compute_units);
        let resident = f64::from(work.resident).min((work.groups / units).ceil()).max(1.0);
        let active = work.groups.min(units * resident);
        let full_rounds = work.groups / (units * resident);
        let rounds = match work.unevenness {
            None => full_rounds.ceil(),
            // The last workgroups end one after the other.
            Some(longest) => (full_rounds + 0.5).max(longest),
        };

        let each = &work.iteration;
        let per_second = |bytes: f64, rate: f64| if rate > 0.0 { bytes / rate * clock_hz } else { 0.0 };
        let matrix = resident * each.matrix_flops / model.matrix_rate(work.element_bits);
        let vector = each.vector_ops / model.vector_lanes + each.exponentials / model.exponential_lanes;
        let shared = each.shared_read_bytes / model.shared_read_bytes_per_cycle
            + each.shared_write_bytes / model.shared_write_bytes_per_cycle;
        let waiting =
            model.cache_latency_seconds * clock_hz * each.load_bytes / work.bytes_in_flight.max(1.0);
        let fabric_bytes = each.fabric_bytes_per_die * f64::from(chip.dies);
        let resources = [
            (Limiter::Matrix, matrix),
            (Limiter::Vector, resident * vector),
            (Limiter::Shared, resident * shared),
            (Limiter::Load, resident * each.load_bytes / model.load_bytes_per_cycle),
            (Limiter::Latency, waiting),
            (Limiter::Fabric, per_second(fabric_bytes, model.fabric_bytes_per_second)),
        ];
        let overlap = match work.schedule {
            Schedule::Product => model.overlap,
            Schedule::Attention => model.attention_overlap,
        };
        let together = smooth_max(&resources.map(|(_, cycles)| cycles), overlap);
        let iteration_cycles = together + model.sync_cycles * each.barriers / resident;

        let store_rate = (chip.bytes_per_second * model.store_share).max(1.0);
        let store_seconds = active * work.store_bytes / store_rate;
        // Where workgroups share a unit, one computes while the other fills or drains.
        let end_seconds = (model.tile_seconds + store_seconds + work.end_seconds) / resident.sqrt();
        let compute_seconds = rounds * (work.iterations * iteration_cycles / clock_hz + end_seconds);

        let in_flight_rate = active * work.bytes_in_flight / model.latency_seconds;
        let memory_rate = (chip.bytes_per_second * model.memory_share).min(in_flight_rate.max(1.0));
        let is_latency_bound = in_flight_rate < chip.bytes_per_second * model.memory_share;
        let memory_seconds = work.memory_bytes / memory_rate + model.ramp_seconds;
        let crowd_seconds = model.crowd_seconds * work.groups.min(units) / units;
        let launch_seconds = model.launch_seconds + crowd_seconds + work.extra_seconds;
        let seconds = smooth_max(&[compute_seconds, memory_seconds], MEMORY_OVERLAP) + launch_seconds;
        let matrix_seconds = work.groups * work.iterations * matrix / resident / clock_hz / units;
        Self {
            seconds,
            activity: matrix_seconds / seconds,
            resources,
            iteration_cycles,
            rounds,
            full_rounds,
            end_seconds,
            compute_seconds,
            memory_seconds,
            launch_seconds,
            is_latency_bound,
        }
    }

    /// Seconds of the main loops at `clock_hz`.
    fn loop_seconds(&self, work: &Work, clock_hz: f64) -> f64 {
        self.rounds * work.iterations * self.iteration_cycles / clock_hz
    }
}

/// `(sum of x^p)^(1/p)`: the largest where one dominates, more where several hinder each other.
fn smooth_max(values: &[f64], exponent: f64) -> f64 {
    let largest = values.iter().copied().fold(0.0, f64::max);
    if largest <= 0.0 {
        return 0.0;
    }
    let sum: f64 = values.iter().map(|v| (v / largest).powf(exponent)).sum();
    largest * sum.powf(1.0 / exponent)
}

/// The shares of the estimated time.
fn components(work: &Work, machine: &Machine, timing: &Timing, highest: &Timing) -> Vec<Component> {
    let chip = &machine.chip;
    let share = |name, seconds: f64| Component { name, seconds };
    let launch = share("kernel start", timing.launch_seconds);
    if timing.memory_seconds > timing.compute_seconds {
        let least = (work.useful_bytes / chip.bytes_per_second).min(timing.memory_seconds);
        let moved = (work.memory_bytes / chip.bytes_per_second).clamp(least, timing.memory_seconds);
        return vec![
            share("memory at the data sheet's rate", least),
            share("bytes read more than once", moved - least),
            share("memory below the data sheet's rate", timing.memory_seconds - moved),
            share(
                "computing that memory does not hide",
                timing.seconds - timing.memory_seconds - timing.launch_seconds,
            ),
            launch,
        ];
    }
    let clock = chip.clock_hz;
    let rate = machine.model.matrix_rate(work.element_bits) * clock * f64::from(chip.compute_units);
    let useful = work.useful_flops / rate;
    let padded = (work.groups * work.iterations * work.iteration.matrix_flops / rate).max(useful);
    let matrix = highest.resources[0].1;
    let rounds = highest.rounds.max(highest.full_rounds) * work.iterations * matrix / clock;
    let loops = highest.loop_seconds(work, clock);
    let ends = timing.rounds * timing.end_seconds;
    vec![
        share("matrix units at the highest clock", useful),
        share("edges of tiles, masked parts", padded - useful),
        share("idle units in the last round", rounds - padded),
        share("main loop beyond its matrix instructions", loops - rounds),
        share("clock below its highest", timing.compute_seconds - ends - loops),
        share("tile prologue and epilogue", ends),
        share(
            "memory that computing does not hide",
            timing.seconds - timing.compute_seconds - timing.launch_seconds,
        ),
        launch,
    ]
}

fn limiter(machine: &Machine, timing: &Timing, clock_hz: f64) -> Limiter {
    let body = timing.compute_seconds.max(timing.memory_seconds);
    if timing.launch_seconds > body {
        return Limiter::Launch;
    }
    if timing.memory_seconds > timing.compute_seconds {
        return if timing.is_latency_bound { Limiter::Latency } else { Limiter::Memory };
    }
    if timing.rounds * timing.end_seconds > 0.5 * timing.compute_seconds {
        return Limiter::Ends;
    }
    if timing.rounds > 2.0 * timing.full_rounds {
        return Limiter::Rounds;
    }
    let slowest = timing.resources.iter().max_by(|a, b| a.1.total_cmp(&b.1));
    let (resource, cycles) = slowest.copied().unwrap_or((Limiter::Matrix, 0.0));
    // Relieving a resource that is as busy as the matrix units lowers the clock in turn.
    if clock_hz < 0.95 * machine.chip.clock_hz && timing.resources[0].1 > 0.8 * cycles {
        return Limiter::Clock;
    }
    resource
}
