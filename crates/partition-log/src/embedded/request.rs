//! Requests to the committer.

use crate::{AppendError, LogError, Passage, ProvisionError, Registration};
use bytes::Bytes;
use snapshot_store::{Incarnation, Lsn, PartitionId, WriteId};
use tokio::sync::oneshot;

/// Where the answer goes.
pub(super) type Reply<T, E> = oneshot::Sender<Result<T, E>>;

/// An append whose batch fits.
pub(super) struct Append {
    pub(super) partition: PartitionId,
    pub(super) incarnation: Incarnation,
    pub(super) batch: Vec<Bytes>,
    pub(super) bytes: usize,
    pub(super) expected_tail: Option<Lsn>,
    /// Whether it comes from the place that the log is moved from.
    pub(super) imported: bool,
}

/// What the committer is asked for.
pub(super) enum Request {
    Append(Append, Reply<Lsn, AppendError>),
    Trim {
        partition: PartitionId,
        incarnation: Incarnation,
        up_to: Lsn,
        reply: Reply<Lsn, LogError>,
    },
    Seal {
        partition: PartitionId,
        incarnation: Incarnation,
        sealed: bool,
        reply: Reply<(), LogError>,
    },
    Provision {
        registration: Registration,
        reply: Reply<(), ProvisionError>,
    },
    ChangePassage {
        partition: PartitionId,
        incarnation: Incarnation,
        from: Option<Passage>,
        to: Option<Passage>,
        reply: Reply<Option<Passage>, LogError>,
    },
    Discard {
        partition: PartitionId,
        incarnation: Incarnation,
        id: WriteId,
        reply: Reply<(), LogError>,
    },
    /// Takes nothing more, and ends after what is in the queue.
    Stop,
}

/// Answers a request that is not taken with the reason.
pub(super) fn refuse(request: Request, fault: &str) {
    let detail = fault.to_owned();
    match request {
        Request::Append(_, reply) => drop(reply.send(Err(AppendError::Unavailable { detail }))),
        Request::Trim { partition, reply, .. } => {
            drop(reply.send(Err(LogError::Unavailable { partition, detail })));
        }
        Request::Seal { partition, reply, .. } | Request::Discard { partition, reply, .. } => {
            drop(reply.send(Err(LogError::Unavailable { partition, detail })));
        }
        Request::ChangePassage { partition, reply, .. } => {
            drop(reply.send(Err(LogError::Unavailable { partition, detail })));
        }
        Request::Provision { registration, reply } => {
            let partition = registration.partition;
            drop(reply.send(Err(LogError::Unavailable { partition, detail }.into())));
        }
        Request::Stop => {}
    }
}
