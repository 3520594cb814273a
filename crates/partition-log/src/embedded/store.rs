//! The log's own RocksDB: one column family for records, one for registry and positions.
//!
//! Both are written in one batch to one write-ahead log that is synced before anybody is answered. Recovery accepts
//! a torn last write (it was never acknowledged) and refuses damage before it, instead of dropping what follows.

use super::format::{
    Position, data_key, decode_position, decode_record, decode_registration, encode_position, encode_record,
    encode_registration, is_registration_key, lsn_of, position_key, registration_key,
};
use super::{EmbeddedOptions, OpenError};
use crate::Registration;
use crate::position::{READ_BYTES_MAX, READ_RECORDS_MAX};
use bytes::Bytes;
use rocksdb::{
    BoundColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, ErrorKind,
    IteratorMode, Options, ReadOptions, WriteBatch, WriteOptions, properties,
};
use snapshot_store::{Lsn, PartitionId};
use std::{path::Path, sync::Arc, thread, time::Duration};

const DATA: &str = "data";
const META: &str = "meta";
/// RocksDB's own text log, which is not the log of Tidemark.
const INFO_LOG_BYTES_MAX: usize = 4 << 20;
const INFO_LOG_FILES_MAX: usize = 4;
/// How long a write pauses that RocksDB does not take yet, because flushes or compactions are behind.
const HELD_BACK_PAUSE: Duration = Duration::from_millis(1);

pub(super) struct Store {
    db: DB,
}

/// What could not be read, in words.
pub(super) type ReadFault = String;

impl Store {
    pub(super) fn open(path: &Path, options: &EmbeddedOptions) -> Result<Self, rocksdb::Error> {
        let mut db_options = Options::default();
        db_options.create_if_missing(true);
        db_options.create_missing_column_families(true);
        db_options.set_atomic_flush(true);
        db_options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        db_options.set_track_and_verify_wals_in_manifest(true);
        db_options.set_max_total_wal_size(options.wal_bytes_max);
        db_options.set_max_background_jobs(2);
        db_options.set_max_log_file_size(INFO_LOG_BYTES_MAX);
        db_options.set_keep_log_file_num(INFO_LOG_FILES_MAX);
        let mut data = Options::default();
        data.set_write_buffer_size(options.write_buffer_bytes);
        data.set_compression_type(DBCompressionType::Lz4);
        let families = [
            ColumnFamilyDescriptor::new(DATA, data),
            ColumnFamilyDescriptor::new(META, Options::default()),
        ];
        Ok(Store {
            db: DB::open_cf_descriptors(&db_options, path, families)?,
        })
    }

    /// Reads the registry, and checks that it and the records agree on where each log ends.
    pub(super) fn load(&self, dir: &Path) -> Result<Vec<(Registration, Position)>, OpenError> {
        let damaged = |detail: String| OpenError::Damaged {
            dir: dir.to_owned(),
            detail,
        };
        let mut logs = Vec::new();
        for entry in self.db.iterator_cf(&self.meta(), IteratorMode::Start) {
            let (key, value) = entry.map_err(|error| damaged(error.into_string()))?;
            if !is_registration_key(&key) {
                continue;
            }
            let registration = decode_registration(&value)
                .map_err(|error| damaged(format!("the registration under {key:?} {error}")))?;
            let partition = registration.partition;
            let position = self
                .position(partition)
                .and_then(|position| self.check_end(partition, &position).map(|()| position))
                .map_err(|detail| damaged(format!("partition {partition}: {detail}")))?;
            logs.push((registration, position));
        }
        Ok(logs)
    }

    /// Reads where a log stands, as written.
    pub(super) fn position(&self, partition: PartitionId) -> Result<Position, ReadFault> {
        let value = self
            .db
            .get_pinned_cf(&self.meta(), position_key(partition))
            .map_err(rocksdb::Error::into_string)?
            .ok_or("its position is missing")?;
        decode_position(&value).map_err(|error| format!("its position {error}"))
    }

    fn check_end(&self, partition: PartitionId, position: &Position) -> Result<(), ReadFault> {
        let last = position.tail.prev();
        if last > position.trim_point && self.bytes_at(partition, last)?.is_none() {
            return Err(format!("the last record, {last}, is missing"));
        }
        if self.bytes_at(partition, position.tail)?.is_some() {
            return Err(format!("there is a record at the tail, {}", position.tail));
        }
        Ok(())
    }

    /// Returns the cumulative log bytes at a record; `None` when it is not there.
    pub(super) fn bytes_at(&self, partition: PartitionId, lsn: Lsn) -> Result<Option<u64>, ReadFault> {
        let value = self
            .db
            .get_pinned_cf(&self.data(), data_key(partition, lsn))
            .map_err(rocksdb::Error::into_string)?;
        match value {
            None => Ok(None),
            Some(value) => match decode_record(&value) {
                Ok((bytes, _)) => Ok(Some(bytes)),
                Err(error) => Err(format!("the record at {lsn} {error}")),
            },
        }
    }

    /// Returns records from `from` on, below `end`, up to a gap or the limits of one item; empty when `from` is not
    /// there.
    pub(super) fn read(&self, partition: PartitionId, from: Lsn, end: Lsn) -> Result<Vec<Bytes>, ReadFault> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(data_key(partition, end));
        let mut iterator = self.db.raw_iterator_cf_opt(&self.data(), options);
        iterator.seek(data_key(partition, from));
        let mut records = Vec::new();
        let mut bytes = 0;
        let mut expected = from;
        while let Some((key, value)) = iterator.item() {
            if lsn_of(key, partition) != Some(expected) {
                break;
            }
            let (_, record) =
                decode_record(value).map_err(|error| format!("the record at {expected} {error}"))?;
            records.push(Bytes::copy_from_slice(record));
            bytes += record.len();
            expected = expected.next();
            if records.len() == READ_RECORDS_MAX || bytes >= READ_BYTES_MAX {
                break;
            }
            iterator.next();
        }
        iterator.status().map_err(rocksdb::Error::into_string)?;
        Ok(records)
    }

    pub(super) fn put_record(
        &self,
        batch: &mut WriteBatch,
        partition: PartitionId,
        lsn: Lsn,
        at: u64,
        record: &[u8],
    ) {
        batch.put_cf(&self.data(), data_key(partition, lsn), encode_record(at, record));
    }

    pub(super) fn put_position(&self, batch: &mut WriteBatch, partition: PartitionId, position: &Position) {
        batch.put_cf(&self.meta(), position_key(partition), encode_position(position));
    }

    pub(super) fn put_registration(&self, batch: &mut WriteBatch, registration: &Registration) {
        let key = registration_key(registration.partition);
        batch.put_cf(&self.meta(), key, encode_registration(registration));
    }

    /// Removes the records above `above`, up to `up_to`, inclusive.
    pub(super) fn remove_records(
        &self,
        batch: &mut WriteBatch,
        partition: PartitionId,
        above: Lsn,
        up_to: Lsn,
    ) {
        batch.delete_range_cf(
            &self.data(),
            data_key(partition, above.next()),
            data_key(partition, up_to.next()),
        );
    }

    /// Removes everything of a partition: records up to `tail`, position and registration.
    pub(super) fn remove_log(&self, batch: &mut WriteBatch, partition: PartitionId, tail: Lsn) {
        self.remove_records(batch, partition, Lsn::ZERO, tail);
        batch.delete_cf(&self.meta(), position_key(partition));
        batch.delete_cf(&self.meta(), registration_key(partition));
    }

    /// Writes `batch` and syncs it to the disk. Waits for as long as RocksDB holds writes back because flushes or compactions
    /// are behind; when one of them failed, that is an error, and the database must be opened again.
    pub(super) fn commit(&self, mut batch: WriteBatch) -> Result<(), rocksdb::Error> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        // A writer that waits inside RocksDB keeps out the flush by which it recovers from a full disk: for good.
        options.set_no_slowdown(true);
        loop {
            let again = WriteBatch::from_data(batch.data());
            match self.db.write_opt(batch, &options) {
                Err(error)
                    if error.kind() == ErrorKind::Incomplete && !self.has_failed_in_background()? =>
                {
                    thread::sleep(HELD_BACK_PAUSE);
                    batch = again;
                }
                result => return result,
            }
        }
    }

    fn has_failed_in_background(&self) -> Result<bool, rocksdb::Error> {
        let errors = self.db.property_int_value(properties::BACKGROUND_ERRORS)?;
        Ok(errors.is_some_and(|errors| errors > 0))
    }

    /// Drops whole files below the trim point; what is left in others goes with ordinary compaction.
    pub(super) fn reclaim(&self, partition: PartitionId, trim_point: Lsn) -> Result<(), rocksdb::Error> {
        let (from, to) = (data_key(partition, Lsn::ZERO), data_key(partition, trim_point));
        self.db.delete_file_in_range_cf(&self.data(), from, to)
    }

    /// Writes what is in memory to files, so that the next start has nothing to replay.
    pub(super) fn flush(&self) -> Result<(), rocksdb::Error> {
        let families = [&self.data(), &self.meta()];
        self.db
            .flush_cfs_opt(&families, &rocksdb::FlushOptions::default())
    }

    fn data(&self) -> Arc<BoundColumnFamily<'_>> {
        self.db
            .cf_handle(DATA)
            .expect("the column family is created when the database is opened")
    }

    fn meta(&self) -> Arc<BoundColumnFamily<'_>> {
        self.db
            .cf_handle(META)
            .expect("the column family is created when the database is opened")
    }
}
