//! What a recovery says: what is lost, what is done, and what came of it.

use super::{super::copy::anomalies_json, look::Workers};
use crate::output::{or_dash, table};
use partition_log::Registration;
use serde_json::{Value, json};
use snapshot_store::{
    ClusterIdentity, PartitionId, PassedOver, PlannedRecovery, RecoveryPlan,
    core::{Loss, Recovery, RecoveryStep},
};
use std::{collections::BTreeMap, process::ExitCode};

/// What came of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is planned, and nothing was done yet.
    Planned,
    /// Its log was there.
    Kept,
    /// Its log was created.
    Recovered(Box<Registration>),
    /// It would begin empty, and nobody named it.
    LeftOut,
    /// There is no plan for it.
    Refused(String),
    /// It did not work.
    Failed(String),
}

impl Outcome {
    /// Returns the word used in tables and JSON.
    const fn as_str(&self) -> &'static str {
        match self {
            Outcome::Planned => "planned",
            Outcome::Kept => "kept",
            Outcome::Recovered(_) => "recovered",
            Outcome::LeftOut => "left-out",
            Outcome::Refused(_) => "refused",
            Outcome::Failed(_) => "failed",
        }
    }
}

struct One {
    partition: PartitionId,
    recovery: Option<Recovery>,
    passed_over: Vec<PassedOver>,
    unnamed: usize,
    outcome: Outcome,
}

/// A recovery, planned or done.
pub(super) struct Report {
    cluster: ClusterIdentity,
    store: String,
    dry_run: bool,
    workers: Workers,
    partitions: Vec<One>,
}

impl Report {
    pub(super) fn of(plan: &RecoveryPlan, workers: Workers, store: &str, dry_run: bool) -> Self {
        Report {
            cluster: plan.record.cluster.clone(),
            store: store.to_owned(),
            dry_run,
            workers,
            partitions: plan.partitions.iter().map(One::of).collect(),
        }
    }

    /// Returns whether there is anything to be recovered.
    pub(super) fn has_work(&self) -> bool {
        self.partitions.iter().any(|one| one.outcome == Outcome::Planned)
    }

    /// Notes what was done.
    pub(super) fn take(&mut self, mut done: BTreeMap<PartitionId, Outcome>) {
        for one in &mut self.partitions {
            if let Some(outcome) = done.remove(&one.partition) {
                one.outcome = outcome;
            }
        }
    }

    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(u8::from(!self.all_well()))
    }

    fn all_well(&self) -> bool {
        self.partitions.iter().all(|one| match one.outcome {
            Outcome::Kept | Outcome::Recovered(_) => true,
            Outcome::Planned => self.dry_run && !one.begins_empty(),
            Outcome::LeftOut | Outcome::Refused(_) | Outcome::Failed(_) => false,
        })
    }

    pub(super) fn json(&self) -> Value {
        let silent = self.workers.silent.iter();
        json!({
            "ok": self.all_well(),
            "dry_run": self.dry_run,
            "cluster": self.cluster,
            "store": self.store,
            "workers": self.workers.answered.iter().map(|worker| &worker.node).collect::<Vec<_>>(),
            "silent_workers": silent
                .map(|(address, error)| json!({ "address": address, "error": error }))
                .collect::<Vec<_>>(),
            "partitions": self.partitions.iter().map(One::json).collect::<Vec<_>>(),
        })
    }

    pub(super) fn text(&self) -> String {
        let mut lines = vec![table(
            [
                "partition",
                "result",
                "kept up to",
                "lost",
                "generation",
                "log begins at",
            ],
            self.partitions.iter().map(One::row),
        )];
        lines.extend(self.partitions.iter().flat_map(One::remarks));
        for (address, error) in &self.workers.silent {
            lines.push(format!(
                "the worker {address} does not answer ({error}): what it has is not considered"
            ));
        }
        if self.workers.answered.is_empty() && self.has_work() {
            lines.push(
                "no worker was asked: how far the lost log went is known from the store alone".to_owned(),
            );
        }
        lines.push(self.verdict());
        lines.join("\n")
    }

    fn verdict(&self) -> String {
        let count =
            |test: fn(&Outcome) -> bool| self.partitions.iter().filter(|one| test(&one.outcome)).count();
        let planned = count(|outcome| *outcome == Outcome::Planned);
        let recovered = count(|outcome| matches!(outcome, Outcome::Recovered(_)));
        let bad = count(|outcome| {
            matches!(
                outcome,
                Outcome::LeftOut | Outcome::Refused(_) | Outcome::Failed(_)
            )
        });
        match (planned, recovered, bad) {
            (0, 0, 0) => "nothing to do: every log is there".to_owned(),
            (0, recovered, 0) => {
                format!("{recovered} logs were created; workers and admin go on by themselves")
            }
            (0, _, bad) => format!(
                "{recovered} logs were created, {bad} partitions have none yet: correct what is named and run the same command again"
            ),
            (planned, ..) => format!("{planned} logs are to be recovered, {bad} partitions cannot be"),
        }
    }
}

impl One {
    fn of(planned: &PlannedRecovery) -> Self {
        let outcome = match &planned.plan {
            Ok(Recovery {
                step: RecoveryStep::Keep { .. },
                ..
            }) => Outcome::Kept,
            Ok(_) => Outcome::Planned,
            Err(fault) => {
                let chain =
                    std::iter::successors(Some(fault as &dyn std::error::Error), |error| error.source());
                let texts: Vec<_> = chain.map(ToString::to_string).collect();
                Outcome::Refused(texts.join(": "))
            }
        };
        One {
            partition: planned.partition,
            recovery: planned.plan.as_ref().ok().cloned(),
            passed_over: planned.passed_over.clone(),
            unnamed: planned.unnamed,
            outcome,
        }
    }

    fn begins_empty(&self) -> bool {
        let step = self.recovery.as_ref().map(|recovery| &recovery.step);
        matches!(step, Some(RecoveryStep::BeginEmpty { .. }))
    }

    fn loss(&self) -> Option<&Loss> {
        self.recovery.as_ref()?.loss.as_ref()
    }

    fn generation(&self) -> Option<u64> {
        Some(match &self.recovery.as_ref()?.step {
            RecoveryStep::Keep { incarnation } => incarnation.generation,
            RecoveryStep::Fork { generation, .. } | RecoveryStep::BeginEmpty { generation } => *generation,
            RecoveryStep::Provision { entry } => entry.incarnation.generation,
        })
    }

    fn row(&self) -> [String; 6] {
        let lost = self.loss().map(|loss| match &loss.seen {
            Some((seen, _)) => format!("{} to {seen} at least", loss.kept.next()),
            None => format!("from {} on, if written", loss.kept.next()),
        });
        [
            self.partition.to_string(),
            self.outcome.as_str().to_owned(),
            or_dash(self.loss().map(|loss| loss.kept)),
            or_dash(lost),
            or_dash(self.generation()),
            or_dash(self.loss().map(|loss| loss.kept.next())),
        ]
    }

    fn remarks(&self) -> Vec<String> {
        let partition = self.partition;
        let mut lines = Vec::new();
        if let Some((seen, who)) = self.loss().and_then(|loss| loss.seen.as_ref()) {
            lines.push(format!("partition {partition}: {who} reached LSN {seen}"));
        }
        for passed in &self.passed_over {
            let what: Vec<_> = passed.anomalies.iter().map(ToString::to_string).collect();
            lines.push(format!(
                "partition {partition}: snapshot {} at {} is damaged and passed over: {}",
                passed.snapshot_id,
                passed.lsn,
                what.join("; ")
            ));
        }
        if self.unnamed > 0 {
            lines.push(format!(
                "partition {partition}: {} complete snapshots lie in the store although latest.json is missing: bring \
                 latest.json back before anything begins empty",
                self.unnamed
            ));
        }
        match &self.outcome {
            Outcome::Refused(why) | Outcome::Failed(why) => lines.push(format!("partition {partition}: {why}")),
            Outcome::LeftOut => lines.push(format!(
                "partition {partition}: nothing of it was ever archived, and it was not named: `--begin-empty {partition}`"
            )),
            Outcome::Planned if self.begins_empty() => lines.push(format!(
                "partition {partition}: nothing of it was ever archived; its log begins empty if it is named (--begin-empty)"
            )),
            Outcome::Planned | Outcome::Kept | Outcome::Recovered(_) => {}
        }
        lines
    }

    fn json(&self) -> Value {
        let step = self.recovery.as_ref().map(|recovery| &recovery.step);
        let snapshot = match step {
            Some(RecoveryStep::Fork { from, .. }) => Some(from.snapshot_id),
            Some(RecoveryStep::Provision { entry }) => Some(entry.snapshot_id),
            Some(RecoveryStep::Keep { .. } | RecoveryStep::BeginEmpty { .. }) | None => None,
        };
        let lost = self.loss().map(|loss| {
            json!({
                "from": loss.kept.next(),
                "seen_to": loss.seen.as_ref().map(|(lsn, _)| lsn),
                "seen_by": loss.seen.as_ref().map(|(_, who)| who),
            })
        });
        let passed = self.passed_over.iter().map(|passed| {
            json!({
                "snapshot_id": passed.snapshot_id,
                "lsn": passed.lsn,
                "anomalies": anomalies_json(&passed.anomalies),
            })
        });
        let (registration, error) = match &self.outcome {
            Outcome::Recovered(registration) => (Some(registration), None),
            Outcome::Refused(why) | Outcome::Failed(why) => (None, Some(why)),
            Outcome::Planned | Outcome::Kept | Outcome::LeftOut => (None, None),
        };
        json!({
            "partition": self.partition,
            "outcome": self.outcome.as_str(),
            "step": step.map(RecoveryStep::as_str),
            "snapshot_id": snapshot,
            "kept_lsn": self.loss().map(|loss| loss.kept),
            "lost": lost,
            "generation": self.generation(),
            "incarnation": registration.map(|registration| registration.incarnation),
            "first_lsn": registration.map(|registration| registration.first_lsn()),
            "passed_over": passed.collect::<Vec<_>>(),
            "unnamed_snapshots": self.unnamed,
            "error": error,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot_store::{Fingerprint, Lsn, core::RecoveryRefusal};

    fn one(plan: Result<Recovery, RecoveryRefusal>) -> One {
        One::of(&PlannedRecovery {
            partition: PartitionId::new(3),
            plan: plan.map_err(Into::into),
            passed_over: Vec::new(),
            latest: None,
            unnamed: 0,
        })
    }

    fn empty() -> Recovery {
        Recovery {
            step: RecoveryStep::BeginEmpty { generation: 2 },
            loss: Some(Loss {
                kept: Lsn::ZERO,
                seen: Some((Lsn::new(41), "worker w2".to_owned())),
            }),
        }
    }

    fn report(one: One, dry_run: bool) -> Report {
        Report {
            cluster: ClusterIdentity {
                name: "shop".to_owned(),
                fingerprint: Fingerprint::from_bytes([1; 16]),
            },
            store: "file:///b".to_owned(),
            dry_run,
            workers: Workers::default(),
            partitions: vec![one],
        }
    }

    #[test]
    fn what_is_lost_is_said_with_who_knows_of_it() {
        let text = report(one(Ok(empty())), true).text();
        for words in [
            "1 to 41 at least",
            "worker w2 reached LSN 41",
            "--begin-empty",
            "no worker was asked",
        ] {
            assert!(text.contains(words), "{words} is missing: {text}");
        }
        let json = one(Ok(empty())).json();
        assert_eq!(json["lost"]["seen_to"], 41);
        assert_eq!(
            (&json["outcome"], &json["step"]),
            (&json!("planned"), &json!("begin-empty"))
        );
    }

    #[test]
    fn only_a_cluster_with_all_its_logs_counts_as_done() {
        let kept = Recovery {
            step: RecoveryStep::Keep {
                incarnation: snapshot_store::Incarnation {
                    generation: 1,
                    id: snapshot_store::IncarnationId::from_bytes([1; 16]),
                },
            },
            loss: None,
        };
        let there = report(one(Ok(kept)), false);
        assert!(there.all_well() && !there.has_work());
        assert!(there.text().contains("nothing to do"));
        let refused = report(one(Err(RecoveryRefusal::PointerMissing)), true);
        assert!(!refused.all_well() && refused.text().contains("latest.json is missing"));
        let mut left = report(one(Ok(empty())), false);
        assert!(left.has_work());
        left.take(BTreeMap::from([(PartitionId::new(3), Outcome::LeftOut)]));
        assert!(!left.all_well() && left.text().contains("`--begin-empty 3`"));
    }
}
