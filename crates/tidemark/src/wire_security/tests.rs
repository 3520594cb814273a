//! The list of methods, the decision, the layer, and what must never be printed.

use super::*;
use bytes::Bytes;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use snapshot_proto::DESCRIPTORS;
use snapshot_store::{Entropy, ManualClock, Timestamp};
use std::{
    collections::BTreeSet,
    convert::Infallible,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};
use tonic::{Code, Status, codegen::http, service::Interceptor as _};
use tonic_types::StatusExt as _;
use tower::{Layer as _, ServiceExt as _, service_fn};

const NOW: Timestamp = Timestamp::from_millis(1_000_000);

fn token(number: u8) -> Token {
    Token::draw(&Entropy::seeded(number.into()))
}

/// Accepts token 1 for reading, 2 for operating, 3 for trimming, and 4, which has expired now, for trimming.
fn accepted() -> AcceptedTokens {
    let entry = |number: u8, name: &str, role: &str, expires: &str| {
        let hash = token(number).hash();
        format!("[[token]]\nname = \"{name}\"\nrole = \"{role}\"\nblake3 = \"{hash}\"\nexpires = {expires}\n")
    };
    let late = "2100-01-01T00:00:00Z";
    let text = [
        entry(1, "reader", "read", "\"2100-01-01T00:00:00+01:00\""),
        entry(2, "worker", "operate", late),
        entry(3, "admin", "trim", late),
        entry(4, "former", "trim", &format!("\"{NOW}\"")),
    ];
    AcceptedTokens::parse(&text.concat()).unwrap()
}

fn methods_of(descriptors: &[u8]) -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(descriptors).unwrap();
    let mut methods = BTreeSet::new();
    for file in set.file {
        for service in &file.service {
            for method in &service.method {
                methods.insert(format!(
                    "/{}.{}/{}",
                    file.package(),
                    service.name(),
                    method.name()
                ));
            }
        }
    }
    methods
}

#[test]
fn every_method_that_is_served_has_exactly_one_entry_and_no_other_has() {
    let served: BTreeSet<String> = [
        DESCRIPTORS,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    ]
    .into_iter()
    .flat_map(methods_of)
    .collect();
    let listed: BTreeSet<String> = METHOD_ACCESS.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(
        listed, served,
        "METHOD_ACCESS and the services must name the same"
    );
    assert_eq!(listed.len(), METHOD_ACCESS.len(), "a method stands there twice");
}

#[test]
fn a_worker_may_not_trim_and_a_reader_changes_nothing() {
    for (path, access) in METHOD_ACCESS {
        let method = path.rsplit('/').next().unwrap();
        let needed = match method {
            "Trim" | "Provision" | "SetSealed" | "ChangePassage" | "Discard" | "GetPosition" | "Import"
            | "ReadMoving" => AccessRole::Trim,
            "Append" | "Write" | "CreateSnapshot" | "VerifySnapshot" | "Lead" | "AppendNoop" | "Cancel"
            | "Pause" | "Resume" | "ReloadPolicy" | "SkipRecord" | "RebuildPartition" => AccessRole::Operate,
            _ => AccessRole::Read,
        };
        let open = path.starts_with("/grpc.health");
        assert_eq!(open, *access == Access::Open, "{path}");
        assert!(open || *access == Access::Role(needed), "{path} takes {access:?}");
    }
}

#[test]
fn each_call_is_allowed_or_refused_for_the_reason_that_comes_first() {
    let operate = Some(Access::Role(AccessRole::Operate));
    let shown = |number| Presented::Token(token(number).hash());
    let cases = [
        (Some(Access::Open), Presented::Nothing, "open"),
        (Some(Access::Open), Presented::Malformed, "open"),
        (operate, Presented::Nothing, "token-missing"),
        (operate, Presented::Malformed, "token-malformed"),
        (operate, shown(9), "token-unknown"),
        (operate, shown(4), "token-expired"),
        (operate, shown(1), "role-insufficient"),
        (operate, shown(2), "worker"),
        (operate, shown(3), "admin"),
        (None, Presented::Nothing, "token-missing"),
        (None, shown(3), "method-unlisted"),
    ];
    for (access, presented, expected) in cases {
        let decision = decide_access(&accepted(), access, presented, NOW);
        let found = match &decision {
            Ok(None) => "open",
            Ok(Some(caller)) => &caller.name,
            Err(refusal) => refusal.reason(),
        };
        assert_eq!(found, expected, "{access:?} {presented:?}: {decision:?}");
    }
}

#[test]
fn a_token_is_good_until_the_moment_it_expires() {
    let read = Some(Access::Role(AccessRole::Read));
    let shown = Presented::Token(token(4).hash());
    let before = Timestamp::from_millis(NOW.as_millis() - 1);
    assert!(decide_access(&accepted(), read, shown, before).is_ok());
    assert!(decide_access(&accepted(), read, shown, NOW).is_err());
}

#[test]
fn every_refusal_has_a_code_a_reason_and_says_what_to_do() {
    let name = || "w".to_owned();
    let (role, needed) = (AccessRole::Operate, AccessRole::Trim);
    let cases = [
        (Refusal::Missing, Code::Unauthenticated, "TIDEMARK_TOKEN_FILE"),
        (Refusal::Malformed, Code::Unauthenticated, "Bearer"),
        (Refusal::Unknown, Code::Unauthenticated, "auth.accepted_tokens"),
        (
            Refusal::Expired {
                name: name(),
                at: NOW,
            },
            Code::Unauthenticated,
            "token create",
        ),
        (Refusal::Unlisted, Code::PermissionDenied, "no role"),
        (
            Refusal::Insufficient {
                name: name(),
                role,
                needed,
            },
            Code::PermissionDenied,
            "takes the role trim",
        ),
    ];
    for ((refusal, code, words), reason) in cases.into_iter().zip(Refusal::REASONS) {
        let status = Status::from(refusal);
        assert_eq!(status.code(), code);
        assert_eq!(status.get_details_error_info().unwrap().reason, reason);
        assert!(status.message().contains(words), "{}", status.message());
    }
}

#[test]
fn all_faults_of_a_file_of_tokens_are_named_and_no_value_is_repeated() {
    let secret = token(5).expose().to_owned();
    let good = token(1).hash();
    let text = format!(
        "colour = \"{secret}\"\n[[token]]\nname = \"a\"\nrole = \"read\"\nblake3 = \"{good}\"\n\
         [[token]]\nname = \"a\"\nrole = \"read\"\nblake3 = \"{good}\"\n\
         [[token]]\nname = \"\"\nrole = \"{secret}\"\nblake3 = \"{secret}x\"\nexpires = \"{secret}\"\ntoken = \"{secret}\"\n"
    );
    let error = AcceptedTokens::parse(&text).unwrap_err();
    let said = error.to_string();
    let words = [
        "\"colour\"",
        "entry 2: an earlier one has the same name",
        "entry 2: an earlier one has the same hash",
        "entry 3: `name`",
        "entry 3: `role`",
        "entry 3: `blake3`",
        "entry 3: `expires`",
        "entry 3: it has an unknown key",
    ];
    for word in words {
        assert!(said.contains(word), "{word:?} is missing in: {said}");
    }
    assert!(!said.contains(&secret), "{said}");
    for text in ["", "token = []", "token = 3", "[token]\nname = \"a\""] {
        assert!(AcceptedTokens::parse(text).is_err(), "{text:?}");
    }
    let error = AcceptedTokens::parse(&format!("[[token]]\nblake3 = {secret}\n")).unwrap_err();
    assert!(
        error.to_string().contains("line 2") && !error.to_string().contains(&secret),
        "{error}"
    );
}

#[test]
fn a_token_that_can_be_guessed_or_not_be_sent_is_refused_without_repeating_it() {
    for bad in [
        "",
        "hunter2",
        &"a b".repeat(20),
        &"ä".repeat(40),
        &"x".repeat(600),
    ] {
        let error = bad.parse::<Token>().unwrap_err().to_string();
        assert!(bad.is_empty() || !error.contains(bad), "{error}");
    }
    let drawn = token(1);
    assert_eq!(drawn.expose().parse::<Token>().unwrap(), drawn);
    assert_ne!(drawn, token(2));
}

/// Calls `path` with these `authorization` headers through the layer. The service behind it writes down the headers
/// it sees.
async fn call(
    gate: Option<Gate>,
    path: &str,
    authorization: &[&str],
) -> (Code, Option<String>, Option<http::HeaderMap>) {
    let seen = Arc::new(Mutex::new(None));
    let inner = service_fn({
        let seen = Arc::clone(&seen);
        move |request: http::Request<()>| {
            *seen.lock().unwrap() = Some(request.headers().clone());
            async { Ok::<_, Infallible>(http::Response::new(Bytes::new())) }
        }
    });
    let mut request = http::Request::builder().uri(path).header("tidemark-role", "trim");
    for value in authorization {
        request = request.header("authorization", *value);
    }
    let layer = AccessLayer::new(gate.map(Arc::new));
    let response = layer
        .layer(inner)
        .oneshot(request.body(()).unwrap())
        .await
        .unwrap();
    let status = Status::from_header_map(response.headers());
    let code = status.as_ref().map_or(Code::Ok, Status::code);
    let reason = status
        .and_then(|status| status.get_details_error_info())
        .map(|info| info.reason);
    let seen = seen.lock().unwrap().take();
    (code, reason, seen)
}

fn gate() -> Gate {
    Gate::new(accepted(), Arc::new(ManualClock::at(NOW)))
}

const STATUS: &str = "/tidemark.v1.WorkerService/GetStatus";
const TRIM: &str = "/tidemark.v1.LogAdminService/Trim";

#[tokio::test]
async fn the_layer_answers_with_code_and_reason_and_calls_nothing_behind_it() {
    let bearer = |number| format!("Bearer {}", token(number).expose());
    let (one, two, three, four, nine) = (bearer(1), bearer(2), bearer(3), bearer(4), bearer(9));
    let basic = format!("Basic {}", token(3).expose());
    let bare = token(3).expose().to_owned();
    let cases: [(&str, &[&str], Code, &str); 9] = [
        (STATUS, &[], Code::Unauthenticated, "token-missing"),
        (STATUS, &[&basic], Code::Unauthenticated, "token-malformed"),
        (STATUS, &[&bare], Code::Unauthenticated, "token-malformed"),
        (STATUS, &[&one, &three], Code::Unauthenticated, "token-malformed"),
        (STATUS, &[&nine], Code::Unauthenticated, "token-unknown"),
        (STATUS, &[&four], Code::Unauthenticated, "token-expired"),
        (TRIM, &[&one], Code::PermissionDenied, "role-insufficient"),
        (TRIM, &[&two], Code::PermissionDenied, "role-insufficient"),
        ("/a.B/C", &[&three], Code::PermissionDenied, "method-unlisted"),
    ];
    for (path, authorization, code, reason) in cases {
        let (found, why, seen) = call(Some(gate()), path, authorization).await;
        assert_eq!(
            (found, why.as_deref()),
            (code, Some(reason)),
            "{path} {authorization:?}"
        );
        assert!(seen.is_none(), "{path}: the service was called");
    }
}

#[tokio::test]
async fn a_service_learns_the_role_of_its_caller_and_never_the_token() {
    let lower = format!("bearer {}", token(2).expose());
    let (code, _, seen) = call(Some(gate()), STATUS, &[&lower]).await;
    let seen = seen.expect("it is called");
    assert_eq!(code, Code::Ok);
    assert_eq!(seen.get("tidemark-role").unwrap(), "operate");
    assert!(!seen.contains_key("authorization"));
    // What a caller claims to be counts for nothing, with or without a gate.
    let (code, _, seen) = call(None, TRIM, &[&lower]).await;
    assert_eq!(code, Code::Ok);
    assert!(seen.expect("it is called").is_empty());
    let (code, _, seen) = call(Some(gate()), "/grpc.health.v1.Health/Check", &[]).await;
    assert_eq!(code, Code::Ok);
    assert!(seen.expect("it is called").is_empty());
}

#[tokio::test]
async fn an_embedding_service_lists_its_own_methods_and_cannot_open_ours() {
    let own = || {
        gate()
            .allowing("/a.B/C", Access::Role(AccessRole::Operate))
            .allowing(TRIM, Access::Open)
    };
    let bearer = |number| format!("Bearer {}", token(number).expose());
    assert_eq!(call(Some(own()), "/a.B/C", &[&bearer(2)]).await.0, Code::Ok);
    assert_eq!(
        call(Some(own()), "/a.B/C", &[&bearer(1)]).await.0,
        Code::PermissionDenied
    );
    assert_eq!(call(Some(own()), TRIM, &[]).await.0, Code::Unauthenticated);
}

#[test]
fn secrets_are_never_printed() {
    let secret = token(1);
    let client = ClientSecurity::open().with_token(&secret);
    let server = ServerSecurity::open().with_gate(gate());
    let hash = secret.hash().to_string();
    let request = Bearer::from(&secret).call(tonic::Request::new(())).unwrap();
    assert!(request.metadata().contains_key("authorization"));
    let printed = [
        format!("{request:?}"),
        format!("{secret:?} {:?}", Bearer::from(&secret)),
        format!("{client:?} {server:?} {server}"),
        format!(
            "{:?} {:?} {:?}",
            gate(),
            accepted(),
            AccessLayer::new(Some(Arc::new(gate())))
        ),
        format!("{:?}", Presented::Token(secret.hash())),
    ];
    for text in printed {
        assert!(!text.contains(secret.expose()) && !text.contains(&hash), "{text}");
    }
}

#[test]
fn a_token_travels_over_tls_or_to_loopback_and_nowhere_else() {
    let with_token = ClientSecurity::open().with_token(&token(1));
    let cases = [
        ("http://127.0.0.1:7400", true, true),
        ("http://[::1]:7400", true, true),
        ("http://localhost:7400", true, true),
        ("http://10.0.0.5:7400", true, false),
        ("http://127.0.0.1.example.org:7400", true, false),
        ("http://admin:7400", true, false),
        // Nobody is known who certifies it.
        ("https://admin:7400", false, false),
        ("admin:7400", false, false),
        ("ftp://admin", false, false),
        ("", false, false),
    ];
    for (address, open, secret) in cases {
        assert_eq!(ClientSecurity::open().check(address).is_ok(), open, "{address:?}");
        assert_eq!(with_token.check(address).is_ok(), secret, "{address:?}");
    }
}

#[test]
fn an_address_that_is_refused_comes_with_a_remedy() {
    let refused = |security: ClientSecurity, address: &str| security.check(address).unwrap_err().to_string();
    assert!(refused(ClientSecurity::open(), "worker-1:7310").contains("http://host:port"));
    assert!(refused(ClientSecurity::open(), "https://w:1").contains("--tls-ca"));
    let with_token = ClientSecurity::open().with_token(&token(1));
    assert!(refused(with_token, "http://w:1").contains("https://host:port"));
}

#[test]
fn a_server_without_tls_and_tokens_listens_on_loopback_only() {
    let address = |text: &str| text.parse::<SocketAddr>().unwrap();
    for security in [ServerSecurity::open(), ServerSecurity::open().with_gate(gate())] {
        for loopback in ["127.0.0.1:1", "127.8.0.1:1", "[::1]:1"] {
            assert!(security.may_listen(address(loopback)), "{loopback}");
        }
        for reachable in ["0.0.0.0:1", "10.0.0.5:1", "[::]:1"] {
            assert!(!security.may_listen(address(reachable)), "{reachable}");
        }
        assert!(security.to_string().contains("loopback only"));
    }
}

#[test]
fn every_fault_of_the_files_is_named_at_once_and_no_content_is_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        Some(path)
    };
    let kinds = |faults: Vec<CredentialFault>| {
        for fault in &faults {
            assert!(!fault.problem.contains("hunter2"), "{fault:?}");
        }
        let mut kinds: Vec<_> = faults.into_iter().map(|fault| fault.kind).collect();
        kinds.sort();
        kinds.dedup();
        kinds
    };
    let files = CredentialFiles {
        cert: Some(Path::new("/nowhere/node.pem").to_owned()),
        key: write("node.key", "hunter2"),
        client_ca: write("clients.pem", "hunter2"),
        ca: write("ca.pem", ""),
        server_name: Some("not a name".to_owned()),
        accepted_tokens: write("accepted.toml", "hunter2"),
        token: write("token", "hunter2"),
    };
    use CredentialKind::*;
    let clock = Arc::new(ManualClock::at(NOW));
    let of_server = kinds(files.server(clock.clone()).unwrap_err());
    assert_eq!(of_server, [Cert, Key, ClientCa, AcceptedTokens]);
    let of_client = kinds(files.client().unwrap_err());
    assert_eq!(of_client, [Cert, Key, Ca, ServerName, Token]);

    let half = CredentialFiles {
        cert: Some(Path::new("/nowhere/node.pem").to_owned()),
        ..CredentialFiles::default()
    };
    assert_eq!(kinds(half.server(clock.clone()).unwrap_err()), [Key]);
    assert!(CredentialFiles::default().server(clock).is_ok());
    assert!(CredentialFiles::default().client().is_ok());
}

#[tokio::test]
async fn whether_a_token_has_expired_is_asked_of_the_clock_at_each_call() {
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(NOW.as_millis() - 1)));
    let bearer = format!("Bearer {}", token(4).expose());
    let at = |clock: &Arc<ManualClock>| Gate::new(accepted(), clock.clone());
    assert_eq!(call(Some(at(&clock)), STATUS, &[&bearer]).await.0, Code::Ok);
    clock.advance(Duration::from_millis(1));
    assert_eq!(
        call(Some(at(&clock)), STATUS, &[&bearer]).await.0,
        Code::Unauthenticated
    );
}
