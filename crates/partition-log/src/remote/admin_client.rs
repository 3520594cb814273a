//! The client for admins.

use super::client::answer;
use super::endpoint::{ADMIN_TIMEOUT, EndpointError, MESSAGE_BYTES_MAX, Plain, endpoint, plain};
use super::status::{log_error, provision_error};
use super::wire::{incarnation_to_wire, registration_to_wire};
use crate::{LogAdmin, LogError, ProvisionError, Registration};
use async_trait::async_trait;
use snapshot_proto::v1::{self, log_admin_service_client::LogAdminServiceClient};
use snapshot_store::{Incarnation, Lsn, PartitionId};
use tonic::{
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

/// What an admin may do to a log on another node. Clones share its connection. `I` sees each request before it is
/// sent, and can put a token on it.
#[derive(Clone, Debug)]
pub struct RemoteLogAdmin<I = Plain>(LogAdminServiceClient<InterceptedService<Channel, I>>);

impl RemoteLogAdmin {
    /// Wraps a channel; [`endpoint`] returns one's settings.
    pub fn new(channel: Channel) -> Self {
        Self::intercepted(InterceptedService::new(channel, plain()))
    }

    /// Prepares the connection to the server at `url`; it is made with the first request. To be called within a
    /// Tokio runtime.
    ///
    /// # Errors
    /// When `url` is not a URL.
    pub fn connect_lazy(url: &str) -> Result<Self, EndpointError> {
        Ok(Self::new(endpoint(url)?.connect_lazy()))
    }
}

impl<I: Interceptor> RemoteLogAdmin<I> {
    /// Wraps a channel with an interceptor; [`endpoint`] returns the channel's settings.
    pub fn intercepted(channel: InterceptedService<Channel, I>) -> Self {
        let client = LogAdminServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        RemoteLogAdmin(client)
    }
}

#[async_trait]
impl<I: Interceptor + Clone + Send + Sync + 'static> LogAdmin for RemoteLogAdmin<I> {
    async fn provision(&self, registration: Registration) -> Result<(), ProvisionError> {
        let partition = registration.partition;
        let mut client = self.0.clone();
        answer(
            partition,
            ADMIN_TIMEOUT,
            client.provision(registration_to_wire(&registration)),
        )
        .await?
        .map_err(|status| provision_error(partition, &status))?;
        Ok(())
    }

    async fn set_sealed(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        sealed: bool,
    ) -> Result<(), LogError> {
        let mut client = self.0.clone();
        let incarnation = Some(incarnation_to_wire(incarnation));
        let request = v1::SetSealedRequest {
            partition: partition.get(),
            incarnation,
            sealed,
        };
        answer(partition, ADMIN_TIMEOUT, client.set_sealed(request))
            .await?
            .map_err(|status| log_error(partition, &status))?;
        Ok(())
    }

    async fn trim(
        &self,
        partition: PartitionId,
        incarnation: Incarnation,
        up_to: Lsn,
    ) -> Result<Lsn, LogError> {
        let mut client = self.0.clone();
        let incarnation = Some(incarnation_to_wire(incarnation));
        let request = v1::TrimLogRequest {
            partition: partition.get(),
            incarnation,
            up_to: up_to.get(),
        };
        let reply = answer(partition, ADMIN_TIMEOUT, client.trim(request))
            .await?
            .map_err(|status| log_error(partition, &status))?;
        Ok(Lsn::new(reply.trim_point))
    }
}
