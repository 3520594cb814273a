//! The services, over any engine.

use super::endpoint::MESSAGE_BYTES_MAX;
use super::status::{invalid, of_log_error, of_provision_error};
use super::wire::{
    id_from_wire, incarnation_from_wire, info_to_wire, passage_from_wire, passage_to_wire,
    registration_from_wire, registration_to_wire,
};
use crate::{AppendError, Log, LogAdmin, LogMove, ReadError, RecordBatch, RecordStream};
use futures::{Stream, StreamExt, future, stream};
use snapshot_proto::v1::{
    self, append_reply, log_admin_service_server as admin, log_move_service_server as moving,
    log_service_server as log, read_reply,
};
use snapshot_store::{Lsn, PartitionId};
use std::{pin::Pin, sync::Arc};
use tonic::{Request, Response, Status};

/// Serves a log to whoever reads and appends. Build it with [`log_service`].
pub struct LogServices(Arc<dyn Log>);

/// Serves a log to whoever may trim. Build it with [`log_admin_service`].
pub struct AdminServices(Arc<dyn LogAdmin>);

/// Serves what moving a log needs. Build it with [`log_move_service`].
pub struct MoveServices(Arc<dyn LogMove>);

/// Returns the service for readers and writers.
///
/// Read streams never end by themselves: to shut a server down in order, close the engine beside it.
pub fn log_service(log: Arc<dyn Log>) -> log::LogServiceServer<LogServices> {
    log::LogServiceServer::new(LogServices(log))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// Returns the service for admins. Whoever reaches it may trim: it has an address of its own.
pub fn log_admin_service(log: Arc<dyn LogAdmin>) -> admin::LogAdminServiceServer<AdminServices> {
    admin::LogAdminServiceServer::new(AdminServices(log))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// Returns the service that moves logs. It belongs beside [`log_admin_service`].
pub fn log_move_service(log: Arc<dyn LogMove>) -> moving::LogMoveServiceServer<MoveServices> {
    moving::LogMoveServiceServer::new(MoveServices(log))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

#[tonic::async_trait]
impl log::LogService for LogServices {
    async fn get_registration(
        &self,
        request: Request<v1::GetRegistrationRequest>,
    ) -> Result<Response<v1::Registration>, Status> {
        let partition = PartitionId::new(request.into_inner().partition);
        let registration = self
            .0
            .registration(partition)
            .await
            .map_err(|error| of_log_error(&error))?;
        Ok(Response::new(registration_to_wire(&registration)))
    }

    async fn get_info(&self, request: Request<v1::GetInfoRequest>) -> Result<Response<v1::LogInfo>, Status> {
        let partition = PartitionId::new(request.into_inner().partition);
        let info = self
            .0
            .info(partition)
            .await
            .map_err(|error| of_log_error(&error))?;
        Ok(Response::new(info_to_wire(&info)))
    }

    async fn append(&self, request: Request<v1::AppendRequest>) -> Result<Response<v1::AppendReply>, Status> {
        let request = request.into_inner();
        let partition = PartitionId::new(request.partition);
        let incarnation = incarnation_from_wire(request.incarnation).map_err(invalid)?;
        let expected_tail = request.expected_tail.map(Lsn::new);
        let appended = self
            .0
            .append(partition, incarnation, request.records, expected_tail)
            .await;
        let outcome = append_outcome(partition, appended)?;
        Ok(Response::new(v1::AppendReply {
            outcome: Some(outcome),
        }))
    }

    type ReadStream = ReadReplies;

    async fn read(&self, request: Request<v1::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        let partition = PartitionId::new(request.partition);
        let incarnation = incarnation_from_wire(request.incarnation).map_err(invalid)?;
        let items = self.0.read(partition, incarnation, Lsn::new(request.from)).await;
        Ok(Response::new(read_replies(items)))
    }
}

type ReadReplies = Pin<Box<dyn Stream<Item = Result<v1::ReadReply, Status>> + Send + 'static>>;

fn read_replies(items: Result<RecordStream, ReadError>) -> ReadReplies {
    match items {
        Ok(items) => items.map(read_reply).boxed(),
        Err(error) => stream::once(future::ready(read_reply(Err(error)))).boxed(),
    }
}

fn append_outcome(
    partition: PartitionId,
    appended: Result<Lsn, AppendError>,
) -> Result<append_reply::Outcome, Status> {
    use append_reply::Outcome;
    Ok(match appended {
        Ok(last) => Outcome::LastLsn(last.get()),
        Err(AppendError::TailMismatch { tail }) => {
            Outcome::TailMismatch(v1::TailMismatch { tail: tail.get() })
        }
        Err(AppendError::TooLarge { bytes, records }) => Outcome::TooLarge(v1::TooLarge {
            bytes: bytes as u64,
            records: records as u64,
        }),
        Err(AppendError::Sealed) => Outcome::Sealed(v1::Sealed {}),
        Err(AppendError::Unknown { detail }) => Outcome::Unknown(v1::UnknownOutcome { detail }),
        Err(AppendError::Unavailable { detail }) => {
            return Err(of_log_error(&crate::LogError::Unavailable { partition, detail }));
        }
        Err(AppendError::Log(error)) => return Err(of_log_error(&error)),
    })
}

fn read_reply(item: Result<RecordBatch, ReadError>) -> Result<v1::ReadReply, Status> {
    use read_reply::Item;
    let item = match item {
        Ok(batch) => Item::Records(v1::Records {
            first: batch.first.get(),
            records: batch.records,
        }),
        Err(ReadError::Trimmed { trim_point }) => Item::Trimmed(v1::TrimmedLog {
            trim_point: trim_point.get(),
        }),
        Err(ReadError::Regressed { tail }) => Item::Regressed(v1::RegressedLog { tail: tail.get() }),
        Err(ReadError::Hole { at }) => Item::Hole(v1::HoleInLog { at: at.get() }),
        Err(ReadError::Log(error)) => return Err(of_log_error(&error)),
    };
    Ok(v1::ReadReply { item: Some(item) })
}

#[tonic::async_trait]
impl admin::LogAdminService for AdminServices {
    async fn provision(
        &self,
        request: Request<v1::Registration>,
    ) -> Result<Response<v1::ProvisionReply>, Status> {
        let registration = registration_from_wire(request.into_inner()).map_err(invalid)?;
        self.0
            .provision(registration)
            .await
            .map_err(|error| of_provision_error(&error))?;
        Ok(Response::new(v1::ProvisionReply {}))
    }

    async fn set_sealed(
        &self,
        request: Request<v1::SetSealedRequest>,
    ) -> Result<Response<v1::SetSealedReply>, Status> {
        let request = request.into_inner();
        let partition = PartitionId::new(request.partition);
        let incarnation = incarnation_from_wire(request.incarnation).map_err(invalid)?;
        let sealed = self.0.set_sealed(partition, incarnation, request.sealed).await;
        sealed.map_err(|error| of_log_error(&error))?;
        Ok(Response::new(v1::SetSealedReply {}))
    }

    async fn trim(&self, request: Request<v1::TrimLogRequest>) -> Result<Response<v1::TrimLogReply>, Status> {
        let request = request.into_inner();
        let partition = PartitionId::new(request.partition);
        let incarnation = incarnation_from_wire(request.incarnation).map_err(invalid)?;
        let trimmed = self.0.trim(partition, incarnation, Lsn::new(request.up_to)).await;
        let trim_point = trimmed.map_err(|error| of_log_error(&error))?;
        Ok(Response::new(v1::TrimLogReply {
            trim_point: trim_point.get(),
        }))
    }
}

#[tonic::async_trait]
impl moving::LogMoveService for MoveServices {
    async fn get_position(
        &self,
        request: Request<v1::GetPositionRequest>,
    ) -> Result<Response<v1::LogInfo>, Status> {
        let request = request.into_inner();
        let partition = PartitionId::new(request.partition);
        let incarnation = incarnation_from_wire(request.incarnation).map_err(invalid)?;
        let info = self.0.position(partition, incarnation).await;
        let info = info.map_err(|error| of_log_error(&error))?;
        Ok(Response::new(info_to_wire(&info)))
    }

    type ReadMovingStream = ReadReplies;

    async fn read_moving(
        &self,
        request: Request<v1::ReadRequest>,
    ) -> Result<Response<Self::ReadMovingStream>, Status> {
        let request = request.into_inner();
        let partition = PartitionId::new(request.partition);
        let incarnation = incarnation_from_wire(request.incarnation).map_err(invalid)?;
        let from = Lsn::new(request.from);
        let items = self.0.read_moving(partition, incarnation, from).await;
        Ok(Response::new(read_replies(items)))
    }

    async fn import(&self, request: Request<v1::AppendRequest>) -> Result<Response<v1::AppendReply>, Status> {
        let request = request.into_inner();
        let partition = PartitionId::new(request.partition);
        let incarnation = incarnation_from_wire(request.incarnation).map_err(invalid)?;
        let tail = request
            .expected_tail
            .ok_or_else(|| invalid("an import names its tail"))?;
        let imported = self
            .0
            .import(partition, incarnation, request.records, Lsn::new(tail))
            .await;
        let outcome = append_outcome(partition, imported)?;
        Ok(Response::new(v1::AppendReply {
            outcome: Some(outcome),
        }))
    }

    async fn change_passage(
        &self,
        request: Request<v1::ChangePassageRequest>,
    ) -> Result<Response<v1::ChangePassageReply>, Status> {
        let request = request.into_inner();
        let partition = PartitionId::new(request.partition);
        let incarnation = incarnation_from_wire(request.incarnation).map_err(invalid)?;
        let from = request.from.map(passage_from_wire).transpose().map_err(invalid)?;
        let to = request.to.map(passage_from_wire).transpose().map_err(invalid)?;
        let passage = self.0.change_passage(partition, incarnation, from, to).await;
        let passage = passage.map_err(|error| of_log_error(&error))?;
        Ok(Response::new(v1::ChangePassageReply {
            passage: passage.as_ref().map(passage_to_wire),
        }))
    }

    async fn discard(
        &self,
        request: Request<v1::DiscardRequest>,
    ) -> Result<Response<v1::DiscardReply>, Status> {
        let request = request.into_inner();
        let partition = PartitionId::new(request.partition);
        let incarnation = incarnation_from_wire(request.incarnation).map_err(invalid)?;
        let id = id_from_wire(&request.id).map_err(invalid)?;
        let discarded = self.0.discard(partition, incarnation, id).await;
        discarded.map_err(|error| of_log_error(&error))?;
        Ok(Response::new(v1::DiscardReply {}))
    }
}
