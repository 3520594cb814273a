//! Where a log stands, from what a server says of its stream.

use async_nats::jetstream::stream::ClusterInfo;
use snapshot_store::Lsn;
use std::time::Duration;

/// A follower that was heard from this recently cannot have voted for another leader since: servers wait for at least
/// 4 s before they elect one.
const HEARD_FROM_MAX: Duration = Duration::from_secs(3);

/// Trim point and tail of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) trim_point: Lsn,
    pub(crate) tail: Lsn,
}

impl Bounds {
    /// Translates the first and the last sequence of a stream. One that was never written says 0 for both.
    pub(crate) fn of(first_sequence: u64, last_sequence: u64) -> Self {
        let tail = last_sequence.saturating_add(1);
        let first = if first_sequence == 0 { tail } else { first_sequence };
        Bounds {
            trim_point: Lsn::new(first.saturating_sub(1)),
            tail: Lsn::new(tail),
        }
    }
}

/// Whether what a server says of a stream cannot be out of date: it is the only one, or it leads and heard from a
/// majority so recently that there is no other leader.
pub(crate) fn is_linearizable(replicas: usize, cluster: Option<&ClusterInfo>) -> bool {
    if replicas <= 1 {
        return true;
    }
    let Some(cluster) = cluster.filter(|cluster| cluster.leader.is_some()) else {
        return false;
    };
    let near = cluster
        .replicas
        .iter()
        .filter(|peer| !peer.offline && peer.active <= HEARD_FROM_MAX);
    near.count() + 1 > replicas / 2
}

/// What a reader does with a record that was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// It is the one to read next.
    Next,
    /// It was read before.
    Repeated,
    /// The one to read next is not there: trimmed, lost, or only not delivered.
    Gap,
}

impl Delivery {
    pub(crate) fn of(sequence: u64, next: Lsn) -> Self {
        match Lsn::new(sequence).cmp(&next) {
            std::cmp::Ordering::Equal => Delivery::Next,
            std::cmp::Ordering::Less => Delivery::Repeated,
            std::cmp::Ordering::Greater => Delivery::Gap,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_nats::jetstream::stream::PeerInfo;

    fn bounds(trim_point: u64, tail: u64) -> Bounds {
        Bounds {
            trim_point: Lsn::new(trim_point),
            tail: Lsn::new(tail),
        }
    }

    #[test]
    fn sequences_become_trim_point_and_tail() {
        assert_eq!(Bounds::of(0, 0), bounds(0, 1));
        assert_eq!(Bounds::of(1, 3), bounds(0, 4));
        assert_eq!(Bounds::of(3, 3), bounds(2, 4));
        // Emptied by a trim, and born at 42.
        assert_eq!(Bounds::of(4, 3), bounds(3, 4));
        assert_eq!(Bounds::of(42, 41), bounds(41, 42));
    }

    #[test]
    fn a_leader_that_heard_from_a_majority_just_now_is_believed() {
        let peer = |seconds, offline| PeerInfo {
            active: Duration::from_secs(seconds),
            offline,
            ..PeerInfo::default()
        };
        let cluster = |leader: Option<&str>, replicas| ClusterInfo {
            leader: leader.map(str::to_owned),
            replicas,
            ..ClusterInfo::default()
        };
        let believed = |cluster: ClusterInfo| is_linearizable(3, Some(&cluster));
        assert!(believed(cluster(
            Some("a"),
            vec![peer(0, false), peer(60, false)]
        )));
        assert!(!believed(cluster(
            Some("a"),
            vec![peer(4, false), peer(60, false)]
        )));
        assert!(!believed(cluster(Some("a"), vec![peer(0, true), peer(0, true)])));
        assert!(!believed(cluster(None, vec![peer(0, false), peer(0, false)])));
        assert!(!is_linearizable(3, None));
        assert!(is_linearizable(1, None));
    }

    #[test]
    fn only_the_next_record_is_taken() {
        let next = Lsn::new(5);
        assert_eq!(Delivery::of(4, next), Delivery::Repeated);
        assert_eq!(Delivery::of(5, next), Delivery::Next);
        assert_eq!(Delivery::of(6, next), Delivery::Gap);
    }
}
