//! The roles of tokens, and which gRPC method asks for which.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What a token entitles to. Each role includes the ones before it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum AccessRole {
    /// Looks: status, explanations, lists, records, keys and values. Changes nothing.
    Read,
    /// Appends to logs, writes keys, orders and checks snapshots, pauses, assigns leaders. Workers have this one.
    Operate,
    /// Trims, seals and creates logs. Admins have this one, and nobody else needs it for long.
    Trim,
}

impl AccessRole {
    /// Returns the word used in files, messages and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            AccessRole::Read => "read",
            AccessRole::Operate => "operate",
            AccessRole::Trim => "trim",
        }
    }
}

impl fmt::Display for AccessRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a method asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing: whoever can connect may call it.
    Open,
    /// A token with this role, or one that includes it.
    Role(AccessRole),
}

const READ: Access = Access::Role(AccessRole::Read);
const OPERATE: Access = Access::Role(AccessRole::Operate);
const TRIM: Access = Access::Role(AccessRole::Trim);

/// What each gRPC method asks for. The list is closed: a method that does not stand here is refused.
///
/// Health is open, because those who ask for it (load balancers, supervisors) carry no tokens, and the answer says no
/// more than whether the node serves. Reflection tells what there is to call, and so is for readers.
pub const METHOD_ACCESS: &[(&str, Access)] = &[
    ("/grpc.health.v1.Health/Check", Access::Open),
    ("/grpc.health.v1.Health/Watch", Access::Open),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", READ),
    ("/tidemark.kv.v1.KvService/Describe", READ),
    ("/tidemark.kv.v1.KvService/Digest", READ),
    ("/tidemark.kv.v1.KvService/Get", READ),
    ("/tidemark.kv.v1.KvService/Scan", READ),
    ("/tidemark.kv.v1.KvService/Write", OPERATE),
    ("/tidemark.v1.AdminService/CreateSnapshot", OPERATE),
    ("/tidemark.v1.AdminService/Explain", READ),
    ("/tidemark.v1.AdminService/GetClusterStatus", READ),
    ("/tidemark.v1.AdminService/Pause", OPERATE),
    ("/tidemark.v1.AdminService/PreviewPlan", READ),
    ("/tidemark.v1.AdminService/ReloadPolicy", OPERATE),
    ("/tidemark.v1.AdminService/Resume", OPERATE),
    ("/tidemark.v1.AdminService/Trim", TRIM),
    ("/tidemark.v1.AdminService/Watch", READ),
    ("/tidemark.v1.LogAdminService/Provision", TRIM),
    ("/tidemark.v1.LogAdminService/SetSealed", TRIM),
    ("/tidemark.v1.LogAdminService/Trim", TRIM),
    ("/tidemark.v1.LogMoveService/ChangePassage", TRIM),
    ("/tidemark.v1.LogMoveService/Discard", TRIM),
    ("/tidemark.v1.LogMoveService/GetPosition", TRIM),
    ("/tidemark.v1.LogMoveService/Import", TRIM),
    ("/tidemark.v1.LogMoveService/ReadMoving", TRIM),
    ("/tidemark.v1.LogService/Append", OPERATE),
    ("/tidemark.v1.LogService/GetInfo", READ),
    ("/tidemark.v1.LogService/GetRegistration", READ),
    ("/tidemark.v1.LogService/Read", READ),
    ("/tidemark.v1.WorkerService/AppendNoop", OPERATE),
    ("/tidemark.v1.WorkerService/Cancel", OPERATE),
    ("/tidemark.v1.WorkerService/CreateSnapshot", OPERATE),
    // A poll also carries the admin's policy; the worker takes it only from callers that may operate.
    ("/tidemark.v1.WorkerService/GetStatus", READ),
    ("/tidemark.v1.WorkerService/Lead", OPERATE),
    ("/tidemark.v1.WorkerService/RebuildPartition", OPERATE),
    ("/tidemark.v1.WorkerService/SkipRecord", OPERATE),
    ("/tidemark.v1.WorkerService/VerifySnapshot", OPERATE),
];

/// Returns what the method at `path` (`/package.Service/Method`) asks for; `None` when it is not listed.
pub fn access_to(path: &str) -> Option<Access> {
    METHOD_ACCESS
        .iter()
        .find(|(listed, _)| *listed == path)
        .map(|(_, access)| *access)
}
