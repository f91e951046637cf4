//! Checked access to LDS: bounds, races, poison and the cycles that bank conflicts cost.

use super::Machine;
use crate::error::{Error, Kind, fault};
use crate::memory::Place;
use crate::shadow::{Access, Conflict};

/// An instruction's access to LDS; every lane goes through [`Touch::lane`].
#[derive(Clone, Copy)]
pub(crate) struct Touch {
    shadowed: bool,
    retired: u32,
}

/// Starts the access of an instruction. One that loads straight into LDS must have been put into its queue before.
pub(crate) fn begin(m: &mut Machine<'_>, access: Access) -> Touch {
    let counters = &m.wave.counters;
    let shadowed = m.context.shadowed;
    if shadowed {
        let number = match access {
            Access::Direct => counters.vector_number(),
            // The instruction itself enters the queue when it has done its work.
            _ => counters.lds_number() + 1,
        };
        m.group.shadow.begin(m.group.wave, access, number, m.current);
    }
    Touch { shadowed, retired: counters.vector_retired() }
}

impl Touch {
    /// The place of a lane's `bytes` bytes at an LDS address.
    #[inline]
    pub fn lane(
        self,
        m: &mut Machine<'_>,
        lane: usize,
        address: u32,
        bytes: u32,
    ) -> Result<Place, Box<Error>> {
        let at = address as usize;
        if at + bytes as usize > m.group.lds.len() {
            return Err(outside(m, lane, address, bytes));
        }
        if self.shadowed
            && let Err(conflict) = m.group.shadow.touch(at, bytes as usize, self.retired)
        {
            return Err(explain(m, lane, address, conflict));
        }
        Ok(Place::inside(&mut m.group.lds[at..]))
    }
}

#[cold]
fn outside(m: &Machine<'_>, lane: usize, address: u32, bytes: u32) -> Box<Error> {
    let size = m.group.lds.len();
    let message =
        format!("lane {lane} touches {bytes} bytes of LDS at {address:#x}, the workgroup has {size:#x}");
    fault(Kind::OutOfBounds, message)
}

#[cold]
fn explain(m: &Machine<'_>, lane: usize, address: u32, conflict: Conflict) -> Box<Error> {
    let text = |inst: u32| m.context.program.describe(inst);
    match conflict {
        Conflict::Poison { inst } => fault(
            Kind::Poison,
            format!(
                "lane {lane} touches LDS at {address:#x} before a wait on vmcnt for its load `{}`",
                text(inst)
            ),
        ),
        Conflict::Race { inst, wave, access } => {
            let verb = match access {
                Access::Read => "read",
                Access::Write | Access::Direct => "written",
                Access::Atomic => "changed",
            };
            let message = format!(
                "lane {lane} touches LDS at {address:#x}, which wave {wave} has {verb} with `{}`: no wait and barrier lie between",
                text(inst)
            );
            fault(Kind::Race, message)
        }
    }
}
