//! Read streams of the embedded log. They hold neither an iterator nor the database between two items, so an idle
//! or slow reader costs nothing and never holds up a trim or a close.

use super::closed;
use super::shared::{Cell, Shared, View};
use crate::position::{Step, check_incarnation};
use crate::{LogError, ReadError, RecordBatch, RecordStream};
use bytes::Bytes;
use futures::{StreamExt, stream};
use snapshot_store::{Incarnation, Lsn, PartitionId};
use std::sync::{Arc, PoisonError};
use tokio::sync::watch;

struct Reader {
    shared: Arc<Shared>,
    partition: PartitionId,
    next: Lsn,
    cell: Arc<Cell>,
    /// Reads whatever the passage of the log.
    moving: bool,
    view: watch::Receiver<View>,
}

/// What was found where records should be.
enum Chunk {
    Records(Vec<Bytes>),
    /// The first one is not there; this is the trim point.
    Gone(Lsn),
}

pub(super) fn open(
    shared: &Arc<Shared>,
    partition: PartitionId,
    incarnation: Incarnation,
    from: Lsn,
    moving: bool,
) -> Result<RecordStream, ReadError> {
    let cell = shared.open_cell(partition)?;
    // The registry never changes a log's incarnation while it is open.
    check_incarnation(&cell.registration(), incarnation)?;
    let mut reader = Reader {
        shared: Arc::clone(shared),
        partition,
        next: from,
        view: cell.watch(),
        cell,
        moving,
    };
    if let Some(error) = reader.step()?.error() {
        return Err(error);
    }
    let items = stream::unfold(Some(reader), async |reader| {
        let mut reader = reader?;
        match reader.next_batch().await {
            Ok(batch) => {
                reader.next = batch.end();
                Some((Ok(batch), Some(reader)))
            }
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(items.boxed())
}

impl Reader {
    fn step(&mut self) -> Result<Step, ReadError> {
        let View {
            position,
            closed: is_closed,
            usable,
        } = *self.view.borrow_and_update();
        if is_closed {
            return Err(closed(self.partition).into());
        }
        if !usable && !self.moving {
            self.cell.registration().check_use()?;
        }
        Ok(Step::at(position.trim_point, position.tail, self.next))
    }

    async fn next_batch(&mut self) -> Result<RecordBatch, ReadError> {
        loop {
            match self.step()? {
                Step::Read { end } => {
                    let first = self.next;
                    return match self.chunk(end).await? {
                        Chunk::Records(records) => Ok(RecordBatch { first, records }),
                        Chunk::Gone(trim_point) if first <= trim_point => {
                            Err(ReadError::Trimmed { trim_point })
                        }
                        Chunk::Gone(_) => Err(ReadError::Hole { at: first }),
                    };
                }
                Step::Wait => {
                    self.view.changed().await.map_err(|_| closed(self.partition))?;
                }
                step => {
                    if let Some(error) = step.error() {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Reads one chunk, away from the runtime.
    async fn chunk(&self, end: Lsn) -> Result<Chunk, LogError> {
        let (shared, partition, from) = (Arc::clone(&self.shared), self.partition, self.next);
        let unavailable = |detail: String| LogError::Unavailable { partition, detail };
        let read = tokio::task::spawn_blocking(move || {
            let store = shared.store.read().unwrap_or_else(PoisonError::into_inner);
            let Some(store) = store.as_ref() else {
                return Err(shared.failure().map_or_else(
                    || closed(partition),
                    |detail| LogError::Unavailable { partition, detail },
                ));
            };
            let chunk = match store.read(partition, from, end) {
                // The trim that took the record may be written and not yet published, so ask what is written.
                Ok(records) if records.is_empty() => store
                    .position(partition)
                    .map(|position| Chunk::Gone(position.trim_point)),
                records => records.map(Chunk::Records),
            };
            chunk.map_err(|detail| LogError::Unavailable { partition, detail })
        });
        read.await
            .map_err(|error| unavailable(format!("reading ended early: {error}")))?
    }
}
