//! Tables of configurations and what is said about them.

use super::*;
use std::path::Path;

fn check<C: RoleConfig>(text: &str, environment: &[(&str, &str)]) -> Result<C, Vec<Fault>> {
    let environment = environment
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    parse("test.toml", text, environment).map_err(|error| error.faults().to_vec())
}

fn fault_keys<C: RoleConfig>(text: &str, environment: &[(&str, &str)]) -> Vec<String> {
    let faults = check::<C>(text, environment).err().unwrap_or_default();
    faults.into_iter().map(|fault| fault.key).collect()
}

/// The smallest file of a worker, with `more` before the sections.
fn worker(more: &str, sections: &str) -> String {
    format!(
        "node_id = \"w\"\ndata_dir = \"/d\"\n{more}\n[store]\nurl = \"file:///b\"\n[log]\nurl = \"http://l:1\"\n{sections}"
    )
}

fn example<C: RoleConfig + PartialEq + std::fmt::Debug>() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/config");
    let path = folder.join(format!("{}.toml", C::ROLE.as_str()));
    let text = std::fs::read_to_string(&path).expect("every role has an example file");
    assert_eq!(
        check::<C>(&text, &[]).unwrap(),
        C::default(),
        "{}",
        path.display()
    );
    // Every key of the schema is explained in the file, so that it can serve as the reference.
    let schema = schema_of::<C>();
    let mut keys = Vec::new();
    collect_keys(&schema, &mut keys);
    for key in keys {
        assert!(
            [format!("{key} = "), format!("[{key}]"), format!(".{key}]")]
                .iter()
                .any(|form| text.contains(form)),
            "{key} is missing"
        );
    }
}

fn collect_keys(schema: &serde_json::Value, keys: &mut Vec<String>) {
    let properties = schema.get("properties").and_then(serde_json::Value::as_object);
    for (key, below) in properties.into_iter().flatten() {
        keys.push(key.clone());
        collect_keys(below, keys);
        if let Some(items) = below.get("items") {
            collect_keys(items, keys);
        }
    }
}

#[test]
fn the_example_files_hold_every_key_with_its_default() {
    example::<LogConfig>();
    example::<WorkerConfig>();
    example::<AdminConfig>();
}

#[test]
fn the_smallest_file_gives_the_defaults() {
    let config: WorkerConfig = check(&worker("", ""), &[]).unwrap();
    assert_eq!(config.limits, LimitsSection::default());
    assert_eq!(config.partitions, PartitionChoice::ALL);
    let config: WorkerConfig = check(&worker("partitions = [2, 0]", ""), &[]).unwrap();
    assert_eq!(config.partitions, PartitionChoice::Only(vec![2, 0]));
}

#[test]
fn each_fault_is_named_by_its_key() {
    let cases = [
        (worker("exports_max = 1", ""), "exports_max"),
        (worker("", "[limits]\nexport_max = 1"), "limits.export_max"),
        (worker("", "[limits]\nexports_max = 0"), "limits.exports_max"),
        (worker("", "[limits]\nexports_max = -1"), "limits.exports_max"),
        (
            worker("", "[limits]\nexports_max = \"two\""),
            "limits.exports_max",
        ),
        (worker("", "[limits]\nexports_max = 1.5"), "limits.exports_max"),
        (
            worker("", "[worker]\nautonomous_after_ms = 9999"),
            "worker.autonomous_after_ms",
        ),
        (worker("limits = 3", ""), "limits"),
        (worker("partitions = \"some\"", ""), "partitions"),
        (worker("partitions = []", ""), "partitions"),
        (worker("partitions = [1, 1]", ""), "partitions"),
        (worker("partitions = [-1]", ""), "partitions"),
        (worker("listen = \"localhost\"", ""), "listen"),
        (
            worker("metrics_listen = \"127.0.0.1:7310\"", ""),
            "metrics_listen",
        ),
        (worker("advertise = \"worker-1:7310\"", ""), "advertise"),
        (worker("", "").replace("\"w\"", "\"W 1\""), "node_id"),
        (worker("", "").replace("file:///b", "ftp://bucket"), "store.url"),
        (
            worker("", "").replace("file:///b", "s3://key:secret@bucket"),
            "store.url",
        ),
        (
            worker("", "[store.options]\nregion = \"x\""),
            "store.options.region",
        ),
        (worker("", "").replace("file:///b", "relative/path"), "store.url"),
        (worker("", "").replace("http://l:1", "https://l:1"), "log.url"),
        (worker("", "").replace("node_id = \"w\"\n", ""), "node_id"),
    ];
    for (text, key) in cases {
        assert_eq!(fault_keys::<WorkerConfig>(&text, &[]), [key], "{text}");
    }
}

#[test]
fn an_address_that_others_reach_is_refused_without_tls_and_tokens() {
    let said = |faults: Vec<Fault>, keys: &[&str]| {
        let found: Vec<&str> = faults.iter().map(|fault| fault.key.as_str()).collect();
        assert_eq!(found, keys);
        let last = faults.last().unwrap();
        assert!(
            last.remedy.contains("`tls.cert`") && last.remedy.contains("127.0.0.1"),
            "{last}"
        );
    };
    let own = |text: &str| check::<WorkerConfig>(text, &[]).unwrap_err();
    said(
        own(&worker("listen = \"0.0.0.0:7310\"", "")),
        &["advertise", "listen"],
    );
    said(own(&worker("listen = \"10.0.0.4:7310\"", "")), &["listen"]);
    let log = "node_id = \"l\"\ndata_dir = \"/d\"\nlisten = \"[::]:1\"\nadmin_listen = \"10.0.0.4:2\"\n";
    said(
        check::<LogConfig>(log, &[]).unwrap_err(),
        &["listen", "admin_listen"],
    );
    // Metrics are plain HTTP wherever they are.
    assert!(check::<WorkerConfig>(&worker("metrics_listen = \"0.0.0.0:7311\"", ""), &[]).is_ok());
}

#[test]
fn credentials_are_read_and_faulted_by_their_keys() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "0123456789abcdef0123456789abcdef").unwrap();
    let auth = format!("[auth]\ntoken_file = {token:?}\n");
    let near = worker("", &auth).replace("http://l:1", "http://127.0.0.1:1");
    assert!(check::<WorkerConfig>(&near, &[]).is_ok());
    let cases = [
        // A token would travel unprotected.
        (worker("", &auth), vec!["log.url"]),
        (worker("", "[tls]\ncert = \"/nowhere\""), vec!["tls.key"]),
        (worker("", "[tls]\nkey = \"/nowhere\""), vec!["tls.cert"]),
        (worker("", "[tls]\nca = \"/nowhere\""), vec!["tls.ca"]),
        (
            worker(
                "",
                "[tls]\nclient_ca = \"/nowhere\"\nserver_name = \"not a name\"\n[auth]\naccepted_tokens = \"/nowhere\"\ntoken_file = \"/nowhere\"",
            ),
            vec![
                "tls.client_ca",
                "auth.accepted_tokens",
                "tls.server_name",
                "auth.token_file",
            ],
        ),
        (worker("advertise = \"https://w:1\"", ""), vec!["advertise"]),
    ];
    for (text, keys) in cases {
        assert_eq!(fault_keys::<WorkerConfig>(&text, &[]), keys, "{text}");
    }
    let environment = [
        ("TIDEMARK__TLS__CA", "/nowhere"),
        ("TIDEMARK__AUTH__TOKEN_FILE", "/nowhere"),
    ];
    let keys = fault_keys::<WorkerConfig>(&worker("", ""), &environment);
    assert_eq!(keys, ["tls.ca", "auth.token_file"]);
}

#[test]
fn a_node_on_nats_needs_servers_and_one_way_to_say_who_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let login = folder.path().join("worker.login");
    std::fs::write(&login, "worker:secret\n").unwrap();
    let on_nats = |nats: &str| {
        let nats = format!("engine = \"nats\"\n[log.nats]\n{nats}");
        worker("", "").replace("url = \"http://l:1\"\n", &nats)
    };
    let servers = "servers = [\"nats://n1:4222\", \"nats://n2:4222\"]";
    let good = on_nats(&format!("{servers}\nlogin = {login:?}"));
    let config: WorkerConfig = check(&good, &[]).unwrap();
    assert_eq!(config.log.engine, LogEngine::Nats);
    assert_eq!(config.log.nats.options().unwrap().servers.len(), 2);
    let cases = [
        ("prefix = \"shop\"".to_owned(), "log.nats.servers"),
        (format!("{servers}\nlogin = \"/nowhere\""), "log.nats.login"),
        (
            format!("{servers}\nlogin = {login:?}\ncredentials = \"/c\""),
            "log.nats.login",
        ),
        (
            "servers = [\"nats://worker:secret@n1:4222\"]".to_owned(),
            "log.nats",
        ),
        (format!("{servers}\nprefix = \"a.b\""), "log.nats"),
    ];
    for (nats, key) in cases {
        assert_eq!(fault_keys::<WorkerConfig>(&on_nats(&nats), &[]), [key], "{nats}");
    }
    let engine = worker("", "").replace("url = \"http://l:1\"", "url = \"http://l:1\"\nengine = \"kafka\"");
    assert_eq!(fault_keys::<WorkerConfig>(&engine, &[]), ["log.engine"]);
}

#[test]
fn all_faults_are_reported_at_once() {
    let text = "nod_id = \"w\"\nlisten = \"nowhere\"\n[limits]\nexports_max = 0\nrestore_max = 2\n[strore]\nurl = 1\n";
    let mut keys = fault_keys::<WorkerConfig>(text, &[]);
    keys.sort();
    let expected = [
        "data_dir",
        "limits.exports_max",
        "limits.restore_max",
        "listen",
        "log.url",
        "nod_id",
        "node_id",
        "store.url",
        "strore",
    ];
    assert_eq!(keys, expected);
}

#[test]
fn a_misspelt_key_is_told_the_right_one() {
    let faults = check::<WorkerConfig>(&worker("", "[limits]\nexport_max = 1"), &[]).unwrap_err();
    assert!(faults[0].remedy.contains("`exports_max`"), "{}", faults[0]);
    let faults = check::<WorkerConfig>(&worker("colour = 1", ""), &[]).unwrap_err();
    assert!(faults[0].remedy.contains("remove it"), "{}", faults[0]);
}

#[test]
fn the_environment_overrides_the_file() {
    let environment = [
        ("TIDEMARK__LIMITS__EXPORTS_MAX", "7"),
        ("TIDEMARK__NODE_ID", "12"),
        ("TIDEMARK__PARTITIONS", "[1, 3]"),
        ("TIDEMARK__STORE__URL", "file:///elsewhere"),
        ("TIDEMARK_LOG", "debug"),
        ("PATH", "/bin"),
    ];
    let config: WorkerConfig = check(&worker("", "[limits]\nexports_max = 2"), &environment).unwrap();
    assert_eq!(config.limits.exports_max, 7);
    assert_eq!(config.node_id, "12", "a number may name a node");
    assert_eq!(config.partitions, PartitionChoice::Only(vec![1, 3]));
    assert_eq!(config.store.url, "file:///elsewhere");
}

#[test]
fn a_fault_in_the_environment_is_named_like_one_in_the_file() {
    let environment = [
        ("TIDEMARK__LIMITS__EXPORTS_MAX", "many"),
        ("TIDEMARK__LIMIT__X", "1"),
    ];
    let mut keys = fault_keys::<WorkerConfig>(&worker("", ""), &environment);
    keys.sort();
    assert_eq!(keys, ["limit", "limits.exports_max"]);
}

#[test]
fn the_environment_alone_is_enough() {
    let environment = [("TIDEMARK__NODE_ID", "log-7"), ("TIDEMARK__DATA_DIR", "/d")];
    let config: LogConfig = check("", &environment).unwrap();
    assert_eq!(config.node_id, "log-7");
}

#[test]
fn text_that_is_not_toml_is_told_with_its_line() {
    let error = parse::<LogConfig>("log.toml", "node_id = \"a\"\nlisten = \n", [])
        .unwrap_err()
        .to_string();
    assert!(error.contains("log.toml") && error.contains("line 2"), "{error}");
}

#[test]
fn a_missing_file_is_named() {
    let error = load::<LogConfig>(Path::new("/nowhere/log.toml"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("/nowhere/log.toml"), "{error}");
}

#[test]
fn the_admin_checks_workers_and_policy_too() {
    let base = "node_id = \"a\"\n[store]\nurl = \"file:///b\"\n[log]\nurl = \"http://l:1\"\nadmin_url = \"http://l:2\"\n";
    let one = "[[workers]]\nnode_id = \"w1\"\naddress = \"http://w:1\"\n";
    let cases = [
        (String::new(), vec!["workers"]),
        (one.to_owned(), vec![]),
        (
            format!("{one}{one}"),
            vec!["workers[1].node_id", "workers[1].address"],
        ),
        (
            "[[workers]]\nnode_id = \"w1\"\n".to_owned(),
            vec!["workers[0].address"],
        ),
        (format!("{one}port = 3\n"), vec!["workers[0].port"]),
        (
            format!("{one}[policy]\nsnapshot_after_records = 10\nlag_records_max = 10\n"),
            vec!["policy.lag_records_max"],
        ),
        (
            format!("{one}[policy]\nverify_before_trim = \"maybe\"\n"),
            vec!["policy.verify_before_trim"],
        ),
        (
            format!("{one}[scheduler]\npoll_interval_ms = 0\n"),
            vec!["scheduler.poll_interval_ms"],
        ),
    ];
    for (more, expected) in cases {
        let keys = fault_keys::<AdminConfig>(&format!("{base}{more}"), &[]);
        assert_eq!(keys, expected, "{more}");
    }
}

#[test]
fn the_schema_explains_every_key() {
    for (role, schema) in [
        (Role::Log, schema_of::<LogConfig>()),
        (Role::Worker, schema_of::<WorkerConfig>()),
        (Role::Admin, schema_of::<AdminConfig>()),
    ] {
        let properties = schema["properties"].as_object().unwrap();
        for (key, property) in properties {
            assert!(
                property.get("description").is_some(),
                "{}: {key} is not explained",
                role.as_str()
            );
        }
    }
}
