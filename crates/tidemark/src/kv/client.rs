//! The key-value client: spreads keys over partitions, finds leaders, follows hints, retries within bounds.
//!
//! A write is sent again when its outcome is unknown. Operations are puts and deletes, so a repeated write of one
//! client changes nothing; only a write of *another* client that came in between may be overwritten by it.

use super::{error::KvError, routes::Routes, rules, service::reason};
use crate::wire_security::{ClientSecurity, SecuredChannel, unanswered};
use bytes::Bytes;
use snapshot_proto::{
    kv::{
        DescribeRequest, Description, DigestReply, DigestRequest, GetReply, GetRequest, Operation,
        WriteRequest, kv_service_client::KvServiceClient, operation::Change,
    },
    v1::{GetStatusRequest, WorkerStatus, worker_service_client::WorkerServiceClient},
};
use snapshot_store::{Entropy, Fingerprint, Lsn, PartitionId, format::KeyHash};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{task::JoinSet, time::Instant};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// How long one attempt may take before another node is asked.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long all attempts of one request may take, unless the caller says otherwise.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long all attempts to reach a first worker may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// First and longest pause between two attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(1000));
/// Hints followed in a row without a pause; more means that nodes point at each other.
const HINTS_MAX: u32 = 3;
/// A client of the key-value service; clones share connections and routes.
#[derive(Clone)]
pub struct KvClient {
    inner: Arc<Inner>,
    patience: Duration,
}

struct Inner {
    routes: Routes,
    cluster: String,
    fingerprint: Option<Fingerprint>,
    partitions: u32,
    key_hash: KeyHash,
    entropy: Entropy,
}

/// What an error answer means for the next step.
enum Verdict {
    /// Ask the leader at this address.
    Hint(String),
    /// Ask somebody else, or the same again, after a pause.
    Elsewhere,
    /// Asking again would give the same answer.
    Final,
}

fn judge(status: &Status) -> Verdict {
    let info = status.get_details_error_info();
    match info.as_ref().map(|info| info.reason.as_str()) {
        Some(reason::NOT_LEADER) => info
            .and_then(|info| info.metadata.get("address").cloned())
            .filter(|address| !address.is_empty())
            .map_or(Verdict::Elsewhere, Verdict::Hint),
        Some(
            reason::NOT_ACTIVE
            | reason::UNKNOWN_PARTITION
            | reason::UNKNOWN_OUTCOME
            | reason::STOPPING
            | reason::OVERLOADED
            | reason::LOG_UNAVAILABLE
            | reason::LOCAL_STATE,
        ) => Verdict::Elsewhere,
        Some(_) => Verdict::Final,
        None => match status.code() {
            Code::InvalidArgument | Code::Unimplemented | Code::PermissionDenied | Code::Unauthenticated => {
                Verdict::Final
            }
            _ => Verdict::Elsewhere,
        },
    }
}

fn rejected(status: &Status) -> KvError {
    let reason = status
        .get_details_error_info()
        .map(|info| info.reason)
        .unwrap_or_default();
    KvError::Rejected {
        reason,
        message: status.message().to_owned(),
    }
}

/// Returns whether a gate refused the caller.
fn is_refused(status: &Status) -> bool {
    matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied)
}

/// Returns why a node did not describe itself, in words.
fn unreachable_detail(status: &Status) -> String {
    match unanswered(status) {
        Some(cause) => cause,
        None if status.message().is_empty() => status.code().description().to_owned(),
        None => status.message().to_owned(),
    }
}

/// Runs one attempt within its time.
async fn attempt<T>(request: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(ATTEMPT_TIMEOUT, request).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!(
            "no answer within {} s",
            ATTEMPT_TIMEOUT.as_secs()
        ))),
    }
}

pub(super) fn kv_service(channel: SecuredChannel) -> KvServiceClient<SecuredChannel> {
    KvServiceClient::new(channel)
        .max_decoding_message_size(rules::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(rules::MESSAGE_BYTES_MAX)
}

impl KvClient {
    /// Asks the workers at `urls`, one after the other, who the cluster is. One that answers is enough.
    ///
    /// # Errors
    /// When none answers within ten seconds, or an address is none.
    pub async fn connect(urls: Vec<String>) -> Result<Self, KvError> {
        Self::connect_secured(urls, ClientSecurity::open(), CONNECT_PATIENCE).await
    }

    /// Like [`KvClient::connect`], with a time of the caller's choice.
    ///
    /// # Errors
    /// When none answers within `patience`, or an address is none.
    pub async fn connect_within(urls: Vec<String>, patience: Duration) -> Result<Self, KvError> {
        Self::connect_secured(urls, ClientSecurity::open(), patience).await
    }

    /// Like [`KvClient::connect`], with credentials of the caller's choice.
    ///
    /// # Errors
    /// When none answers within ten seconds, a worker refuses the credentials, or an address is none or not one for these
    /// credentials.
    pub async fn connect_with(urls: Vec<String>, security: ClientSecurity) -> Result<Self, KvError> {
        Self::connect_secured(urls, security, CONNECT_PATIENCE).await
    }

    async fn connect_secured(
        urls: Vec<String>,
        security: ClientSecurity,
        patience: Duration,
    ) -> Result<Self, KvError> {
        if urls.is_empty() {
            return Err(KvError::NoWorkers);
        }
        let urls: Vec<String> = urls
            .iter()
            .map(|url| url.trim_end_matches('/').to_owned())
            .collect();
        let entropy = Entropy::from_os();
        let routes = Routes::new(urls, security);
        let description = describe(&routes, patience, &entropy).await?;
        let key_hash = match description.key_hash.as_str() {
            "blake3-mod" => KeyHash::Blake3Mod,
            other => {
                return Err(KvError::UnknownKeyHash {
                    key_hash: other.to_owned(),
                });
            }
        };
        let inner = Inner {
            routes,
            cluster: description.cluster,
            fingerprint: Fingerprint::from_slice(&description.fingerprint),
            partitions: description.partitions,
            key_hash,
            entropy,
        };
        Ok(KvClient {
            inner: Arc::new(inner),
            patience: PATIENCE,
        })
    }

    /// Returns a client that gives a request up after `patience`.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Returns the cluster's name.
    pub fn cluster(&self) -> &str {
        &self.inner.cluster
    }

    /// Returns the cluster's fingerprint.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.inner.fingerprint
    }

    /// Returns how many partitions the cluster has.
    pub fn partitions(&self) -> u32 {
        self.inner.partitions
    }

    /// Returns the partition `key` belongs to.
    pub fn partition_of(&self, key: &[u8]) -> PartitionId {
        self.inner.key_hash.partition_of(key, self.inner.partitions)
    }

    pub(super) fn key_hash(&self) -> KeyHash {
        self.inner.key_hash
    }

    pub(super) fn routes(&self) -> &Routes {
        &self.inner.routes
    }

    /// Stores `value` under `key`; returns the LSN of the record that did.
    ///
    /// # Errors
    /// When it is refused, or not acknowledged in time; it may then have taken effect or not.
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<Lsn, KvError> {
        let key = key.into();
        let partition = self.partition_of(&key);
        self.write(
            partition,
            vec![Operation {
                key,
                change: Some(Change::Put(value.into())),
            }],
        )
        .await
    }

    /// Removes `key`, which need not exist; returns the LSN of the record that did.
    ///
    /// # Errors
    /// When it is refused, or not acknowledged in time; it may then have taken effect or not.
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<Lsn, KvError> {
        let key = key.into();
        let partition = self.partition_of(&key);
        self.write(
            partition,
            vec![Operation {
                key,
                change: Some(Change::Delete(true)),
            }],
        )
        .await
    }

    /// Appends operations of one partition, in order; returns the LSN of the last.
    ///
    /// # Errors
    /// When one is refused, or they are not acknowledged in time; some may then have taken effect.
    pub async fn write(&self, partition: PartitionId, operations: Vec<Operation>) -> Result<Lsn, KvError> {
        rules::check_write(&operations)?;
        let request = WriteRequest {
            partition: partition.get(),
            operations,
        };
        let reply = self
            .at_leader(partition, |mut service| {
                let request = request.clone();
                async move { service.write(request).await }
            })
            .await?;
        Ok(Lsn::new(reply.last_lsn))
    }

    /// Reads `key`, from its partition's leader when that is known and answers, else from any replica; the answer
    /// says which it was, and the LSN of what it saw.
    ///
    /// # Errors
    /// When no replica answers in time.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<GetReply, KvError> {
        let key = key.into();
        rules::check_key(&key)?;
        let partition = self.partition_of(&key);
        self.at_leader(partition, |mut service| {
            let request = GetRequest { key: key.clone() };
            async move { service.get(request).await }
        })
        .await
    }

    /// Reads number and digest of the pairs of `partition` as the replica at `address` has them.
    ///
    /// # Errors
    /// When that one replica does not answer; it is asked once.
    pub async fn replica_digest(
        &self,
        address: &str,
        partition: PartitionId,
    ) -> Result<DigestReply, KvError> {
        let mut service = kv_service(self.inner.routes.channel(address)?);
        let request = DigestRequest {
            partition: partition.get(),
        };
        // A digest reads the whole partition: it may take longer than other requests.
        match tokio::time::timeout(self.patience, service.digest(request)).await {
            Ok(answer) => answer
                .map(tonic::Response::into_inner)
                .map_err(|status| rejected(&status)),
            Err(_) => Err(KvError::Unreachable {
                addresses: address.to_owned(),
                detail: format!("no digest within {} s", self.patience.as_secs()),
            }),
        }
    }

    /// Asks all known workers for their status; those that do not answer are left out.
    pub async fn worker_statuses(&self) -> Vec<WorkerStatus> {
        let mut asked = JoinSet::new();
        for address in self.inner.routes.endpoints() {
            let Ok(channel) = self.inner.routes.channel(address) else {
                continue;
            };
            asked.spawn(async move {
                let mut service =
                    WorkerServiceClient::new(channel).max_decoding_message_size(rules::MESSAGE_BYTES_MAX);
                attempt(service.get_status(GetStatusRequest::default()))
                    .await
                    .ok()
            });
        }
        asked.join_all().await.into_iter().flatten().collect()
    }

    /// Learns from the workers' status who leads which partition; of two that claim it, the later term counts.
    pub async fn find_leaders(&self) -> BTreeMap<PartitionId, String> {
        let mut best: BTreeMap<PartitionId, (u64, String)> = BTreeMap::new();
        for status in self.worker_statuses().await {
            for replica in status.partitions {
                let Some(leader) = replica.leader.filter(|leader| !leader.address.is_empty()) else {
                    continue;
                };
                let partition = PartitionId::new(replica.partition);
                let newer = best
                    .get(&partition)
                    .is_none_or(|(epoch, _)| leader.epoch > *epoch);
                if newer {
                    best.insert(partition, (leader.epoch, leader.address));
                }
            }
        }
        let leaders: BTreeMap<_, _> = best.into_iter().map(|(at, (_, address))| (at, address)).collect();
        leaders
            .iter()
            .for_each(|(partition, address)| self.inner.routes.learn(*partition, address));
        leaders
    }

    /// Sends a request to the leader of `partition` as far as known, follows hints and retries.
    async fn at_leader<T, F>(
        &self,
        partition: PartitionId,
        send: impl Fn(KvServiceClient<SecuredChannel>) -> F,
    ) -> Result<T, KvError>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let routes = &self.inner.routes;
        let started = Instant::now();
        let mut backoff = Backoff::default();
        let (mut attempts, mut hints) = (0, 0);
        loop {
            let address = routes.target(partition);
            attempts += 1;
            let status = match attempt(send(kv_service(routes.channel(&address)?))).await {
                Ok(reply) => return Ok(reply),
                Err(status) => status,
            };
            match judge(&status) {
                Verdict::Final => return Err(rejected(&status)),
                Verdict::Hint(leader) if leader != address && hints < HINTS_MAX => {
                    routes.learn(partition, &leader);
                    hints += 1;
                    continue;
                }
                Verdict::Hint(_) | Verdict::Elsewhere => routes.forget(partition, &address),
            }
            if started.elapsed() >= self.patience {
                let last = format!("{address}: {}", status.message());
                return Err(KvError::GaveUp {
                    partition,
                    attempts,
                    seconds: started.elapsed().as_secs(),
                    last,
                });
            }
            hints = 0;
            backoff.pause(&self.inner.entropy).await;
        }
    }
}

async fn describe(routes: &Routes, patience: Duration, entropy: &Entropy) -> Result<Description, KvError> {
    let started = Instant::now();
    let mut backoff = Backoff::default();
    loop {
        let mut detail = String::new();
        for address in routes.endpoints() {
            let mut service = kv_service(routes.channel(address)?);
            match attempt(service.describe(DescribeRequest {})).await {
                Ok(description) if description.partitions > 0 => return Ok(description),
                Ok(_) => detail = "it belongs to no cluster yet".to_owned(),
                // Asking others, or again, would give the same answer.
                Err(status) if is_refused(&status) => return Err(rejected(&status)),
                Err(status) => detail = unreachable_detail(&status),
            }
        }
        if started.elapsed() >= patience {
            return Err(KvError::Unreachable {
                addresses: routes.endpoints().join(", "),
                detail,
            });
        }
        backoff.pause(entropy).await;
    }
}

/// Pauses that double up to a bound, with jitter; whoever waits bounds their number.
struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Backoff(BACKOFF.0)
    }
}

impl Backoff {
    async fn pause(&mut self, entropy: &Entropy) {
        tokio::time::sleep(self.0.mul_f64(entropy.jitter(0.3))).await;
        self.0 = (self.0 * 2).min(BACKOFF.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_without_workers_says_how_to_name_them() {
        let error = KvClient::connect(Vec::new())
            .await
            .err()
            .map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.contains("--worker")));
    }

    #[tokio::test(start_paused = true)]
    async fn an_unreachable_worker_is_named_after_a_bounded_time() {
        let result =
            KvClient::connect_within(vec!["http://127.0.0.1:1/".into()], Duration::from_secs(1)).await;
        let error = result.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("http://127.0.0.1:1"), "{error}");
    }

    #[test]
    fn keys_spread_by_the_first_eight_bytes_of_their_hash() {
        let mut seen = std::collections::BTreeMap::<u32, u32>::new();
        for number in 0..800_u32 {
            let key = format!("key-{number}");
            let partition = KeyHash::Blake3Mod.partition_of(key.as_bytes(), 8).get();
            assert!(partition < 8);
            assert_eq!(
                partition,
                KeyHash::Blake3Mod.partition_of(key.as_bytes(), 8).get()
            );
            *seen.entry(partition).or_default() += 1;
        }
        assert_eq!(seen.len(), 8, "every partition gets keys");
        assert!(
            seen.values().all(|keys| *keys > 50),
            "no partition is starved: {seen:?}"
        );
    }
}
