//! The decision: may this caller call this method? Pure.

use super::{AcceptedTokens, Access, AccessRole, TokenHash};
use snapshot_store::Timestamp;
use tonic::Code;

/// What a caller showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presented {
    /// Nothing.
    Nothing,
    /// Something else than one bearer token.
    Malformed,
    /// A token with this hash.
    Token(TokenHash),
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The name of its token.
    pub name: String,
    /// The role of its token.
    pub role: AccessRole,
}

/// Why a call is refused. Variants are in the order in which they are looked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No token was shown.
    #[error(
        "the request carries no token: a node names its own in `auth.token_file`, a command with --token-file or TIDEMARK_TOKEN_FILE"
    )]
    Missing,
    /// What was shown is not a bearer token.
    #[error("the request's authorization is not one bearer token: send `authorization: Bearer TOKEN`")]
    Malformed,
    /// The token is not among the accepted ones.
    #[error(
        "the request's token is not accepted here: add its hash to the file that this server's `auth.accepted_tokens` names and restart the server, or use another token"
    )]
    Unknown,
    /// The token was accepted until a moment ago.
    #[error("the token {name:?} expired at {at}: create a new one with `tidemark token create`")]
    Expired {
        /// The token's name.
        name: String,
        /// Since when it is refused.
        at: Timestamp,
    },
    /// The method stands in no list.
    #[error("no role is defined for this method: it cannot be called with a token")]
    Unlisted,
    /// The token's role does not include the one the method asks for.
    #[error(
        "this takes the role {needed}, and the token {name:?} has the role {role}: use a token with the role {needed}"
    )]
    Insufficient {
        /// The token's name.
        name: String,
        /// Its role.
        role: AccessRole,
        /// The role the method asks for.
        needed: AccessRole,
    },
}

impl Refusal {
    /// The words of all reasons.
    pub const REASONS: [&'static str; 6] = [
        "token-missing",
        "token-malformed",
        "token-unknown",
        "token-expired",
        "method-unlisted",
        "role-insufficient",
    ];

    /// Returns the stable word.
    pub const fn reason(&self) -> &'static str {
        Self::REASONS[match self {
            Refusal::Missing => 0,
            Refusal::Malformed => 1,
            Refusal::Unknown => 2,
            Refusal::Expired { .. } => 3,
            Refusal::Unlisted => 4,
            Refusal::Insufficient { .. } => 5,
        }]
    }

    /// Returns the gRPC code: who it is, is not known; or who it is may not do this.
    pub const fn code(&self) -> Code {
        match self {
            Refusal::Missing | Refusal::Malformed | Refusal::Unknown | Refusal::Expired { .. } => {
                Code::Unauthenticated
            }
            Refusal::Unlisted | Refusal::Insufficient { .. } => Code::PermissionDenied,
        }
    }
}

/// Decides whether a call may go on, and as whom; `None` where nobody needs to know.
///
/// Pure: `access` is what the method asks for (`None`: it stands in no list), `presented` what the caller showed, and
/// `now` an argument. A token is refused from the moment `expires` on.
///
/// # Errors
/// With the reason why the call is refused.
pub fn decide_access(
    tokens: &AcceptedTokens,
    access: Option<Access>,
    presented: Presented,
    now: Timestamp,
) -> Result<Option<Caller>, Refusal> {
    if access == Some(Access::Open) {
        return Ok(None);
    }
    let hash = match presented {
        Presented::Nothing => return Err(Refusal::Missing),
        Presented::Malformed => return Err(Refusal::Malformed),
        Presented::Token(hash) => hash,
    };
    let token = tokens.find(hash).ok_or(Refusal::Unknown)?;
    let name = token.name.clone();
    if let Some(at) = token.expires.filter(|at| now >= *at) {
        return Err(Refusal::Expired { name, at });
    }
    let role = token.role;
    match access {
        Some(Access::Role(needed)) if role >= needed => Ok(Some(Caller { name, role })),
        Some(Access::Role(needed)) => Err(Refusal::Insufficient { name, role, needed }),
        Some(Access::Open) | None => Err(Refusal::Unlisted),
    }
}
