//! How operator commands reach the admin, and what they say when they cannot.

use super::ConnectionArgs;
use crate::{
    kv::rules::MESSAGE_BYTES_MAX,
    wire_security::{SecuredChannel, unanswered},
};
use anyhow::Context as _;
use snapshot_proto::v1::{
    ClusterStatus, GetClusterStatusRequest, admin_service_client::AdminServiceClient,
    worker_service_client::WorkerServiceClient,
};
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// How long an admin may take to answer a question. Trims with verification take longer and have their own time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How to reach the admin.
#[derive(Clone, Debug, clap::Args)]
pub struct AdminArgs {
    /// Address of the admin.
    #[arg(
        long,
        env = "TIDEMARK_ADMIN",
        value_name = "URL",
        default_value = "http://127.0.0.1:7400"
    )]
    pub admin: String,
    /// The credentials, for the admin and for workers.
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

impl AdminArgs {
    /// Returns a client; it connects when first used.
    pub(super) fn client(&self) -> anyhow::Result<AdminServiceClient<SecuredChannel>> {
        let security = self.connection.security()?;
        let channel = security
            .connect(self.admin.trim_end_matches('/'))
            .context("--admin")?;
        Ok(AdminServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// Returns a client of the worker at `address`, with the same credentials.
    pub(super) fn worker_client(&self, address: &str) -> anyhow::Result<WorkerServiceClient<SecuredChannel>> {
        let channel = self.connection.security()?.connect(address)?;
        Ok(WorkerServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// Waits for an answer of the admin within a bounded time.
    pub(super) async fn ask<T>(
        &self,
        request: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> anyhow::Result<T> {
        self.ask_within(ANSWER_TIMEOUT, request).await
    }

    pub(super) async fn ask_within<T>(
        &self,
        time: Duration,
        request: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> anyhow::Result<T> {
        match tokio::time::timeout(time, request).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(self.explain(&status)),
            Err(_) => anyhow::bail!(
                "the admin at {} did not answer within {} s",
                self.admin,
                time.as_secs()
            ),
        }
    }

    pub(super) async fn cluster_status(&self) -> anyhow::Result<ClusterStatus> {
        let mut client = self.client()?;
        self.ask(client.get_cluster_status(GetClusterStatusRequest {}))
            .await
    }

    /// Turns an error answer into a message that says what to do.
    pub(super) fn explain(&self, status: &Status) -> anyhow::Error {
        if let Some(cause) = unanswered(status) {
            return anyhow::anyhow!(
                "no admin answers at {}: start it, or name another with --admin URL or TIDEMARK_ADMIN ({cause})",
                self.admin,
            );
        }
        let reason = status.get_details_error_info().map(|info| info.reason);
        match (reason, status.code()) {
            (None, Code::Unimplemented) => {
                anyhow::anyhow!(
                    "{} is not an admin: name one with --admin URL or TIDEMARK_ADMIN",
                    self.admin
                )
            }
            _ => anyhow::anyhow!("{}", status_text(status)),
        }
    }
}

/// Returns an error answer in words, with its stable word in brackets.
pub(super) fn status_text(status: &Status) -> String {
    match status
        .get_details_error_info()
        .map(|info| info.reason)
        .filter(|reason| !reason.is_empty())
    {
        Some(reason) => format!("{} [{reason}]", status.message()),
        None => status.message().to_owned(),
    }
}
