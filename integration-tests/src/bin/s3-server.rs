//! An S3 server on loopback for the demo, benchmarks and experiments: `s3-server ADDRESS FOLDER BUCKET`.
//!
//! Prints its endpoint once it listens, and ends with its standard input, so that it never outlives who started it. It
//! accepts the credentials in `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, those that its clients will use, and those of
//! the tests when neither is set.

use anyhow::Context;
use integration_tests::s3_server::{Locking, S3Server};
use std::{env, io, path::Path};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [address, folder, bucket] = arguments.as_slice() else {
        anyhow::bail!("usage: s3-server ADDRESS FOLDER BUCKET");
    };
    let (id, secret) = credentials()?;
    let server =
        S3Server::start_for(&id, &secret, address, Path::new(folder), bucket, Locking::Atomic).await?;
    println!("{}", server.endpoint());
    let until_closed = || io::copy(&mut io::stdin().lock(), &mut io::sink());
    tokio::task::spawn_blocking(until_closed)
        .await?
        .context("standard input")?;
    Ok(())
}

fn credentials() -> anyhow::Result<(String, String)> {
    let (id, secret) = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY");
    if env::var_os(id).is_none() && env::var_os(secret).is_none() {
        return Ok((S3Server::ACCESS_KEY.to_owned(), S3Server::SECRET_KEY.to_owned()));
    }
    Ok((env::var(id).context(id)?, env::var(secret).context(secret)?))
}
