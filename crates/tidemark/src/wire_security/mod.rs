//! Who may speak to a node, and how others are sure that they speak to it: TLS, and bearer tokens with roles.
//!
//! Both ends take what they need from files, once, at start; [`CredentialFiles`] reads them and reports everything
//! that is wrong at once. A server becomes a [`ServerSecurity`]: TLS for its listener, and an [`AccessLayer`] in front
//! of all its services, whatever these are. A client becomes a [`ClientSecurity`], which makes its connections.
//!
//! - [`METHOD_ACCESS`]: the closed list of what each gRPC method asks for; a method without an entry is refused.
//! - [`decide_access`]: the decision, pure: tokens, method, what was presented and the time are its arguments.
//!
//! Invariants:
//! - A server without TLS *and* tokens serves on loopback only.
//! - A client sends a token over TLS, or to loopback, and nowhere else.
//! - Neither tokens nor private keys appear in `Debug`, errors, logs, metrics or status. Servers know hashes only.
//!
//! A service that embeds the crates puts `AccessLayer` on its own `tonic` server and adds entries for its own methods
//! ([`Gate::allowing`]). Not here: which node listens where (`config`), and how files come to be (the operator guide).

mod accepted;
mod access;
mod client;
mod files;
mod layer;
pub mod metrics;
mod pem;
mod role;
mod server;
mod token;

pub use accepted::{AcceptedToken, AcceptedTokens, AcceptedTokensError};
pub use access::{Caller, Presented, Refusal, decide_access};
pub use client::{AddressError, Bearer, ClientSecurity, SecuredChannel, cause_of, unanswered};
pub use files::{CredentialFault, CredentialFiles, CredentialKind};
pub use layer::{AccessLayer, AccessService, Gate};
pub use role::{Access, AccessRole, METHOD_ACCESS, access_to};
pub use server::ServerSecurity;
pub use token::{TOKEN_LENGTH_MIN, Token, TokenError, TokenHash};

#[cfg(test)]
mod tests;
