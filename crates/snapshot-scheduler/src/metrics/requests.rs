//! Requests of the admin that wait for an answer.

use super::IN_FLIGHT;
use metrics::gauge;

/// What the admin waits for an answer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestKind {
    PollWorker,
    PollLog,
    ReadPointer,
    CreateSnapshot,
    Verify,
    Trim,
    Lead,
    AppendNoop,
}

impl RequestKind {
    pub(super) const ALL: [RequestKind; 8] = [
        RequestKind::PollWorker,
        RequestKind::PollLog,
        RequestKind::ReadPointer,
        RequestKind::CreateSnapshot,
        RequestKind::Verify,
        RequestKind::Trim,
        RequestKind::Lead,
        RequestKind::AppendNoop,
    ];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            RequestKind::PollWorker => "poll-worker",
            RequestKind::PollLog => "poll-log",
            RequestKind::ReadPointer => "read-pointer",
            RequestKind::CreateSnapshot => "create-snapshot",
            RequestKind::Verify => "verify",
            RequestKind::Trim => "trim",
            RequestKind::Lead => "lead",
            RequestKind::AppendNoop => "append-noop",
        }
    }
}

/// A request under way; it ends when this is dropped.
pub(crate) struct InFlight(RequestKind);

pub(crate) fn request(kind: RequestKind) -> InFlight {
    gauge!(IN_FLIGHT, "kind" => kind.as_str()).increment(1.0);
    InFlight(kind)
}

impl Drop for InFlight {
    fn drop(&mut self) {
        gauge!(IN_FLIGHT, "kind" => self.0.as_str()).decrement(1.0);
    }
}
