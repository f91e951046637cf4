//! The text form of a plan: one line a step, with the slots it reads, fills and lets go.

use std::fmt;

use crate::partition::{Place, place_name};
use crate::plan::{Action, HostStep, Plan, Slot, Source};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, 0)
    }
}

impl Plan {
    fn write(&self, f: &mut fmt::Formatter<'_>, depth: usize) -> fmt::Result {
        let pad = "  ".repeat(depth);
        let names: Vec<String> = self.devices.iter().map(|device| device.cost.name.clone()).collect();
        for (number, step) in self.steps.iter().enumerate() {
            match &step.action {
                Action::Run(run) => {
                    let device = place_name(Place::Device(run.device), &names);
                    write!(f, "{pad}{number}: run {} nodes on {device}: ", run.nodes)?;
                    writeln!(f, "{} -> {}", self.list(&run.inputs), self.list(&run.outputs))?;
                }
                Action::Copy(copy) => {
                    writeln!(f, "{pad}{number}: copy {} -> {}", self.slot(copy.from), self.slot(copy.to))?;
                }
                Action::Host(host) => self.write_host(f, number, host, depth)?,
            }
            if !step.release.is_empty() {
                writeln!(f, "{pad}   release {}", self.list(&step.release))?;
            }
        }
        let outputs: Vec<String> = self.outputs.iter().map(|source| self.source(source)).collect();
        writeln!(f, "{pad}return {}", outputs.join(", "))?;
        if !self.arena.is_empty() {
            writeln!(f, "{pad}arena: {} slots", self.arena.len())?;
        }
        Ok(())
    }

    fn write_host(
        &self,
        f: &mut fmt::Formatter<'_>,
        number: usize,
        host: &HostStep,
        depth: usize,
    ) -> fmt::Result {
        let pad = "  ".repeat(depth);
        let inputs: Vec<String> = host.inputs.iter().flatten().map(|source| self.source(source)).collect();
        let outputs: Vec<Slot> = host.outputs.iter().flatten().copied().collect();
        let label = &host.label;
        writeln!(
            f,
            "{pad}{number}: {:?} '{label}': {} -> {}",
            host.op,
            inputs.join(", "),
            self.list(&outputs)
        )?;
        for body in &host.bodies {
            let captures: Vec<String> = body.captures.iter().map(|source| self.source(source)).collect();
            writeln!(f, "{pad}   {} captures [{}]", body.attribute, captures.join(", "))?;
            body.plan.write(f, depth + 2)?;
        }
        Ok(())
    }

    fn slot(&self, slot: Slot) -> String {
        let info = &self.slots[slot as usize];
        let arena = if info.arena.is_some() { " arena" } else { "" };
        match info.memory {
            Place::Host => format!("%{slot}({}{arena})", info.name),
            Place::Device(device) => {
                format!("%{slot}({}@{}{arena})", info.name, self.devices[device].cost.name)
            }
        }
    }

    fn list(&self, slots: &[Slot]) -> String {
        slots.iter().map(|&slot| self.slot(slot)).collect::<Vec<_>>().join(", ")
    }

    fn source(&self, source: &Source) -> String {
        match source {
            Source::Slot(slot) => self.slot(*slot),
            Source::Constant(tensor) => format!("constant {}{:?}", tensor.dtype(), tensor.dims()),
        }
    }
}
