//! The labels of metrics that have no series until something happens.

use super::*;

/// Metrics that have no series before something happens, with their labels; what the others have shows when they are
/// described. The reference (`docs/metrics.md`) and the test that compares it with running nodes read this.
pub const LABELS: &[(&str, &[&str])] = &[
    (RESTORE_BYTES_LEFT, &["partition"]),
    (RESTORE_FILES_LEFT, &["partition"]),
    (RESTORE_TIME_LEFT, &["partition"]),
    (APPLIED_LSN, &["partition"]),
    (DURABLE_LSN, &["partition"]),
    (APPLY_LAG, &["partition"]),
    (BLOCKED, &["partition"]),
    (PROPOSALS, &["outcome"]),
    (APPENDS, &["outcome"]),
];
