//! Servers that come back with less than they had acknowledged.

mod nats_common;

use nats_common::*;
use partition_log::conformance::{NatsServers, NatsUser};
use partition_log::{Log, ReadError};
use snapshot_store::Lsn;
use std::{fs, path::Path};

/// The data folders of all servers are set back to an earlier copy, as restored disks or a power failure of servers
/// without `sync_interval: always` do it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_set_back_is_noticed_by_readers_and_by_its_state() {
    let mut servers = NatsServers::start(3).await;
    let (log, _admin) = provision(&servers).await;
    let mut stream = log
        .read(P0, life(), Lsn::FIRST)
        .await
        .expect("the log can be read");
    let mut writer = Writer::new(connect(&servers, NatsUser::Worker, None).await);
    writer.append(10).await;
    let copies = tempfile::tempdir().expect("a temporary folder");
    for index in 0..3 {
        servers.kill(index);
    }
    for index in 0..3 {
        copy(&servers.data(index), &copies.path().join(servers.name(index)));
        servers.start_again(index);
    }
    writer.append(5).await;
    assert_eq!(
        take(&mut stream, Lsn::FIRST, 15).await.as_ref(),
        Ok(&writer.acknowledged)
    );

    for index in 0..3 {
        servers.kill(index);
    }
    for index in 0..3 {
        fs::remove_dir_all(servers.data(index)).expect("the folder is removed");
        copy(&copies.path().join(servers.name(index)), &servers.data(index));
        servers.start_again(index);
    }
    let regressed = ReadError::Regressed { tail: Lsn::new(11) };
    assert_eq!(
        read_to_error(&mut stream).await,
        regressed,
        "a reader that was there"
    );
    let info = log.info(P0).await.expect("the log says how it is");
    assert_eq!(info.tail, Lsn::new(11));
    let fresh = connect(&servers, NatsUser::Worker, None).await;
    let opened = fresh.read(P0, life(), Lsn::new(16)).await.err();
    assert_eq!(opened, Some(regressed), "a new reader");
    // Whoever stands below the cut reads on.
    let mut below = fresh
        .read(P0, life(), Lsn::new(3))
        .await
        .expect("the log can be read");
    let kept = take(&mut below, Lsn::new(3), 8).await;
    assert_eq!(kept, Ok(writer.acknowledged[2..10].to_vec()));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the folder is made");
    for entry in fs::read_dir(from).expect("the folder is read") {
        let entry = entry.expect("the folder is read");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("the file is copied");
        }
    }
}

/// The three copies are there for this.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_lost_its_disk_is_filled_by_the_others_and_then_as_good_as_they_are() {
    let mut servers = NatsServers::start(3).await;
    let (log, _admin) = provision(&servers).await;
    let js = raw(&servers, NatsUser::Admin).await;
    let mut stream = log
        .read(P0, life(), Lsn::FIRST)
        .await
        .expect("the log can be read");
    let mut writer = Writer::new(connect(&servers, NatsUser::Worker, None).await);
    writer.append(30).await;
    let lost = leader(&servers, &js).await;
    servers.kill(lost);
    fs::remove_dir_all(servers.data(lost)).expect("the folder is removed");
    servers.start_again(lost);
    writer.append(10).await;
    until_current(&js).await;

    // Nothing is acknowledged now without the one that lost its disk.
    servers.kill((lost + 1) % 3);
    writer.append(10).await;
    let read = take(&mut stream, Lsn::FIRST, 50).await;
    assert_eq!(read.as_ref(), Ok(&writer.acknowledged), "a reader that was there");
    let fresh = connect(&servers, NatsUser::Worker, Some(lost)).await;
    let mut whole = within("the log", async {
        loop {
            match fresh.read(P0, life(), Lsn::FIRST).await {
                Ok(stream) => return stream,
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    })
    .await;
    let read = take(&mut whole, Lsn::FIRST, 50).await;
    assert_eq!(read, Ok(writer.acknowledged), "a new reader");
}
