//! Copying the log of one partition: look, plan, execute, until there is nothing left to do.

use super::plan::{self, CopyRefusal, Sighting, Step, Verified};
use super::{Compared, Copied, CopyError, CopyProgress, PARTITIONS_MAX, Place};
use crate::{AppendError, BATCH_BYTES_MAX, BATCH_RECORDS_MAX, LogError, Passage, ProvisionError, ReadError};
use crate::{RecordBatch, RecordStream};
use bytes::Bytes;
use futures::StreamExt as _;
use snapshot_store::{ContentHash, Lsn, PartitionId, Seams, WriteId};
use std::{collections::VecDeque, time::Duration};

/// How often the same step is tried, and the pause in between: longer together than a distributed log takes to elect a
/// leader.
const ATTEMPTS: (u32, Duration) = (40, Duration::from_millis(500));
/// How long a place may let wait for records that it says it has.
const RECORDS_WAIT_MAX: Duration = Duration::from_secs(60);

pub(super) struct Mover<'a> {
    source: &'a Place,
    destination: &'a Place,
    seams: &'a Seams,
    progress: &'a dyn CopyProgress,
}

/// How far one partition got in this run.
#[derive(Clone)]
pub(super) struct Stage {
    pub(super) copied: Copied,
    verified: Option<Verified>,
}

impl<'a> Mover<'a> {
    pub(super) fn new(
        source: &'a Place,
        destination: &'a Place,
        seams: &'a Seams,
        progress: &'a dyn CopyProgress,
    ) -> Self {
        Mover {
            source,
            destination,
            seams,
            progress,
        }
    }

    /// Returns the partitions that the source has logs of, and announces how much there is to do.
    pub(super) async fn partitions(&self) -> Result<Vec<PartitionId>, CopyError> {
        let sightings = sightings(self.source).await?;
        for sighting in &sightings {
            let records = sighting.tail.prev().records_since(sighting.trim_point);
            self.progress.planned(2 * records);
        }
        Ok(sightings
            .iter()
            .map(|sighting| sighting.registration.partition)
            .collect())
    }

    /// Looks at both places and decides what comes next.
    pub(super) async fn plan(
        &self,
        partition: PartitionId,
        verified: Option<Verified>,
    ) -> Result<(Sighting, Step), CopyError> {
        let source = look(self.source, partition)
            .await?
            .ok_or_else(|| self.source.log_error(LogError::Missing { partition }))?;
        let destination = look(self.destination, partition).await?;
        let names = self.source.names(self.destination);
        let step = plan::next_step(&source, destination.as_ref(), names, verified)?;
        Ok((source, step))
    }

    /// Goes on with one partition, after what was done of it `before` in this run, up to the step at which `stop` says so,
    /// or to the end.
    pub(super) async fn run(
        &self,
        partition: PartitionId,
        before: Option<Stage>,
        stop: fn(&Step) -> bool,
    ) -> Result<Stage, CopyError> {
        let (mut verified, mut compared) = match before {
            Some(stage) => (stage.verified, stage.copied.compared),
            None => (None, None),
        };
        let mut last = None;
        let mut attempts = 0;
        loop {
            let failure = match self.plan(partition, verified).await {
                Ok((source, step)) => {
                    if step == Step::Done || stop(&step) {
                        let copied = Copied {
                            partition,
                            incarnation: source.registration.incarnation,
                            trim_point: source.trim_point,
                            tail: source.tail,
                            compared,
                        };
                        return Ok(Stage { copied, verified });
                    }
                    if last.replace(step.clone()) != Some(step.clone()) {
                        attempts = 0;
                    }
                    match self.execute(&source, step).await {
                        Ok(None) => None,
                        Ok(Some(done)) => {
                            (verified, compared) = (Verified::of(&source), Some(done));
                            None
                        }
                        Err(error) => Some(error),
                    }
                }
                Err(error) => Some(error),
            };
            attempts += 1;
            match failure {
                None if attempts < ATTEMPTS.0 => {}
                Some(error) if attempts < ATTEMPTS.0 && is_passing(&error) => {
                    tokio::time::sleep(ATTEMPTS.1).await;
                }
                Some(error) => return Err(error),
                None => {
                    let step = format!("{last:?}");
                    return Err(CopyError::Stuck { partition, step });
                }
            }
        }
    }

    /// Executes one step; returns what was compared, if that was it.
    async fn execute(&self, source: &Sighting, step: Step) -> Result<Option<Compared>, CopyError> {
        let (partition, incarnation) = (source.registration.partition, source.registration.incarnation);
        match step {
            Step::Seal => {
                let leaving = Passage::Leaving {
                    id: WriteId::new(self.seams.ulid()),
                    to: self.destination.name.clone(),
                };
                change(self.source, source, None, Some(leaving)).await?;
            }
            Step::Discard { leftover } => {
                let discarded = self
                    .destination
                    .mover
                    .discard(partition, incarnation, leftover.id());
                discarded
                    .await
                    .map_err(|error| self.destination.log_error(error))?;
            }
            Step::Provision(registration) => {
                let provisioned = self.destination.admin.provision(*registration).await;
                provisioned.map_err(|error| CopyError::Provision {
                    place: self.destination.name.clone(),
                    source: error,
                })?;
            }
            Step::Import { from, end } => self.import(source, from, end).await?,
            Step::Verify { from, end } => return Ok(Some(self.verify(source, from, end).await?)),
            Step::Leave { leaving } => {
                let left = left(&leaving);
                change(self.source, source, Some(leaving), Some(left)).await?;
            }
            Step::Arrive { arriving } => change(self.destination, source, Some(arriving), None).await?,
            Step::Done => {}
        }
        Ok(None)
    }

    async fn import(&self, source: &Sighting, from: Lsn, end: Lsn) -> Result<(), CopyError> {
        let mut records = Records::open(self.source, source, from, end).await?;
        let (partition, incarnation) = (source.registration.partition, source.registration.incarnation);
        let mut tail = from;
        loop {
            let batch = records.batch().await?;
            if batch.is_empty() {
                return Ok(());
            }
            let count = batch.len() as u64;
            let imported = self
                .destination
                .mover
                .import(partition, incarnation, batch, tail)
                .await;
            imported.map_err(|error| CopyError::Import {
                place: self.destination.name.clone(),
                partition,
                source: error,
            })?;
            tail = tail.plus(count);
            self.progress.advanced(count);
        }
    }

    /// Reads both places and compares them record by record.
    async fn verify(&self, source: &Sighting, from: Lsn, end: Lsn) -> Result<Compared, CopyError> {
        let partition = source.registration.partition;
        let mut here = Records::open(self.source, source, from, end).await?;
        let mut there = Records::open(self.destination, source, from, end).await?;
        let mut digest = ContentHash::from_bytes([0; 32]);
        let mut compared = Compared {
            records: 0,
            bytes: 0,
            digest,
        };
        let mut preimage = Vec::new();
        let mut at = from;
        while let Some(record) = here.next().await? {
            if there.next().await?.as_ref() != Some(&record) {
                return Err(CopyRefusal::Different { partition, at }.into());
            }
            preimage.clear();
            preimage.extend_from_slice(digest.as_bytes());
            preimage.extend_from_slice(&at.get().to_be_bytes());
            preimage.extend_from_slice(&record);
            digest = ContentHash::of(&preimage);
            compared.records += 1;
            compared.bytes += record.len() as u64;
            at = at.next();
            self.progress.advanced(1);
        }
        Ok(Compared { digest, ..compared })
    }
}

fn left(leaving: &Passage) -> Passage {
    match leaving.clone() {
        Passage::Leaving { id, to } | Passage::Left { id, to } => Passage::Left { id, to },
        arriving @ Passage::Arriving { .. } => arriving,
    }
}

/// Whether waiting may help: the place did not answer, or the answer was lost and the next look tells.
fn is_passing(error: &CopyError) -> bool {
    matches!(
        error,
        CopyError::Log {
            source: LogError::Unavailable { .. },
            ..
        } | CopyError::Read {
            source: ReadError::Log(LogError::Unavailable { .. }),
            ..
        } | CopyError::Import {
            source: AppendError::Unavailable { .. }
                | AppendError::Unknown { .. }
                | AppendError::TailMismatch { .. },
            ..
        } | CopyError::Provision {
            source: ProvisionError::Log(LogError::Unavailable { .. }),
            ..
        }
    )
}

/// Changes a passage. That another one is in force by now shows at the next look.
async fn change(
    place: &Place,
    log: &Sighting,
    from: Option<Passage>,
    to: Option<Passage>,
) -> Result<(), CopyError> {
    let (partition, incarnation) = (log.registration.partition, log.registration.incarnation);
    let changed = place.mover.change_passage(partition, incarnation, from, to).await;
    changed.map(drop).map_err(|error| place.log_error(error))
}

/// Returns what a place says of a partition; `None` when it has no log of it.
async fn look(place: &Place, partition: PartitionId) -> Result<Option<Sighting>, CopyError> {
    let registration = match place.log.registration(partition).await {
        Ok(registration) => registration,
        Err(LogError::Missing { .. }) => return Ok(None),
        Err(error) => return Err(place.log_error(error)),
    };
    let position = place.mover.position(partition, registration.incarnation).await;
    let position = position.map_err(|error| place.log_error(error))?;
    Ok(Some(Sighting {
        registration,
        trim_point: position.trim_point,
        tail: position.tail,
    }))
}

/// Returns what the source says of all partitions; they are numbered without gaps.
async fn sightings(source: &Place) -> Result<Vec<Sighting>, CopyError> {
    let mut sightings = Vec::new();
    for number in 0..PARTITIONS_MAX {
        match look(source, PartitionId::new(number)).await? {
            Some(sighting) => sightings.push(sighting),
            None => break,
        }
    }
    if sightings.is_empty() {
        let place = source.name.clone();
        return Err(CopyRefusal::NoSource { place }.into());
    }
    Ok(sightings)
}

pub(super) async fn take_back(
    source: &Place,
    destination: Option<&Place>,
) -> Result<Vec<PartitionId>, CopyError> {
    let mut steps = Vec::new();
    for sighting in sightings(source).await? {
        let partition = sighting.registration.partition;
        let found = match destination {
            Some(destination) => look(destination, partition).await?,
            None => None,
        };
        // All of them are asked before the first one is changed.
        let step = plan::take_back(&sighting, found.as_ref())?;
        steps.push((sighting, step));
    }
    let mut sealed = Vec::new();
    for (sighting, step) in steps {
        let (partition, incarnation) = (sighting.registration.partition, sighting.registration.incarnation);
        if let (Some(destination), Some(leftover)) = (destination, step.leftover) {
            let discarded = destination.mover.discard(partition, incarnation, leftover.id());
            discarded.await.map_err(|error| destination.log_error(error))?;
        }
        if step.sealed {
            let unsealed = source.admin.set_sealed(partition, incarnation, false);
            unsealed.await.map_err(|error| source.log_error(error))?;
            sealed.push(partition);
        }
        if let Some(leaving) = step.leaving {
            change(source, &sighting, Some(leaving), None).await?;
            sealed.push(partition);
        }
    }
    Ok(sealed)
}

/// The records of a log, from one LSN on and below another.
struct Records<'a> {
    place: &'a Place,
    partition: PartitionId,
    stream: RecordStream,
    /// LSN of the next record to come out, and the one to stop before.
    next: Lsn,
    end: Lsn,
    read: VecDeque<Bytes>,
}

impl<'a> Records<'a> {
    async fn open(place: &'a Place, log: &Sighting, from: Lsn, end: Lsn) -> Result<Self, CopyError> {
        let (partition, incarnation) = (log.registration.partition, log.registration.incarnation);
        let stream = place.mover.read_moving(partition, incarnation, from).await;
        let stream = stream.map_err(|source| CopyError::Read {
            place: place.name.clone(),
            partition,
            source,
        })?;
        Ok(Records {
            place,
            partition,
            stream,
            next: from,
            end,
            read: VecDeque::new(),
        })
    }

    /// Takes the next record; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, CopyError> {
        if self.next >= self.end {
            return Ok(None);
        }
        if self.read.is_empty() {
            let fetched = self.fetch().await?;
            self.read.extend(fetched.records);
        }
        let record = self.read.pop_front();
        self.next = self.next.next();
        Ok(record)
    }

    /// Takes as many records as one append holds; none at the end.
    async fn batch(&mut self) -> Result<Vec<Bytes>, CopyError> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_RECORDS_MAX {
            if let Some(record) = self.read.front()
                && bytes + record.len() > BATCH_BYTES_MAX
            {
                break;
            }
            // What is not read yet is left for the next batch, rather than waited for.
            if self.read.is_empty() && !batch.is_empty() {
                break;
            }
            let Some(record) = self.next().await? else { break };
            bytes += record.len();
            batch.push(record);
        }
        Ok(batch)
    }

    async fn fetch(&mut self) -> Result<RecordBatch, CopyError> {
        let (partition, place) = (self.partition, self.place);
        let unavailable = |detail: &str| {
            let detail = detail.to_owned();
            ReadError::Log(LogError::Unavailable { partition, detail })
        };
        let item = match tokio::time::timeout(RECORDS_WAIT_MAX, self.stream.next()).await {
            Ok(Some(item)) => item,
            Ok(None) => Err(unavailable("its records ended early")),
            Err(_) => Err(unavailable("its records do not come")),
        };
        item.map_err(|source| CopyError::Read {
            place: place.name.clone(),
            partition,
            source,
        })
    }
}
