//! Names of streams, subjects and of the registry's entries; nothing else builds any.

use snapshot_store::{Incarnation, PartitionId};

/// The names that begin with one prefix.
#[derive(Clone, Debug)]
pub(super) struct Names {
    prefix: String,
}

impl Names {
    pub(super) fn new(prefix: &str) -> Self {
        Names {
            prefix: prefix.to_owned(),
        }
    }

    /// Returns the name of a log's stream. The incarnation is part of it: a request that was meant for an earlier life
    /// of the log, however late it comes, cannot touch a later one.
    pub(super) fn stream(&self, partition: PartitionId, incarnation: Incarnation) -> String {
        let Incarnation { generation, id } = incarnation;
        format!("{}-p{partition}-g{generation}-{id}", self.prefix)
    }

    /// Returns the one subject of a log's stream.
    pub(super) fn subject(&self, partition: PartitionId, incarnation: Incarnation) -> String {
        let Incarnation { generation, id } = incarnation;
        format!("{}.log.{partition}.{generation}.{id}", self.prefix)
    }

    /// Returns the name of the registry as a key-value bucket.
    pub(super) fn bucket(&self) -> String {
        format!("{}-registry", self.prefix)
    }

    /// Returns the name of the registry's stream, as key-value buckets have it.
    pub(super) fn registry_stream(&self) -> String {
        format!("KV_{}", self.bucket())
    }

    /// Returns the subject of a partition's entry in the registry, or of all with `None`.
    pub(super) fn registry_subject(&self, partition: Option<PartitionId>) -> String {
        match partition {
            Some(partition) => format!("$KV.{}.{partition}", self.bucket()),
            None => format!("$KV.{}.>", self.bucket()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot_store::IncarnationId;

    #[test]
    fn names_tell_clusters_partitions_and_incarnations_apart() {
        let names = Names::new("east");
        let incarnation = Incarnation {
            generation: 2,
            id: IncarnationId::from_bytes([0xab; 16]),
        };
        let id = "ab".repeat(16);
        let partition = PartitionId::new(7);
        assert_eq!(names.stream(partition, incarnation), format!("east-p7-g2-{id}"));
        assert_eq!(
            names.subject(partition, incarnation),
            format!("east.log.7.2.{id}")
        );
        assert_eq!(names.registry_stream(), "KV_east-registry");
        assert_eq!(names.registry_subject(Some(partition)), "$KV.east-registry.7");
        assert_eq!(names.registry_subject(None), "$KV.east-registry.>");
    }
}
