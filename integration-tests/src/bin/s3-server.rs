//! An S3 server on loopback for the demo, benchmarks and experiments: `s3-server ADDRESS FOLDER BUCKET`.
//!
//! Prints its endpoint once it listens, and ends with its standard input, so that it never outlives who started it.

use anyhow::Context;
use integration_tests::s3_server::{Locking, S3Server};
use std::{io, path::Path};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, folder, bucket] = arguments.as_slice() else {
        anyhow::bail!("usage: s3-server ADDRESS FOLDER BUCKET");
    };
    let server = S3Server::start(address, Path::new(folder), bucket, Locking::Atomic).await?;
    println!("{}", server.endpoint());
    let until_closed = || io::copy(&mut io::stdin().lock(), &mut io::sink());
    tokio::task::spawn_blocking(until_closed)
        .await?
        .context("standard input")?;
    Ok(())
}
