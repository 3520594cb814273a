//! What happens to a cluster in the rounds.

use rand::{RngExt, rngs::StdRng};
use std::fmt;
use tidemark::cluster::Node;

/// One process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Process {
    /// A node of the cluster.
    Node(Node),
    /// The S3 server.
    Store,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Process::Node(node) => write!(f, "{node}"),
            Process::Store => f.write_str("the S3 server"),
        }
    }
}

/// The way to one server, the same for all of its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    /// To the log server.
    Log,
    /// To the S3 server.
    Store,
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Network::Log => "the network of the log",
            Network::Store => "the network of the store",
        })
    }
}

/// One disturbance, which lasts until it is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disturbance {
    /// kill -9; ended by starting the process again.
    Kill(Process),
    /// SIGSTOP; ended by SIGCONT.
    Stop(Process),
    /// Connections break, and new ones end at once.
    Break(Network),
    /// Nothing passes, and nobody is told.
    Silence(Network),
    /// The disk of one worker is full but for these bytes.
    FillDisk(usize),
}

impl Disturbance {
    /// Returns the deck of a run: everything, with what has a single subject several times.
    pub(crate) fn all(nodes: &[Node], with_disk: bool, random: &mut StdRng) -> Vec<Self> {
        const FILLINGS: usize = 3;
        let nodes = nodes.iter().map(|node| Process::Node(*node));
        let processes: Vec<Process> = nodes.chain([Process::Store]).collect();
        let mut all: Vec<Self> = processes
            .iter()
            .map(|process| Disturbance::Kill(*process))
            .collect();
        all.extend(processes.iter().map(|process| Disturbance::Stop(*process)));
        for network in [Network::Log, Network::Store] {
            all.extend([Disturbance::Break(network), Disturbance::Silence(network)]);
        }
        if with_disk {
            // Not even a page is free, or as much as some writes need.
            all.extend((0..FILLINGS).map(|_| Disturbance::FillDisk(random.random_range(0..1 << 20))));
        }
        all
    }

    /// Returns what it is called in the figures.
    pub(crate) const fn kind(self) -> &'static str {
        match self {
            Disturbance::Kill(_) => "kills",
            Disturbance::Stop(_) => "stops",
            Disturbance::Break(_) => "broken networks",
            Disturbance::Silence(_) => "silent networks",
            Disturbance::FillDisk(_) => "full disks",
        }
    }

    /// Returns whether both happen to the same thing.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        use Disturbance::{Break, FillDisk, Kill, Silence, Stop};
        match (self, other) {
            (Kill(one) | Stop(one), Kill(two) | Stop(two)) => one == two,
            (Break(one) | Silence(one), Break(two) | Silence(two)) => one == two,
            (FillDisk(_), FillDisk(_)) => true,
            _ => false,
        }
    }

    /// Returns a number by which disturbances are ended: nodes wait for log and store while they start.
    pub(crate) fn ends_in_place(&self) -> u8 {
        match self {
            Disturbance::Stop(_) | Disturbance::Break(_) | Disturbance::Silence(_) => 0,
            Disturbance::Kill(Process::Store) => 1,
            Disturbance::Kill(Process::Node(node)) if node.keeps_logs() => 2,
            Disturbance::Kill(_) | Disturbance::FillDisk(_) => 3,
        }
    }
}

impl fmt::Display for Disturbance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Disturbance::Kill(process) => write!(f, "kill -9 of {process}"),
            Disturbance::Stop(process) => write!(f, "SIGSTOP of {process}"),
            Disturbance::Break(network) => write!(f, "{network} breaks"),
            Disturbance::Silence(network) => write!(f, "{network} is silent"),
            Disturbance::FillDisk(left) => write!(f, "a disk with {left} bytes left"),
        }
    }
}
