//! A consumer on the servers that delivers a log from some record on, in order, as long as it lives.

use super::link::{Failure, Link};
use async_nats::jetstream::consumer;
use async_nats::{Client, StatusCode, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use snapshot_store::Lsn;
use std::time::Duration;
use tokio::time::Instant;

/// What one request asks for at most. Two are under way, so that records flow while the next one travels.
const PULL_RECORDS: usize = 1000;
const PULL_BYTES: usize = 2 << 20;
/// A request without an answer ends by itself.
const PULL_EXPIRES: Duration = Duration::from_secs(30);
/// A live consumer says so this often while it has nothing; silence for twice as long means that it is gone.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// The servers forget a consumer that nobody asks for this long.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// What a consumer says.
pub(super) enum Item {
    Record {
        sequence: u64,
        payload: Bytes,
    },
    /// It lives, has nothing more now, and has delivered or passed over everything up to `delivered`.
    Heartbeat {
        delivered: u64,
    },
}

pub(super) struct Consumer {
    client: Client,
    /// Where requests go.
    requests: String,
    inbox: String,
    messages: Subscriber,
    /// Records that are asked for and did not come yet.
    asked_for: usize,
    /// When it was heard of last.
    heard_of: Instant,
}

impl Consumer {
    /// Makes a consumer that begins at `next`.
    pub(super) async fn create(link: &Link, stream: &str, next: Lsn) -> Result<Self, Failure> {
        let name = format!("r{:016x}", rand::random::<u64>());
        let config = consumer::Config {
            name: Some(name.clone()),
            deliver_policy: consumer::DeliverPolicy::ByStartSequence {
                start_sequence: next.get(),
            },
            ack_policy: consumer::AckPolicy::None,
            replay_policy: consumer::ReplayPolicy::Instant,
            inactive_threshold: FORGOTTEN_AFTER,
            memory_storage: true,
            num_replicas: 1,
            ..consumer::Config::default()
        };
        let request = serde_json::json!({ "stream_name": stream, "config": config, "action": "create" });
        let subject = format!("CONSUMER.CREATE.{stream}.{name}");
        let _: serde_json::Value = link.api(&subject, &request).await?;
        let client = link.client().clone();
        let inbox = client.new_inbox();
        let messages = client
            .subscribe(inbox.clone())
            .await
            .map_err(|error| Failure::Unclear(error.to_string()))?;
        Ok(Consumer {
            client,
            requests: format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}"),
            inbox,
            messages,
            asked_for: 0,
            heard_of: Instant::now(),
        })
    }

    /// Whether nothing, not even a heartbeat, came for too long.
    pub(super) fn is_silent(&self) -> bool {
        self.heard_of.elapsed() > 2 * HEARTBEAT
    }

    /// Waits for what comes next. Nothing is lost when the wait is given up.
    pub(super) async fn next(&mut self) -> Result<Item, Failure> {
        loop {
            while self.asked_for <= PULL_RECORDS {
                self.ask().await?;
            }
            let message = self.messages.next().await;
            let message = message.ok_or_else(|| Failure::Unclear("the connection is closed".to_owned()))?;
            self.heard_of = Instant::now();
            let Some(status) = message.status.filter(|status| *status != StatusCode::OK) else {
                return self.record(message);
            };
            let header = |name| {
                let headers = message.headers.as_ref()?;
                headers.get(name)?.as_str().parse::<u64>().ok()
            };
            let description = message.description.as_deref().unwrap_or_default();
            match status {
                StatusCode::IDLE_HEARTBEAT => {
                    let delivered = header("Nats-Last-Stream").unwrap_or(0);
                    return Ok(Item::Heartbeat { delivered });
                }
                // A request has ended: its time was over, or its bytes. What it still asked for is said.
                StatusCode::TIMEOUT | StatusCode::REQUEST_TERMINATED
                    if header("Nats-Pending-Messages").is_some() && !is_end(description) =>
                {
                    let left = header("Nats-Pending-Messages").unwrap_or(0);
                    let left = usize::try_from(left).unwrap_or(usize::MAX);
                    self.asked_for = self.asked_for.saturating_sub(left);
                }
                _ => {
                    return Err(Failure::Unclear(format!(
                        "its consumer ended: {status} {description}"
                    )));
                }
            }
        }
    }

    fn record(&mut self, message: async_nats::Message) -> Result<Item, Failure> {
        self.asked_for = self.asked_for.saturating_sub(1);
        let sequence = message.reply.as_deref().and_then(stream_sequence);
        let sequence =
            sequence.ok_or_else(|| Failure::Unclear("a record came without its sequence".to_owned()))?;
        Ok(Item::Record {
            sequence,
            payload: message.payload,
        })
    }

    async fn ask(&mut self) -> Result<(), Failure> {
        let request = serde_json::json!({
            "batch": PULL_RECORDS,
            "max_bytes": PULL_BYTES,
            "expires": PULL_EXPIRES.as_nanos() as u64,
            "idle_heartbeat": HEARTBEAT.as_nanos() as u64,
        });
        let payload = Bytes::from(request.to_string());
        self.client
            .publish_with_reply(self.requests.clone(), self.inbox.clone(), payload)
            .await
            .map_err(|error| Failure::Unclear(error.to_string()))?;
        self.asked_for += PULL_RECORDS;
        Ok(())
    }
}

/// Whether a request ended because the consumer did, and asking again is no use.
fn is_end(description: &str) -> bool {
    [
        "Consumer Deleted",
        "Consumer is push based",
        "Server Shutdown",
        "Leadership Change",
    ]
    .iter()
    .any(|end| description.eq_ignore_ascii_case(end))
}

/// Returns the sequence in the stream out of the subject that a record would be acknowledged to:
/// `$JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>.…`, with domain and account before the stream where there are
/// at least 11 parts.
fn stream_sequence(reply: &str) -> Option<u64> {
    let parts = reply.strip_prefix("$JS.ACK.")?;
    let skipped = if parts.split('.').count() >= 9 { 5 } else { 3 };
    parts.split('.').nth(skipped)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_read_from_both_forms_of_the_reply_subject() {
        assert_eq!(stream_sequence("$JS.ACK.s.c.1.42.7.1700000000.0"), Some(42));
        assert_eq!(
            stream_sequence("$JS.ACK.d.acc.s.c.1.42.7.1700000000.0.rnd"),
            Some(42)
        );
        assert_eq!(stream_sequence("$JS.ACK.d.acc.s.c.1.42.7.1700000000.0"), Some(42));
        assert_eq!(stream_sequence("_INBOX.x"), None);
        assert_eq!(stream_sequence("$JS.ACK.s.c.1.x.7.1700000000.0"), None);
    }
}
