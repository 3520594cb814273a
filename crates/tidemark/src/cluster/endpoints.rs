//! Where the nodes of a local cluster are reached, and clients to them.

use super::{ClusterError, Node};
use crate::wire_security::{ClientSecurity, SecuredChannel};
use snapshot_proto::{
    kv::kv_service_client::KvServiceClient,
    v1::{
        ClusterStatus, GetClusterStatusRequest, GetStatusRequest, WorkerStatus,
        admin_service_client::AdminServiceClient, log_service_client::LogServiceClient,
        worker_service_client::WorkerServiceClient,
    },
};
use std::{collections::BTreeMap, time::Duration};
use tonic::transport::Endpoint;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// A page of pairs may hold some values of the largest size.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Addresses of all nodes. Cheap enough to clone into tasks.
#[derive(Clone, Debug)]
pub struct Endpoints {
    pub(super) urls: BTreeMap<Node, String>,
    pub(super) metrics: BTreeMap<Node, String>,
    pub(super) log_admin: String,
    pub(super) workers: u32,
    pub(super) security: ClientSecurity,
}

impl Endpoints {
    /// Returns the URL of the node's main gRPC service.
    pub fn url(&self, node: Node) -> &str {
        self.urls.get(&node).map_or("", String::as_str)
    }

    /// Returns `address:port` of the node's metrics endpoint.
    pub fn metrics_address(&self, node: Node) -> &str {
        self.metrics.get(&node).map_or("", String::as_str)
    }

    /// Returns the URL of the log's administrative service.
    pub fn log_admin_url(&self) -> &str {
        &self.log_admin
    }

    /// Returns how many workers there are.
    pub fn workers(&self) -> u32 {
        self.workers
    }

    /// Returns the credentials with which the clients of this value are made.
    pub fn security(&self) -> &ClientSecurity {
        &self.security
    }

    /// Returns the same addresses for clients with other credentials.
    #[must_use]
    pub fn with_security(mut self, security: ClientSecurity) -> Self {
        self.security = security;
        self
    }

    /// Returns the URLs of all workers.
    pub fn worker_urls(&self) -> Vec<String> {
        (1..=self.workers)
            .map(|number| self.url(Node::Worker(number)).to_owned())
            .collect()
    }

    /// Connects to the admin; where there are two, to the one that acts.
    ///
    /// # Errors
    /// When it does not answer, or none of two acts.
    pub async fn admin(&self) -> Result<AdminServiceClient<SecuredChannel>, ClusterError> {
        let node = match self.admins()[..] {
            [alone] => alone,
            _ => self.acting_status().await?.0,
        };
        self.admin_at(node).await
    }

    async fn admin_at(&self, node: Node) -> Result<AdminServiceClient<SecuredChannel>, ClusterError> {
        Ok(AdminServiceClient::new(self.connect(node).await?))
    }

    fn admins(&self) -> Vec<Node> {
        [Node::Admin, Node::SecondAdmin]
            .into_iter()
            .filter(|node| self.urls.contains_key(node))
            .collect()
    }

    /// Connects to the log.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn log(&self) -> Result<LogServiceClient<SecuredChannel>, ClusterError> {
        Ok(LogServiceClient::new(self.connect(Node::Log).await?))
    }

    /// Connects to a worker.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn worker(&self, number: u32) -> Result<WorkerServiceClient<SecuredChannel>, ClusterError> {
        Ok(WorkerServiceClient::new(
            self.connect(Node::Worker(number)).await?,
        ))
    }

    /// Connects to the key-value service of a worker.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn kv(&self, number: u32) -> Result<KvServiceClient<SecuredChannel>, ClusterError> {
        let channel = self.connect(Node::Worker(number)).await?;
        Ok(KvServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// Asks the admin for the state of the cluster; where there are two, the one that acts.
    ///
    /// # Errors
    /// When it does not answer, or with an error, or none of two acts.
    pub async fn cluster_status(&self) -> Result<ClusterStatus, ClusterError> {
        Ok(self.acting_status().await?.1)
    }

    /// Returns the admin that acts, and the state of the cluster as it sees it. A single admin is not asked whether it acts.
    ///
    /// # Errors
    /// When it does not answer, or with an error, or none of two acts.
    pub async fn acting_status(&self) -> Result<(Node, ClusterStatus), ClusterError> {
        let admins = self.admins();
        let mut waiting = Vec::new();
        for node in &admins {
            match self.status_of(*node).await {
                Ok(status) if admins.len() == 1 || acts(&status) => return Ok((*node, status)),
                Ok(_) => waiting.push(format!("{node} only watches")),
                Err(error) if admins.len() == 1 => return Err(error),
                Err(error) => waiting.push(error.to_string()),
            }
        }
        Err(ClusterError::NoAdmin {
            detail: waiting.join("; "),
        })
    }

    /// Asks one admin for the state of the cluster, whether or not it acts.
    ///
    /// # Errors
    /// When it does not answer, or with an error.
    pub async fn status_of(&self, admin: Node) -> Result<ClusterStatus, ClusterError> {
        let mut client = self.admin_at(admin).await?;
        let answer = client.get_cluster_status(GetClusterStatusRequest {}).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.refused(admin, &status))
    }

    /// Asks a worker for its state.
    ///
    /// # Errors
    /// When it does not answer, or with an error.
    pub async fn worker_status(&self, number: u32) -> Result<WorkerStatus, ClusterError> {
        let answer = self
            .worker(number)
            .await?
            .get_status(GetStatusRequest::default())
            .await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.refused(Node::Worker(number), &status))
    }

    async fn connect(&self, node: Node) -> Result<SecuredChannel, ClusterError> {
        let url = self.url(node);
        let unreachable = |error: tonic::transport::Error| ClusterError::Unreachable {
            node,
            url: url.to_owned(),
            detail: with_sources(&error),
        };
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(unreachable)?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .tcp_nodelay(true);
        let connected = self.security.channel_now(endpoint).await;
        let connected = connected.map_err(|error| ClusterError::Unreachable {
            node,
            url: url.to_owned(),
            detail: error.to_string(),
        })?;
        connected.map_err(unreachable)
    }

    fn refused(&self, node: Node, status: &tonic::Status) -> ClusterError {
        ClusterError::Unreachable {
            node,
            url: self.url(node).to_owned(),
            detail: status.to_string(),
        }
    }
}

fn acts(status: &ClusterStatus) -> bool {
    status.lease.as_ref().is_some_and(|lease| lease.active)
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
