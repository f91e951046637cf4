//! Running a kernel over a grid: arguments, initial registers, workgroups on threads, waves in turn.

use crate::error::{Error, Kind, Result};
use crate::execute::{Group, Machine};
use crate::inst::Class;
use crate::memory::{Memory, View};
use crate::object::{Kernel, KernelInner};
use crate::program::Program;
use crate::report::Report;
use crate::shadow::{Finished, Shadow};
use crate::target::Target;
use crate::wave::{LANES, M0, Mode, State, Wave};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A kernel launch.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    /// Workgroups in x, y and z.
    pub grid: [u32; 3],
    /// Work-items of a workgroup in x, y and z.
    pub block: [u32; 3],
    /// LDS beyond what the kernel declares, in bytes.
    pub dynamic_lds: u32,
    /// The explicit arguments as they lie in the argument segment; hidden arguments are filled in.
    pub arguments: Vec<u8>,
}

/// A deliberate fault of the emulator, with which tests prove that kernels notice it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// `s_barrier` does nothing.
    BarrierIgnored,
    /// `s_waitcnt` does nothing.
    WaitIgnored,
    /// Rows of matrix results come in another order.
    RowOrder,
    /// The elements inside the first matrix operand come in another order.
    OperandOrder,
    /// Transposed LDS reads do not transpose.
    TransposeIgnored,
    /// Row swaps between registers do nothing.
    SwapIgnored,
}

/// How a launch runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Threads that run workgroups; 0 means one a processor.
    pub threads: usize,
    /// Instructions a wave may execute before the launch fails as endless.
    pub instruction_limit: u64,
    /// Registers whose load was not waited for are errors.
    pub check_waits: bool,
    /// LDS accesses that no barrier orders are errors.
    pub check_races: bool,
    /// Counts the LDS cycles of the report.
    pub bank_conflicts: bool,
    pub mutation: Option<Mutation>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            threads: 0,
            instruction_limit: 1 << 32,
            check_waits: true,
            check_races: true,
            bank_conflicts: false,
            mutation: None,
        }
    }
}

/// What all waves of a launch see.
pub(crate) struct Context<'a> {
    pub view: View<'a>,
    pub target: Target,
    pub options: Options,
    pub program: &'a Program,
    /// LDS accesses are tracked.
    pub shadowed: bool,
}

/// Bytes of the dispatch packet that kernels may ask for (HSA kernel dispatch packet).
const PACKET_BYTES: u64 = 64;

impl Kernel {
    /// Runs the kernel to its end.
    ///
    /// # Errors
    /// The first fault in launch order among the workgroups that ran; it names kernel, instruction, workgroup and
    /// wave. Memory then holds whatever was written before.
    pub fn launch(&self, memory: &Memory, launch: &Launch, options: &Options) -> Result<Report> {
        self.validate(launch)?;
        let program = self.program()?;
        let segment = self.segment(launch);
        let segment_bytes = segment.len() as u64;
        let address = memory.allocate(segment_bytes + PACKET_BYTES)?;
        memory.write(address, &segment)?;
        memory.write(address + segment_bytes, &packet(launch, self, address))?;
        let waves = launch.block.iter().product::<u32>().div_ceil(LANES as u32);
        let context = Context {
            view: memory.view(),
            target: self.target(),
            options: *options,
            program: &program,
            shadowed: options.check_races && (waves > 1 || program.has_direct_loads),
        };
        let run = Run {
            kernel: &self.inner,
            context,
            launch,
            arguments: address,
            packet: address + segment_bytes,
            next: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            outcome: Mutex::new((None, Report::default())),
        };
        run.all();
        let (failure, report) = run.finish();
        memory.free(address);
        match failure {
            Some((_, error)) => Err(error.at(format!("kernel {}", self.name()))),
            None => Ok(report),
        }
    }

    fn validate(&self, launch: &Launch) -> Result<()> {
        let refuse =
            |message: String| Err(Error::new(Kind::Launch, format!("kernel {}: {message}", self.name())));
        let items = launch.block.iter().map(|&size| u64::from(size)).product::<u64>();
        if items == 0 || items > u64::from(self.max_block()) {
            return refuse(format!(
                "{items} work-items a workgroup, from 1 to {} are allowed",
                self.max_block()
            ));
        }
        if launch.grid.contains(&0) {
            return refuse("the grid has a dimension of 0".to_string());
        }
        let lds = u64::from(self.lds_bytes()) + u64::from(launch.dynamic_lds);
        if lds > u64::from(self.target().lds_bytes()) {
            return refuse(format!("{lds} bytes of LDS, {} are there", self.target().lds_bytes()));
        }
        const LARGEST: u32 = 1 << 20;
        if self.scratch_bytes() > LARGEST || self.argument_bytes() > LARGEST {
            return refuse(format!(
                "{} bytes of scratch and {} of arguments are more than a device takes",
                self.scratch_bytes(),
                self.argument_bytes()
            ));
        }
        let explicit = self.arguments().iter().filter(|argument| !argument.is_hidden());
        let needed = explicit.map(|argument| argument.offset + argument.size).max().unwrap_or(0);
        if (launch.arguments.len() as u64) < u64::from(needed) {
            return refuse(format!("{} bytes of arguments, {needed} are needed", launch.arguments.len()));
        }
        let mode = Mode(self.inner.descriptor.mode());
        if !mode.rounds_to_nearest() {
            return Err(Error::new(
                Kind::Unsupported,
                "a rounding mode other than to nearest is not modelled",
            ));
        }
        Ok(())
    }

    /// The argument segment with its hidden arguments.
    fn segment(&self, launch: &Launch) -> Vec<u8> {
        let size = (self.argument_bytes() as usize).max(launch.arguments.len());
        let mut segment = vec![0; size.next_multiple_of(64).max(64)];
        segment[..launch.arguments.len()].copy_from_slice(&launch.arguments);
        for argument in self.arguments().iter().filter(|argument| argument.is_hidden()) {
            let [x, y, z] = launch.grid.map(u64::from);
            let value = match argument.kind.as_str() {
                "hidden_block_count_x" => x,
                "hidden_block_count_y" => y,
                "hidden_block_count_z" => z,
                "hidden_group_size_x" => launch.block[0].into(),
                "hidden_group_size_y" => launch.block[1].into(),
                "hidden_group_size_z" => launch.block[2].into(),
                "hidden_grid_dims" => 3,
                "hidden_dynamic_lds_size" => launch.dynamic_lds.into(),
                "hidden_shared_base" => crate::wave::SHARED_BASE >> 32,
                "hidden_private_base" => crate::wave::PRIVATE_BASE >> 32,
                _ => 0,
            };
            let place = argument.offset as usize..(argument.offset + argument.size.min(8)) as usize;
            if let Some(bytes) = segment.get_mut(place) {
                let len = bytes.len();
                bytes.copy_from_slice(&value.to_le_bytes()[..len]);
            }
        }
        segment
    }
}

fn packet(launch: &Launch, kernel: &Kernel, arguments: u64) -> [u8; PACKET_BYTES as usize] {
    let mut packet = [0; PACKET_BYTES as usize];
    for axis in 0..3 {
        packet[4 + 2 * axis..6 + 2 * axis].copy_from_slice(&(launch.block[axis] as u16).to_le_bytes());
        let items = launch.grid[axis].wrapping_mul(launch.block[axis]);
        packet[12 + 4 * axis..16 + 4 * axis].copy_from_slice(&items.to_le_bytes());
    }
    packet[24..28].copy_from_slice(&kernel.scratch_bytes().to_le_bytes());
    packet[28..32].copy_from_slice(&(kernel.lds_bytes() + launch.dynamic_lds).to_le_bytes());
    packet[40..48].copy_from_slice(&arguments.to_le_bytes());
    packet
}

/// A launch in progress.
struct Run<'a> {
    kernel: &'a KernelInner,
    context: Context<'a>,
    launch: &'a Launch,
    arguments: u64,
    packet: u64,
    next: AtomicU64,
    failed: AtomicBool,
    /// The failure of the earliest workgroup, and the counts.
    outcome: Mutex<(Option<(u64, Error)>, Report)>,
}

/// What a thread keeps from one workgroup to the next.
struct Worker {
    waves: Vec<Wave>,
    group: Group,
    report: Report,
    hint: usize,
}

impl Run<'_> {
    fn all(&self) {
        let groups = self.launch.grid.iter().map(|&size| u64::from(size)).product::<u64>();
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        let wanted =
            if self.context.options.threads == 0 { processors() } else { self.context.options.threads };
        let threads = wanted.min(usize::try_from(groups).unwrap_or(wanted));
        if threads <= 1 {
            return self.work(groups);
        }
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| self.work(groups));
            }
        });
    }

    fn finish(self) -> (Option<(u64, Error)>, Report) {
        self.outcome.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes workgroups in launch order until none is left or one failed.
    fn work(&self, groups: u64) {
        let count = self.launch.block.iter().product::<u32>().div_ceil(LANES as u32);
        let mut worker = Worker {
            waves: (0..count).map(|_| Wave::new()).collect(),
            group: Group { lds: Vec::new(), shadow: Shadow::new(), wave: 0, id: [0; 3], linear: 0 },
            report: Report::default(),
            hint: 0,
        };
        let mut failure = None;
        while !self.failed.load(Ordering::Relaxed) {
            let linear = self.next.fetch_add(1, Ordering::Relaxed);
            if linear >= groups {
                break;
            }
            if let Err(error) = self.group(&mut worker, linear) {
                self.failed.store(true, Ordering::Relaxed);
                failure = Some((linear, error));
            }
        }
        let mut outcome = self.outcome.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        outcome.1.add(&worker.report);
        let earlier = |(known, _): &(u64, Error)| failure.as_ref().is_none_or(|(new, _)| known <= new);
        if !outcome.0.as_ref().is_some_and(earlier) && failure.is_some() {
            outcome.0 = failure;
        }
    }

    /// Runs one workgroup.
    fn group(&self, worker: &mut Worker, linear: u64) -> Result<()> {
        let [x, y, _] = self.launch.grid.map(u64::from);
        let id = [linear % x, linear / x % y, linear / x / y].map(|position| position as u32);
        let lds = self.kernel.descriptor.lds_bytes + self.launch.dynamic_lds;
        let group = &mut worker.group;
        (group.id, group.linear) = (id, linear);
        group.lds.clear();
        // LDS starts with what is NaN in every float format.
        group.lds.resize(lds as usize, 0xff);
        if self.context.shadowed {
            group.shadow.reset(lds as usize, worker.waves.len(), self.context.program.granule);
        }
        for index in 0..worker.waves.len() {
            self.start(&mut worker.waves[index], index, id);
        }
        worker.report.workgroups += 1;
        worker.report.waves += worker.waves.len() as u64;
        while worker.waves.iter().any(|wave| wave.state != State::Ended) {
            for index in 0..worker.waves.len() {
                if matches!(worker.waves[index].state, State::Running | State::Yielded) {
                    worker.waves[index].state = State::Running;
                    self.wave(worker, index)?;
                }
            }
            self.release_barrier(worker);
        }
        Ok(())
    }

    /// Lets waves go on when all that have not ended arrived at the barrier.
    fn release_barrier(&self, worker: &mut Worker) {
        let arrived = |wave: &Wave| matches!(wave.state, State::AtBarrier | State::Ended);
        if !worker.waves.iter().all(arrived) {
            return;
        }
        let finished = worker.waves.iter().map(|wave| match wave.state {
            State::Ended => Finished { vector: u32::MAX, lds: u32::MAX },
            _ => Finished { vector: wave.counters.vector_retired(), lds: wave.counters.lds_retired() },
        });
        let quiet = worker.waves.iter().all(|wave| {
            let counters = &wave.counters;
            wave.state == State::Ended
                || counters.vector_retired() == counters.vector_number()
                    && counters.lds_retired() == counters.lds_number()
        });
        worker.group.shadow.barrier(finished, quiet);
        for wave in worker.waves.iter_mut().filter(|wave| wave.state == State::AtBarrier) {
            wave.state = State::Running;
        }
    }

    /// Sets the registers a wave starts with (LLVM's AMDGPU usage guide, "Initial Kernel Execution State").
    fn start(&self, wave: &mut Wave, index: usize, id: [u32; 3]) {
        let [width, height, depth] = self.launch.block;
        let items = width * height * depth;
        let first = index as u32 * LANES as u32;
        let active = (items - first).min(LANES as u32);
        let exec = if active == 64 { u64::MAX } else { (1 << active) - 1 };
        let descriptor = &self.kernel.descriptor;
        wave.reset(exec, Mode(descriptor.mode()), self.context.program.registers);
        wave.pc = self.context.program.entry;
        wave.scratch.clear();
        wave.scratch.resize(descriptor.scratch_bytes as usize * LANES, 0xff);
        // Registers of the user: each enabled value takes its words in this order.
        let values: [(u32, &[u64]); 7] = [
            (4, &[0, 0]),
            (2, &[self.packet]),
            (2, &[0]),
            (2, &[self.arguments]),
            (2, &[0]),
            (2, &[0]),
            (1, &[descriptor.scratch_bytes as u64]),
        ];
        let mut next = 0;
        for (bit, (words, value)) in values.into_iter().enumerate() {
            if descriptor.properties >> bit & 1 == 1 {
                for word in 0..words as usize {
                    let value = value.get(word / 2).copied().unwrap_or(0);
                    wave.scalars[next + word] = (value >> (32 * (word & 1))) as u32;
                }
                next += words as usize;
            }
        }
        // Preloaded arguments are among the user registers; the entry loads them itself.
        next = (descriptor.rsrc2 >> 1 & 31) as usize;
        for (axis, position) in id.into_iter().enumerate() {
            if descriptor.rsrc2 >> (7 + axis) & 1 == 1 {
                wave.scalars[next] = position;
                next += 1;
            }
        }
        for lane in 0..LANES as u32 {
            let item = first + lane;
            let (x, y, z) = (item % width, item / width % height, item / width / height);
            wave.vectors[0][lane as usize] = x | y << 10 | z << 20;
        }
    }

    /// Runs a wave until it ends, reaches a barrier or gives way.
    fn wave(&self, worker: &mut Worker, index: usize) -> Result<()> {
        worker.group.wave = index;
        let program = self.context.program;
        let options = &self.context.options;
        let mut machine = Machine {
            wave: &mut worker.waves[index],
            group: &mut worker.group,
            context: &self.context,
            report: &mut worker.report,
            hint: worker.hint,
            current: 0,
        };
        while machine.wave.state == State::Running {
            let pc = machine.wave.pc;
            let Some(inst) = program.instructions.get(pc) else {
                return Err(
                    Error::new(Kind::Runaway, "execution left the kernel's code").at(machine.place(index))
                );
            };
            machine.wave.pc = pc + 1;
            machine.current = pc as u32;
            machine.wave.executed += 1;
            machine.report.instructions[inst.class as usize] += 1;
            let mut outcome = Ok(());
            if options.check_waits {
                outcome = machine.wave.counters.check(inst, inst.queue, |at| program.describe(at));
            }
            let moved;
            let mut executed = inst;
            if machine.wave.indexed != 0 && inst.class == Class::Vector {
                moved = inst.indexed(machine.wave.indexed, (machine.wave.scalars[M0] & 255) as u16);
                executed = &moved;
            }
            if let Err(error) = outcome.and_then(|()| (executed.execute)(&mut machine, executed)) {
                let place = format!("`{:#x}: {}`, {}", inst.address, inst.text, machine.place(index));
                return Err(error.at(place));
            }
            if machine.wave.executed > options.instruction_limit {
                let limit = options.instruction_limit;
                let message = format!("a wave executed {limit} instructions without an end");
                return Err(Error::new(Kind::Runaway, message).at(machine.place(index)));
            }
        }
        worker.hint = machine.hint;
        Ok(())
    }
}

impl Machine<'_> {
    /// Workgroup and wave, for errors.
    fn place(&self, wave: usize) -> String {
        let [x, y, z] = self.group.id;
        format!("workgroup ({x}, {y}, {z}), wave {wave}")
    }
}
