//! Every word by which something is explained.

use super::{GENERATED, cell};
use snapshot_scheduler::core::{LeadershipCode, LeaseCode, SnapshotCause, SnapshotCode};
use snapshot_store::{AnomalyKind, core::HoldReason, core::KeepReason};
use snapshot_worker::core::{BlockedReason, Decline};
use std::fmt::Write as _;

/// One word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explained {
    /// The word, as status, metrics, logs and JSON have it.
    pub word: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// What to do; empty when nothing is to be done.
    pub remedy: &'static str,
}

/// The words that answer one question.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    /// The heading.
    pub title: &'static str,
    /// What the words answer, and where they are seen.
    pub about: &'static str,
    /// The words.
    pub words: Vec<Explained>,
}

macro_rules! explained {
    ($kind:ident) => {
        $kind::ALL
            .iter()
            .map(|one| Explained {
                word: one.as_str(),
                meaning: one.meaning(),
                remedy: one.remedy(),
            })
            .collect()
    };
}

/// Returns all vocabularies, each from the place that defines it.
pub fn vocabularies() -> Vec<Vocabulary> {
    let declines = Decline::REASONS.iter().zip(Decline::EXPLAINED);
    let declines = declines.map(|(word, (meaning, remedy))| Explained {
        word,
        meaning,
        remedy,
    });
    vec![
        Vocabulary {
            title: "Holds",
            about: "Why the admin does not trim a log now. In `tidemark explain`, `status` and `trim plan`, as `reason` of `tidemark_admin_holds_total` and `tidemark_admin_partition_hold`.",
            words: explained!(HoldReason),
        },
        Vocabulary {
            title: "Declines",
            about: "Why a worker refused a request for a snapshot. In `tidemark explain`, as `reason` of `tidemark_worker_declines_total` and `tidemark_admin_declines_total`.",
            words: declines.collect(),
        },
        Vocabulary {
            title: "Blocked partitions",
            about: "Why a replica cannot go on by itself. In `tidemark partitions list`, as `reason` of `tidemark_worker_blocked_total`.",
            words: explained!(BlockedReason),
        },
        Vocabulary {
            title: "Anomalies",
            about: "What is wrong with an object in the store. In `tidemark snapshots verify`, as `kind` of `tidemark_worker_anomalies_total` and `tidemark_admin_anomalies_total`.",
            words: explained!(AnomalyKind),
        },
        Vocabulary {
            title: "Snapshot decisions",
            about: "What became of the question whether a partition needs a snapshot. In `tidemark explain`.",
            words: explained!(SnapshotCode),
        },
        Vocabulary {
            title: "Snapshot causes",
            about: "Why a snapshot is asked for. In the admin's log, as `cause` of `tidemark_admin_snapshots_requested_total`.",
            words: explained!(SnapshotCause),
        },
        Vocabulary {
            title: "Leadership decisions",
            about: "What became of the question who leads a partition. In `tidemark explain`.",
            words: explained!(LeadershipCode),
        },
        Vocabulary {
            title: "The lease",
            about: "Whether an admin acts. In `tidemark status`.",
            words: explained!(LeaseCode),
        },
        Vocabulary {
            title: "Why a directory stays",
            about: "Why a snapshot's objects are not deleted. In `tidemark snapshots sweep`.",
            words: KeepReason::ALL
                .iter()
                .map(|one| Explained {
                    word: one.as_str(),
                    meaning: one.in_words(),
                    remedy: "",
                })
                .collect(),
        },
    ]
}

/// Returns the page of all words.
pub fn reasons_page() -> String {
    let mut page = format!(
        "{GENERATED}\n# Reasons\n\nEvery word by which Tidemark says why it did something, or did not. Programs may rely on the words. \
         What to do about the ones that last is in the [operator guide](operator-guide.md) and the [runbooks](runbooks.md).\n"
    );
    for vocabulary in vocabularies() {
        // Writing to a string cannot fail.
        let _ = write!(
            page,
            "\n## {}\n\n{}\n\n| Word | Meaning | What to do |\n|---|---|---|\n",
            vocabulary.title, vocabulary.about
        );
        for one in &vocabulary.words {
            let remedy = match one.remedy {
                "" => "nothing",
                remedy => remedy,
            };
            let _ = writeln!(
                page,
                "| `{}` | {} | {} |",
                one.word,
                cell(one.meaning),
                cell(remedy)
            );
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_word_is_said_once_in_its_vocabulary_and_has_a_meaning() {
        for vocabulary in vocabularies() {
            let words: BTreeSet<_> = vocabulary.words.iter().map(|one| one.word).collect();
            assert_eq!(words.len(), vocabulary.words.len(), "{}", vocabulary.title);
            for one in &vocabulary.words {
                assert!(!one.meaning.is_empty(), "{}: {}", vocabulary.title, one.word);
            }
        }
    }
}
