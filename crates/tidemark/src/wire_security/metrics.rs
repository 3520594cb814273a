//! Metrics of the wire.

use super::Refusal;
use metrics::{counter, describe_counter};

const REFUSED: &str = "tidemark_wire_refused_total";

/// The labels of the metrics described here; they have no series before a call is refused.
pub(crate) const LABELS: &[(&str, &[&str])] = &[(REFUSED, &["reason"])];

/// Describes all metrics of this module to the installed recorder.
pub fn describe() {
    describe_counter!(REFUSED, "Calls refused for their token, by reason");
}

pub(super) fn refused(refusal: &Refusal) {
    counter!(REFUSED, "reason" => refusal.reason()).increment(1);
}
