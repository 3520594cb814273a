//! What a log's stream must be set to, and what is wrong with one that is set otherwise.

use async_nats::jetstream::stream::{Config, DiscardPolicy, PersistenceMode, RetentionPolicy, StorageType};
use std::time::Duration;

/// How long the servers remember message ids. The engine uses none; 0 would mean their default of 2 minutes.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(2);

/// The longest message of a sealed stream, in bytes. Every append carries a header that is longer, so none is taken;
/// and the setting can be taken back, which is not so for the servers' own way to seal a stream.
const SEALED_MESSAGE_BYTES_MAX: i32 = 1;

/// Returns the settings of a new log's stream.
pub(crate) fn log_stream(name: String, subject: String, replicas: u8, first_lsn: u64) -> Config {
    Config {
        name,
        subjects: vec![subject],
        num_replicas: usize::from(replicas),
        first_sequence: (first_lsn > 1).then_some(first_lsn),
        ..unlimited()
    }
}

/// Returns the settings of the registry's stream: a key-value bucket with a history of 1, whose entries are read from
/// the leader alone.
pub(crate) fn registry_stream(name: String, subjects: String, replicas: u8) -> Config {
    Config {
        name,
        subjects: vec![subjects],
        num_replicas: usize::from(replicas),
        max_messages_per_subject: 1,
        allow_rollup: true,
        allow_direct: false,
        allow_atomic_publish: false,
        discard: DiscardPolicy::New,
        ..unlimited()
    }
}

fn unlimited() -> Config {
    Config {
        max_bytes: -1,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_message_size: -1,
        max_consumers: -1,
        storage: StorageType::File,
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::New,
        duplicate_window: DUPLICATE_WINDOW,
        allow_direct: true,
        allow_atomic_publish: true,
        deny_delete: true,
        ..Config::default()
    }
}

/// Whether the stream takes no appends.
pub(crate) fn is_sealed(config: &Config) -> bool {
    config.sealed || (1..=SEALED_MESSAGE_BYTES_MAX).contains(&config.max_message_size)
}

/// Seals the stream, or takes that back.
pub(crate) fn set_sealed(config: &mut Config, sealed: bool) {
    config.max_message_size = if sealed { SEALED_MESSAGE_BYTES_MAX } else { -1 };
}

/// Returns everything about a log's stream that could lose, change or refuse records, one phrase each with what it
/// must be.
pub(crate) fn faults(config: &Config, subject: &str) -> Vec<String> {
    let rules: [(bool, String); 15] = [
        (
            config.subjects.len() == 1 && config.subjects[0] == subject,
            format!("its subjects are {:?} (must be {subject} alone)", config.subjects),
        ),
        (
            config.retention == RetentionPolicy::Limits,
            "its retention removes what was read (must be limits)".to_owned(),
        ),
        (
            config.max_age.is_zero(),
            format!("max_age is {:?} (must be 0)", config.max_age),
        ),
        (
            config.max_messages <= 0,
            format!("max_msgs is {} (must be -1)", config.max_messages),
        ),
        (
            config.max_bytes <= 0,
            format!("max_bytes is {} (must be -1)", config.max_bytes),
        ),
        (
            config.max_messages_per_subject <= 0,
            format!(
                "max_msgs_per_subject is {} (must be -1)",
                config.max_messages_per_subject
            ),
        ),
        (
            config.max_message_size <= SEALED_MESSAGE_BYTES_MAX,
            format!("max_msg_size is {} (must be -1)", config.max_message_size),
        ),
        (
            config.storage == StorageType::File,
            "storage is memory (must be file)".to_owned(),
        ),
        (
            config.persist_mode != Some(PersistenceMode::Async),
            "persist_mode is async, it acknowledges before it writes (must be the default)".to_owned(),
        ),
        (!config.no_ack, "no_ack is on (must be off)".to_owned()),
        (
            !config.allow_rollup,
            "allow_rollup_hdrs is on, a message could replace all others (must be off)".to_owned(),
        ),
        (
            config.deny_delete,
            "deny_delete is off, single records could be deleted (must be on)".to_owned(),
        ),
        (
            config.allow_atomic_publish,
            "allow_atomic is off (must be on)".to_owned(),
        ),
        (
            !config.allow_message_ttl,
            "allow_msg_ttl is on, records could expire (must be off)".to_owned(),
        ),
        (
            config.mirror.is_none()
                && config.sources.as_ref().is_none_or(Vec::is_empty)
                && config.subject_transform.is_none(),
            "it is fed from other streams or changes subjects (must not)".to_owned(),
        ),
    ];
    let broken = rules.into_iter().filter(|(kept, _)| !kept);
    broken.map(|(_, fault)| fault).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> Config {
        log_stream("s".to_owned(), "a.log.1".to_owned(), 3, 1)
    }

    #[test]
    fn a_new_log_has_no_fault_sealed_or_not() {
        let mut config = sound();
        assert_eq!(faults(&config, "a.log.1"), Vec::<String>::new());
        assert!(!is_sealed(&config));
        set_sealed(&mut config, true);
        assert!(is_sealed(&config));
        assert_eq!(faults(&config, "a.log.1"), Vec::<String>::new());
        set_sealed(&mut config, false);
        assert_eq!(config, sound());
    }

    #[test]
    fn a_log_begins_at_any_lsn() {
        assert_eq!(sound().first_sequence, None);
        let moved = log_stream("s".to_owned(), "a.log.1".to_owned(), 1, 42);
        assert_eq!((moved.first_sequence, moved.num_replicas), (Some(42), 1));
    }

    #[test]
    fn every_lossy_setting_is_named() {
        type Change = fn(&mut Config);
        let cases: [(&str, Change); 15] = [
            ("subjects", |config| config.subjects.push("b".to_owned())),
            ("retention", |config| {
                config.retention = RetentionPolicy::WorkQueue
            }),
            ("max_age", |config| config.max_age = Duration::from_secs(60)),
            ("max_msgs is", |config| config.max_messages = 10),
            ("max_bytes", |config| config.max_bytes = 10),
            ("max_msgs_per_subject", |config| {
                config.max_messages_per_subject = 1
            }),
            ("max_msg_size", |config| config.max_message_size = 1024),
            ("storage", |config| config.storage = StorageType::Memory),
            ("persist_mode", |config| {
                config.persist_mode = Some(PersistenceMode::Async)
            }),
            ("no_ack", |config| config.no_ack = true),
            ("rollup", |config| config.allow_rollup = true),
            ("deny_delete", |config| config.deny_delete = false),
            ("allow_atomic", |config| config.allow_atomic_publish = false),
            ("ttl", |config| config.allow_message_ttl = true),
            ("other streams", |config| config.mirror = Some(Default::default())),
        ];
        let mut all = sound();
        for (word, change) in cases {
            let mut config = sound();
            change(&mut config);
            change(&mut all);
            let faults = faults(&config, "a.log.1");
            assert!(
                faults.len() == 1 && faults[0].contains(word),
                "{word}: {faults:?}"
            );
        }
        assert_eq!(faults(&all, "a.log.1").len(), 15);
    }
}
