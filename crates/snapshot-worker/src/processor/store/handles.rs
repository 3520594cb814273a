//! The limit of open files: read, raised where that is allowed and helps, and said where it is too low.

use crate::core::{HandleFacts, HandlePlan, plan_handles};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Prepares this process for `partitions` with at most `tables_max` open tables each, and returns how many each may keep
/// open. Raises the soft limit of open files up to the hard one; a limit that is too low is logged with the remedy.
pub(in crate::processor) fn prepare(partitions: usize, tables_max: u32) -> u32 {
    let limit = getrlimit(Resource::Nofile);
    let facts = HandleFacts {
        partitions: partitions as u64,
        tables_max: tables_max.into(),
        soft: limit.current,
        hard: limit.maximum,
    };
    let mut plan = plan_handles(&facts);
    if let Some(raised) = plan.raise_to {
        let wanted = Rlimit {
            current: Some(raised),
            maximum: limit.maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, wanted) {
            tracing::warn!(%error, from = limit.current, to = raised, "the limit of open files was not raised");
            plan = plan_handles(&HandleFacts {
                hard: facts.soft,
                ..facts
            });
        }
    }
    let HandlePlan { tables, shortage, .. } = plan;
    match shortage {
        Some(shortage) if shortage.is_severe() => tracing::error!("{shortage}"),
        Some(shortage) => tracing::warn!("{shortage}"),
        None => {}
    }
    u32::try_from(tables).unwrap_or(u32::MAX)
}
