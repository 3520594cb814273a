//! Real admins. Two on one cluster: one is stopped, continued and killed; another takes over within seconds, nothing is
//! trimmed above the guard, and a pause outlives both. And one whose policy changes while it runs.

use anyhow::{Context, ensure};
use integration_tests::{SecondAdmin, SingleNode, TestCluster, bucket::check_trim_point, replicas::log_info};
use rustix::process::{Pid, Signal, kill_process};
use snapshot_proto::v1::{
    AdminLease, ClusterStatus, GetClusterStatusRequest, PauseRequest, PolicyState,
    admin_service_client::AdminServiceClient,
};
use snapshot_store::{Lsn, PartitionId, Repository, Seams};
use std::time::Duration;
use tidemark::{
    cluster::{Node, PortBlock, Settings, wait_for},
    kv::KvClient,
};
use tokio::time::Instant;

const PARTITIONS: u32 = 2;
const TERM: Duration = Duration::from_millis(1500);
/// One term, one look of the standby, and what starting and scheduling take on a busy machine.
const TAKEOVER_WITHIN: Duration = Duration::from_secs(10);
const WITHIN: Duration = Duration::from_secs(60);

async fn status(url: &str) -> Result<ClusterStatus, String> {
    let mut client = AdminServiceClient::connect(url.to_owned())
        .await
        .map_err(|error| error.to_string())?;
    let answer = client.get_cluster_status(GetClusterStatusRequest {}).await;
    answer
        .map(tonic::Response::into_inner)
        .map_err(|error| error.to_string())
}

/// Waits until the lease, as the admin at `url` sees it, is as wanted.
async fn until_lease(
    what: &str,
    url: &str,
    within: Duration,
    wanted: impl Fn(&AdminLease) -> bool,
) -> anyhow::Result<AdminLease> {
    let lease = wait_for(what, within, async || {
        let lease = status(url).await?.lease.ok_or("no lease in the status")?;
        if wanted(&lease) {
            Ok(lease)
        } else {
            Err(format!("{lease:?}"))
        }
    });
    Ok(lease.await?)
}

/// Waits until the admin at `url` obeys the pause of partition 1.
async fn until_paused(url: &str) -> anyhow::Result<()> {
    let paused = wait_for("the pause to be obeyed", WITHIN, async || {
        let partition = status(url).await?.partitions.swap_remove(1);
        let trim = partition.trim.ok_or("nothing decided yet")?;
        if trim.code == "paused" {
            Ok(trim)
        } else {
            Err(format!("{trim:?}"))
        }
    })
    .await?;
    ensure!(paused.detail.contains("it must outlive both"), "{paused:?}");
    Ok(())
}

/// Writes until partition 0 was trimmed further, as the admin at `url` sees it; checks what each trim rests on.
async fn trim_on(url: &str, client: &KvClient, repository: &Repository) -> anyhow::Result<()> {
    let trim_point = |status: &ClusterStatus| status.partitions[0].trim_point.unwrap_or(0);
    let before = trim_point(&status(url).await.map_err(anyhow::Error::msg)?);
    let deadline = Instant::now() + WITHIN;
    loop {
        for number in 0..40 {
            client.put(format!("key-{number}"), "some value").await?;
        }
        let after = trim_point(&status(url).await.map_err(anyhow::Error::msg)?);
        let id = PartitionId::new(0);
        if after > before {
            let pointer = repository.pointer(id).await?.context("no pointer")?.value;
            let certificate = repository.certificate(id).await?.context("no certificate")?.value;
            let guard = certificate.snapshots.iter().map(|snapshot| snapshot.lsn).min();
            ensure!(
                certificate.up_to >= Lsn::new(after),
                "{after} was trimmed without a certificate"
            );
            ensure!(
                guard >= Some(Lsn::new(after)),
                "{after} is above the guard {guard:?}"
            );
            let names = |snapshot| {
                pointer
                    .snapshots
                    .iter()
                    .any(|entry| entry.snapshot_id == snapshot)
            };
            ensure!(
                certificate
                    .snapshots
                    .iter()
                    .all(|snapshot| names(snapshot.snapshot_id))
            );
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "still trimmed to {after} only");
    }
}

#[tokio::test]
async fn a_second_admin_takes_over_from_one_that_is_stopped_or_killed() -> anyhow::Result<()> {
    let settings = Settings {
        snapshot_after_records: 60,
        lag_records_max: 30,
        overrides: vec![(
            "admin",
            format!("[scheduler]\nlease_term_ms = {}\n", TERM.as_millis()),
        )],
        ..Settings::default()
    };
    let base = env!("CARGO_TARGET_TMPDIR");
    let mut cluster = TestCluster::launch(base, "two-admins", 3, PARTITIONS, settings).await?;
    let repository = Repository::open(&cluster.store_url(), Seams::real())?;
    let client = KvClient::connect(cluster.endpoints().worker_urls()).await?;
    let one = cluster.endpoints().url(Node::Admin).to_owned();
    let first = cluster.process_id(Node::Admin).context("it runs")?;
    let first = Pid::from_raw(i32::try_from(first)?).context("it has an id")?;
    until_lease("admin-1 to act", &one, WITHIN, |lease| lease.active).await?;

    let ports = PortBlock::take()?;
    let admin_2 = SecondAdmin::prepare(&cluster, &ports)?;
    let (second, two) = (admin_2.spawn()?, admin_2.url());
    let standby = until_lease("admin-2 to watch", &two, WITHIN, |lease| lease.code == "standby").await?;
    ensure!(
        standby.holder.as_deref() == Some("admin-1") && standby.address == one,
        "{standby:?}"
    );
    let said = cluster.run(&["status", "--admin", &two], WITHIN).await?;
    ensure!(
        said.contains(&format!(
            "admin-2 only watches (standby): admin-1 at {one} has epoch 1 until"
        )),
        "{said}"
    );
    trim_on(&one, &client, &repository).await?;

    let mut operator = AdminServiceClient::connect(one.clone()).await?;
    let pause = PauseRequest {
        partition: Some(1),
        by: "ops".to_owned(),
        reason: "it must outlive both".to_owned(),
    };
    operator.pause(pause).await?;
    let paused_at = log_info(cluster.endpoints(), 1).await?.trim_point;

    // Stopped for longer than its term: the other one acts, and the view it had all along lets it trim soon.
    kill_process(first, Signal::STOP)?;
    let stopped = Instant::now();
    let taken = until_lease("admin-2 to act", &two, TAKEOVER_WITHIN, |lease| lease.active).await?;
    let stopped_for = stopped.elapsed();
    ensure!(
        taken.epoch == 2 && stopped_for >= TERM / 2,
        "{taken:?} after {stopped_for:?}"
    );
    trim_on(&two, &client, &repository).await?;
    // Continued, it finds out that it was relieved.
    until_paused(&two).await?;
    kill_process(first, Signal::CONT)?;
    until_lease("admin-1 to watch", &one, WITHIN, |lease| {
        lease.holder.as_deref() == Some("admin-2")
    })
    .await?;
    let both = [&one, &two];
    for _ in 0..5 {
        let mut acting = 0;
        for url in both {
            let lease = status(url).await.map_err(anyhow::Error::msg)?.lease;
            acting += usize::from(lease.is_some_and(|lease| lease.active));
        }
        ensure!(acting == 1, "{acting} admins act");
    }

    // Killed: the first one takes it back, and obeys a pause that it was not asked for.
    drop(second);
    let killed = Instant::now();
    until_lease("admin-1 to act again", &one, TAKEOVER_WITHIN, |lease| {
        lease.active
    })
    .await?;
    let killed_for = killed.elapsed();
    trim_on(&one, &client, &repository).await?;
    cluster.kill(Node::Admin)?;
    cluster.start(Node::Admin).await?;
    let restarted = Instant::now();
    until_lease("the restarted admin to act", &one, WITHIN, |lease| lease.active).await?;
    let restarted_for = restarted.elapsed();
    ensure!(restarted_for < TAKEOVER_WITHIN, "{restarted_for:?}");
    until_paused(&one).await?;
    ensure!(log_info(cluster.endpoints(), 1).await?.trim_point == paused_at);
    for partition in 0..PARTITIONS {
        let trimmed = log_info(cluster.endpoints(), partition).await?.trim_point;
        check_trim_point(&cluster.bucket_dir(), partition, trimmed)?;
    }
    eprintln!(
        "taken over after {stopped_for:?} (stopped), {killed_for:?} (killed), {restarted_for:?} (restarted)"
    );
    cluster.finish()
}

#[tokio::test]
async fn what_a_killed_admin_had_certified_is_trimmed_by_the_next_one_without_further_writes()
-> anyhow::Result<()> {
    let settings = Settings {
        snapshot_after_records: 60,
        lag_records_max: 30,
        ..Settings::default()
    };
    let base = env!("CARGO_TARGET_TMPDIR");
    let mut cluster = TestCluster::launch(base, "killed-admin", 2, 1, settings).await?;
    let repository = Repository::open(&cluster.store_url(), Seams::real())?;
    let client = KvClient::connect(cluster.endpoints().worker_urls()).await?;
    let url = cluster.endpoints().url(Node::Admin).to_owned();

    // An admin that cannot reach the place where trims are taken comes as far as the certificate.
    let file = cluster.config_path(Node::Admin);
    let text = std::fs::read_to_string(&file)?;
    let nowhere = PortBlock::take()?;
    let severed = text.lines().map(|line| match line.starts_with("admin_url = ") {
        true => format!("admin_url = \"http://127.0.0.1:{}\"\n", nowhere.port(0)),
        false => format!("{line}\n"),
    });
    let severed: String = severed.collect();
    ensure!(
        severed != text,
        "the file names the address otherwise now: {text}"
    );
    std::fs::write(&file, severed)?;
    cluster.stop(Node::Admin).await?;
    cluster.start(Node::Admin).await?;
    let id = PartitionId::new(0);
    let deadline = Instant::now() + WITHIN;
    let certificate = loop {
        for number in 0..40 {
            client.put(format!("key-{number}"), "some value").await?;
        }
        if let Some(read) = repository.certificate(id).await? {
            break read.value;
        }
        ensure!(Instant::now() < deadline, "no certificate was written");
    };
    wait_for("the trim to fail", WITHIN, async || {
        let trim = status(&url).await?.partitions.swap_remove(0).trim;
        trim.filter(|trim| trim.code == "failed")
            .ok_or("no trim was tried yet")
            .map_err(str::to_owned)
    })
    .await?;
    cluster.kill(Node::Admin)?;
    let left = log_info(cluster.endpoints(), 0).await?;
    ensure!(left.trim_point == 0, "{left:?}");
    let certificate = repository
        .certificate(id)
        .await?
        .map_or(certificate, |read| read.value);

    std::fs::write(&file, text)?;
    cluster.start(Node::Admin).await?;
    let after = wait_for("the trim to be completed", WITHIN, async || {
        let info = log_info(cluster.endpoints(), 0)
            .await
            .map_err(|error| error.to_string())?;
        match info.trim_point >= certificate.up_to.get() {
            true => Ok(info),
            false => Err(format!("{info:?}, certified up to {}", certificate.up_to)),
        }
    })
    .await?;
    ensure!(after.tail == left.tail, "{left:?}, then {after:?}");
    check_trim_point(&cluster.bucket_dir(), 0, after.trim_point)?;
    cluster.finish()
}

/// Waits until the policy of the admin at `url` is as wanted.
async fn until_policy(
    what: &str,
    url: &str,
    wanted: impl Fn(&PolicyState) -> bool,
) -> anyhow::Result<PolicyState> {
    let policy = wait_for(what, WITHIN, async || {
        let policy = status(url).await?.policy.ok_or("no policy in the status")?;
        if wanted(&policy) {
            Ok(policy)
        } else {
            Err(format!("{policy:?}"))
        }
    });
    Ok(policy.await?)
}

#[tokio::test]
async fn a_running_admin_takes_a_new_policy_and_refuses_a_faulty_one() -> anyhow::Result<()> {
    let base = env!("CARGO_TARGET_TMPDIR");
    let cluster = TestCluster::launch(base, "policy", 1, 1, Settings::default()).await?;
    let url = cluster.endpoints().url(Node::Admin).to_owned();
    let file = cluster.config_path(Node::Admin);
    let text = std::fs::read_to_string(&file)?;
    let with = |records: &str| text.replace("snapshot_after_records = 200", records);
    ensure!(
        with("x") != text,
        "the file names the threshold otherwise now: {text}"
    );

    // Told to.
    std::fs::write(&file, with("snapshot_after_records = 150"))?;
    let admin = cluster.process_id(Node::Admin).context("it runs")?;
    let admin = Pid::from_raw(i32::try_from(admin)?).context("it has an id")?;
    kill_process(admin, Signal::HUP)?;
    until_policy("the new threshold", &url, |policy| {
        policy.revision == 2 && policy.json.contains("\"snapshot_after_records\":150")
    })
    .await?;

    // Refused, with all faults, and said again by the status.
    let faulty = with("snapshot_after_records = 90\nsnapshots_max = 0\nsnapshot_after_record = 1");
    std::fs::write(&file, faulty)?;
    let refused = cluster.run(&["policy", "reload", "--admin", &url], WITHIN).await;
    let said = refused.err().context("a faulty policy was taken")?.to_string();
    for word in [
        "policy-refused",
        "policy.snapshots_max",
        "policy.lag_records_max",
        "policy.snapshot_after_record",
    ] {
        ensure!(said.contains(word), "{word} is not in: {said}");
    }
    let said = cluster.run(&["status", "--admin", &url], WITHIN).await?;
    ensure!(
        said.contains("revision 2") && said.contains("a newer one was refused"),
        "{said}"
    );

    // By itself, once the file has changed.
    let rule = "first_partition = 0\nlast_partition = 0\nsnapshot_after_records = 110\nlag_records_max = 50";
    let overridden = format!(
        "{}\n[[policy.override]]\n{rule}\n",
        with("snapshot_after_records = 150")
    );
    std::fs::write(&file, overridden)?;
    let policy = until_policy("the override", &url, |policy| policy.revision == 3).await?;
    ensure!(policy.refused.is_empty(), "{policy:?}");
    let explained = wait_for("the override to apply", WITHIN, async || {
        let said = cluster
            .run(&["explain", "0", "--admin", &url], WITHIN)
            .await
            .map_err(|error| error.to_string())?;
        if said.contains("by policy.override[0]") {
            Ok(said)
        } else {
            Err(said)
        }
    })
    .await?;
    ensure!(explained.contains("of 110 records"), "{explained}");
    let said = cluster
        .run(&["policy", "reload", "--admin", &url], WITHIN)
        .await?;
    ensure!(said.contains("nothing changed"), "{said}");
    cluster.finish()
}

#[tokio::test]
async fn an_admin_that_still_waits_for_its_store_outlives_a_hangup() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let ports = PortBlock::take()?;
    let config = folder.path().join("admin.toml");
    let text = format!(
        "node_id = \"admin-1\"\nlisten = \"127.0.0.1:{}\"\nmetrics_listen = \"127.0.0.1:{}\"\n\
         [store]\nurl = \"file://{}\"\n[log]\nurl = \"http://127.0.0.1:1\"\nadmin_url = \"http://127.0.0.1:1\"\n\
         [[workers]]\nnode_id = \"worker-1\"\naddress = \"http://127.0.0.1:1\"\npartitions = \"all\"\n",
        ports.port(0),
        ports.port(1),
        folder.path().join("no-bucket").display(),
    );
    std::fs::write(&config, text)?;
    let arguments = ["admin", "--config", &config.display().to_string()];
    let mut admin = SingleNode::spawn(&arguments, &folder.path().join("said"))?;
    admin.until_said(&["no-bucket"], WITHIN).await?;
    let id = Pid::from_raw(i32::try_from(admin.id())?).context("it has an id")?;
    kill_process(id, Signal::HUP)?;
    // The next signal is the one that ends it, as an end that was asked for.
    kill_process(id, Signal::TERM)?;
    let (status, said) = admin.until_ended(WITHIN).await?;
    ensure!(status.success(), "{status}: {said}");
    Ok(())
}
