//! Errors as gRPC statuses with an `ErrorInfo`, both ways.
//!
//! | Reason | Code | Metadata |
//! |---|---|---|
//! | `log-missing` | not found | partition |
//! | `other-incarnation` | failed precondition | partition, found, expected |
//! | `log-moved` | failed precondition | partition, to |
//! | `log-exists` | already exists | partition, found |
//! | `log-unavailable` | unavailable | partition, detail |
//! | `invalid-request` | invalid argument | detail |
//!
//! An incarnation is written `generation:id`. The client goes by the reason alone; a status without one comes from
//! the transport.

use crate::{AppendError, LogError, ProvisionError, ReadError};
use snapshot_store::{Incarnation, IncarnationId, PartitionId};
use std::collections::HashMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

const DOMAIN: &str = "tidemark";
const MISSING: &str = "log-missing";
const OTHER_INCARNATION: &str = "other-incarnation";
const MOVED: &str = "log-moved";
const EXISTS: &str = "log-exists";
const UNAVAILABLE: &str = "log-unavailable";
const INVALID: &str = "invalid-request";

fn status<const N: usize>(
    code: Code,
    reason: &str,
    message: String,
    metadata: [(&str, String); N],
) -> Status {
    let metadata: HashMap<String, String> = metadata
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    Status::with_error_details(
        code,
        message,
        ErrorDetails::with_error_info(reason, DOMAIN, metadata),
    )
}

/// Returns the status of a request that cannot be understood.
pub(super) fn invalid(detail: &str) -> Status {
    let message = format!("the request cannot be understood: {detail}");
    status(
        Code::InvalidArgument,
        INVALID,
        message,
        [("detail", detail.to_owned())],
    )
}

/// Returns the status of a failed request.
pub(super) fn of_log_error(error: &LogError) -> Status {
    let message = error.to_string();
    match error {
        LogError::Missing { partition } => status(
            Code::NotFound,
            MISSING,
            message,
            [("partition", partition.to_string())],
        ),
        LogError::OtherIncarnation {
            partition,
            found,
            expected,
        } => status(
            Code::FailedPrecondition,
            OTHER_INCARNATION,
            message,
            [
                ("partition", partition.to_string()),
                ("found", found.to_string()),
                ("expected", expected.to_string()),
            ],
        ),
        LogError::Moved { partition, to } => status(
            Code::FailedPrecondition,
            MOVED,
            message,
            [("partition", partition.to_string()), ("to", to.clone())],
        ),
        LogError::Unavailable { partition, detail } => status(
            Code::Unavailable,
            UNAVAILABLE,
            message,
            [("partition", partition.to_string()), ("detail", detail.clone())],
        ),
    }
}

/// Returns the status of a log that was not created.
pub(super) fn of_provision_error(error: &ProvisionError) -> Status {
    match error {
        ProvisionError::Log(log) => of_log_error(log),
        ProvisionError::Exists { partition, found } => status(
            Code::AlreadyExists,
            EXISTS,
            error.to_string(),
            [("partition", partition.to_string()), ("found", found.to_string())],
        ),
    }
}

/// What a status says, as far as it comes from the server's log.
enum Reason {
    Log(LogError),
    Exists { found: Incarnation },
    Invalid { detail: String },
}

fn reason(partition: PartitionId, status: &Status) -> Option<Reason> {
    let info = status
        .get_details_error_info()
        .filter(|info| info.domain == DOMAIN)?;
    let incarnation = |key| info.metadata.get(key).and_then(|text| parse_incarnation(text));
    let detail = || info.metadata.get("detail").cloned().unwrap_or_default();
    Some(match info.reason.as_str() {
        MISSING => Reason::Log(LogError::Missing { partition }),
        OTHER_INCARNATION => Reason::Log(LogError::OtherIncarnation {
            partition,
            found: incarnation("found")?,
            expected: incarnation("expected")?,
        }),
        MOVED => Reason::Log(LogError::Moved {
            partition,
            to: info.metadata.get("to").cloned().unwrap_or_default(),
        }),
        EXISTS => Reason::Exists {
            found: incarnation("found")?,
        },
        UNAVAILABLE => Reason::Log(LogError::Unavailable {
            partition,
            detail: detail(),
        }),
        INVALID => Reason::Invalid { detail: detail() },
        _ => return None,
    })
}

fn parse_incarnation(text: &str) -> Option<Incarnation> {
    let (generation, id) = text.split_once(':')?;
    let id: IncarnationId = id.parse().ok()?;
    Some(Incarnation {
        generation: generation.parse().ok()?,
        id,
    })
}

/// Returns what went wrong with a request that is harmless to repeat.
pub(super) fn log_error(partition: PartitionId, status: &Status) -> LogError {
    match reason(partition, status) {
        Some(Reason::Log(error)) => error,
        Some(Reason::Invalid { detail }) => LogError::Unavailable { partition, detail },
        Some(Reason::Exists { .. }) | None => LogError::Unavailable {
            partition,
            detail: describe(status),
        },
    }
}

/// Returns what went wrong with a provisioning.
pub(super) fn provision_error(partition: PartitionId, status: &Status) -> ProvisionError {
    match reason(partition, status) {
        Some(Reason::Exists { found }) => ProvisionError::Exists { partition, found },
        _ => log_error(partition, status).into(),
    }
}

/// Returns what went wrong with a read stream.
pub(super) fn read_error(partition: PartitionId, status: &Status) -> ReadError {
    log_error(partition, status).into()
}

/// Returns what went wrong with an append. Only what the server's log said, a refused connection, a refused caller and
/// a server without this service are certain.
pub(super) fn append_error(partition: PartitionId, status: &Status) -> AppendError {
    match reason(partition, status) {
        Some(Reason::Log(error)) => error.into(),
        Some(Reason::Invalid { detail }) => AppendError::Unavailable { detail },
        Some(Reason::Exists { .. }) | None if is_not_sent(status) => AppendError::Unavailable {
            detail: describe(status),
        },
        Some(Reason::Exists { .. }) | None => AppendError::Unknown {
            detail: describe(status),
        },
    }
}

fn is_not_sent(status: &Status) -> bool {
    // A gate in front of the service answers the latter two; no service here does.
    if matches!(
        status.code(),
        Code::Unimplemented | Code::Unauthenticated | Code::PermissionDenied
    ) {
        return true;
    }
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// Returns the status in words, with its reason or the innermost cause: the outer ones only say "transport error".
fn describe(status: &Status) -> String {
    if let Some(info) = status.get_details_error_info() {
        return format!("{} [{}]", status.message(), info.reason);
    }
    let mut innermost = None;
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        innermost = Some(error);
        source = error.source();
    }
    let message = status.message();
    match innermost.map(ToString::to_string) {
        Some(cause) if message.is_empty() => cause,
        Some(cause) if !message.contains(&cause) => format!("{message}: {cause}"),
        _ if message.is_empty() => status.code().description().to_owned(),
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTITION: PartitionId = PartitionId::new(3);

    fn incarnation(generation: u64) -> Incarnation {
        Incarnation {
            generation,
            id: IncarnationId::from_bytes([generation as u8; 16]),
        }
    }

    #[test]
    fn every_error_comes_out_of_the_wire_as_it_went_in() {
        for error in [
            LogError::Missing { partition: PARTITION },
            LogError::OtherIncarnation {
                partition: PARTITION,
                found: incarnation(1),
                expected: incarnation(2),
            },
            LogError::Moved {
                partition: PARTITION,
                to: "nats://n1:4222".to_owned(),
            },
            LogError::Unavailable {
                partition: PARTITION,
                detail: "no".to_owned(),
            },
        ] {
            let status = of_log_error(&error);
            assert_eq!(log_error(PARTITION, &status), error);
            assert_eq!(append_error(PARTITION, &status), AppendError::from(error.clone()));
            assert_eq!(read_error(PARTITION, &status), ReadError::Log(error.clone()));
            assert_eq!(provision_error(PARTITION, &status), ProvisionError::Log(error));
        }
        let exists = ProvisionError::Exists {
            partition: PARTITION,
            found: incarnation(4),
        };
        assert_eq!(provision_error(PARTITION, &of_provision_error(&exists)), exists);
    }

    #[test]
    fn a_refused_caller_is_told_why_and_knows_that_nothing_landed() {
        for code in [Code::Unauthenticated, Code::PermissionDenied] {
            let details = ErrorDetails::with_error_info("token-expired", DOMAIN, HashMap::new());
            let status = Status::with_error_details(code, "the token expired", details);
            let detail = "the token expired [token-expired]".to_owned();
            assert_eq!(
                append_error(PARTITION, &status),
                AppendError::Unavailable {
                    detail: detail.clone()
                }
            );
            let partition = PARTITION;
            assert_eq!(
                log_error(partition, &status),
                LogError::Unavailable { partition, detail }
            );
        }
    }

    #[test]
    fn an_append_without_a_reason_from_the_log_may_have_landed() {
        for code in [
            Code::Unavailable,
            Code::Cancelled,
            Code::DeadlineExceeded,
            Code::Unknown,
            Code::Internal,
        ] {
            let error = append_error(PARTITION, &Status::new(code, "broken pipe"));
            assert!(matches!(error, AppendError::Unknown { .. }), "{code}: {error}");
        }
    }
}
