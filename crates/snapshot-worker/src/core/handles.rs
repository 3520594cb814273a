//! How many files the partitions of a node may keep open.

use std::fmt;

/// Files that one open partition needs besides its tables: RocksDB's log, manifest, lock and folders.
pub const PARTITION_FILES: u64 = 8;
/// Files that the node needs besides its partitions: connections, logs, and the second database of each snapshot that is
/// being made, restored or verified.
pub const NODE_FILES: u64 = 1024;
/// Tables per partition that are kept open where the limit allows it. At 8 MiB each this covers 512 MiB; of a larger state
/// tables are closed and opened again, which costs a little on reads of what was not read for long.
pub const TABLES_WANTED: u64 = 64;
/// RocksDB does not go below this many.
pub const TABLES_MIN: u64 = 10;

/// What is known at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandleFacts {
    /// Partitions that the node opens.
    pub partitions: u64,
    /// Most tables that a partition keeps open, by configuration.
    pub tables_max: u64,
    /// The limit of open files in force; `None` is unlimited.
    pub soft: Option<u64>,
    /// What this process may raise it to; `None` is unlimited.
    pub hard: Option<u64>,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandlePlan {
    /// Raise the limit in force to this; `None` leaves it.
    pub raise_to: Option<u64>,
    /// Tables that each partition keeps open at most.
    pub tables: u64,
    /// Set when that is less than wanted.
    pub shortage: Option<HandleShortage>,
}

/// The limit of open files is too low.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandleShortage {
    /// How many this process may have.
    pub limit: u64,
    /// How many it needs.
    pub needed: u64,
    /// How many partitions it opens.
    pub partitions: u64,
    /// Tables that each of them can keep open now.
    pub tables: u64,
}

impl HandleShortage {
    /// Whether not even the files that every partition needs fit, so that some will be blocked.
    pub const fn is_severe(&self) -> bool {
        self.limit < NODE_FILES + self.partitions.saturating_mul(PARTITION_FILES + TABLES_MIN)
    }
}

impl fmt::Display for HandleShortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HandleShortage {
            limit,
            needed,
            partitions,
            tables,
        } = self;
        let outcome = if self.is_severe() {
            "some of them will be blocked"
        } else {
            "each keeps fewer tables open, which makes reads slower"
        };
        write!(
            f,
            "this process may open {limit} files and needs {needed} for {partitions} partitions: {outcome} ({tables} tables each); raise the limit (LimitNOFILE= in systemd, ulimit -n in a shell) to {needed} or more, or give the node fewer partitions"
        )
    }
}

/// Decides how the limit of open files is used:
/// `tables = min(tables_max, (limit - NODE_FILES) / partitions - PARTITION_FILES)`, where the limit is raised as far as
/// it helps and is allowed.
pub fn plan_handles(facts: &HandleFacts) -> HandlePlan {
    let partitions = facts.partitions.max(1);
    let files = |tables: u64| NODE_FILES.saturating_add(partitions.saturating_mul(PARTITION_FILES + tables));
    let unlimited = u64::MAX;
    let (soft, hard) = (facts.soft.unwrap_or(unlimited), facts.hard.unwrap_or(unlimited));
    let tables_max = facts.tables_max.max(TABLES_MIN);
    let best = files(tables_max).min(hard);
    let raise_to = (soft < best).then_some(best);
    let limit = soft.max(best);
    let share = (limit.saturating_sub(NODE_FILES) / partitions).saturating_sub(PARTITION_FILES);
    let tables = share.clamp(TABLES_MIN, tables_max);
    let wanted = TABLES_WANTED.min(tables_max);
    let shortage = (share < wanted).then_some(HandleShortage {
        limit,
        needed: files(wanted),
        partitions,
        tables,
    });
    HandlePlan {
        raise_to,
        tables,
        shortage,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(partitions: u64, soft: u64, hard: u64) -> HandlePlan {
        plan_handles(&HandleFacts {
            partitions,
            tables_max: 1024,
            soft: Some(soft),
            hard: Some(hard),
        })
    }

    #[test]
    fn five_hundred_partitions_fit_the_documented_limit() {
        let documented = plan(500, 65_536, 65_536);
        assert_eq!(documented.shortage, None);
        assert_eq!((documented.raise_to, documented.tables), (None, 121));
    }

    #[test]
    fn the_limit_is_raised_as_far_as_it_helps() {
        let few = plan(2, 1024, 1 << 20);
        assert_eq!(few.raise_to, Some(NODE_FILES + 2 * (8 + 1024)));
        assert_eq!((few.tables, few.shortage), (1024, None));
        let many = plan(500, 1024, 65_536);
        assert_eq!(
            (many.raise_to, many.tables, many.shortage),
            (Some(65_536), 121, None)
        );
        let unlimited = HandleFacts {
            partitions: 3,
            tables_max: 100,
            soft: None,
            hard: None,
        };
        assert_eq!(
            plan_handles(&unlimited),
            HandlePlan {
                raise_to: None,
                tables: 100,
                shortage: None
            }
        );
    }

    #[test]
    fn a_limit_that_is_too_low_is_said_with_the_remedy() {
        let low = plan(500, 1024, 20_000);
        assert_eq!((low.raise_to, low.tables), (Some(20_000), 29));
        let shortage = low.shortage.unwrap();
        assert_eq!(
            (shortage.limit, shortage.needed, shortage.is_severe()),
            (20_000, 37_024, false)
        );
        let text = shortage.to_string();
        assert!(
            text.contains("20000") && text.contains("37024") && text.contains("LimitNOFILE="),
            "{text}"
        );
        let hopeless = plan(500, 1024, 1024);
        assert_eq!((hopeless.raise_to, hopeless.tables), (None, TABLES_MIN));
        assert!(hopeless.shortage.unwrap().to_string().contains("will be blocked"));
    }

    #[test]
    fn files_that_just_suffice_are_neither_raised_nor_a_shortage() {
        let wanted = plan(500, 37_024, 37_024);
        assert_eq!((wanted.tables, wanted.shortage), (TABLES_WANTED, None));
        let short = plan(500, 37_023, 37_023);
        assert_eq!(
            (short.tables, short.shortage.is_some()),
            (TABLES_WANTED - 1, true)
        );
        let severe = |limit| plan(500, limit, limit).shortage.unwrap().is_severe();
        assert_eq!((severe(10_024), severe(10_023)), (false, true));
        let all = NODE_FILES + 2 * (PARTITION_FILES + 1024);
        assert_eq!(plan(2, all, 1 << 20).raise_to, None);
        assert_eq!(plan(2, all - 1, 1 << 20).raise_to, Some(all));
    }

    #[test]
    fn a_configuration_that_asks_for_few_tables_is_no_shortage() {
        let modest = HandleFacts {
            partitions: 500,
            tables_max: 20,
            soft: Some(20_000),
            hard: Some(20_000),
        };
        assert_eq!(
            plan_handles(&modest),
            HandlePlan {
                raise_to: None,
                tables: 20,
                shortage: None
            }
        );
    }
}
