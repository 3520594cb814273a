//! Object store servers of other makes, each a process of its own on loopback.
//!
//! `scripts/test.sh` and `scripts/store-servers.sh` install them and say so in `TIDEMARK_STORE_SERVERS`. A test that needs
//! one fails where it is missing. Options always hold credentials and an endpoint: no client ever asks a cloud.

mod http_client;
mod process;

use anyhow::{Context, bail, ensure};
use http::{Method, Request, StatusCode};
use object_store::{
    azure::{AzureAccessKey, AzureAuthorizer, AzureCredential},
    client::HttpRequestBody,
};
use process::ServerProcess;
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Account that the Azure server knows without being told.
const AZURE_ACCOUNT: &str = "devstoreaccount1";
/// Its key, which is public: the same for every such server in the world.
const AZURE_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A running server with one bucket in it; killed when this is dropped. It keeps its objects in memory.
#[derive(Debug)]
pub struct StoreServer {
    process: ServerProcess,
    scheme: &'static str,
    bucket: String,
    options: Vec<(String, String)>,
}

impl StoreServer {
    /// Starts moto, an S3 server that is independent of [`s3_server`](crate::s3_server). It accepts any credentials, and
    /// serves one request at a time: by itself it lets racing conditional writes overwrite each other.
    ///
    /// # Errors
    /// When it is not installed or does not start; the error says what to do.
    pub async fn moto(bucket: &str) -> anyhow::Result<Self> {
        let python = installed("bin/python")?;
        let server = installed("serve-moto.py")?;
        let process = ServerProcess::start("moto", |port, folder| {
            let mut command = Command::new(&python);
            command.arg(&server).arg(port.to_string()).current_dir(folder);
            command
        })
        .await?;
        let created = Request::put(format!("/{bucket}")).body(())?;
        let status = http_client::send(process.address(), &created).await?;
        ensure!(status == StatusCode::OK, "moto did not create {bucket}: {status}");
        let endpoint = format!("http://{}", process.address());
        let options = [
            ("endpoint", endpoint.as_str()),
            ("region", "us-east-1"),
            ("allow_http", "true"),
            ("access_key_id", "TIDEMARKTEST"),
            ("secret_access_key", "tidemark-test-secret"),
        ];
        Ok(StoreServer {
            process,
            scheme: "s3",
            bucket: bucket.to_owned(),
            options: owned(&options),
        })
    }

    /// Starts Azurite, an Azure Blob Storage server.
    ///
    /// # Errors
    /// When it is not installed or does not start; the error says what to do.
    pub async fn azurite(container: &str) -> anyhow::Result<Self> {
        let node = installed("node")?;
        let server = installed("azurite.js")?;
        let process = ServerProcess::start("azurite", |port, folder| {
            let mut command = Command::new(&node);
            command
                .arg(&server)
                .args(["--silent", "--inMemoryPersistence", "--skipApiVersionCheck"])
                // It would report to its maker.
                .arg("--disableTelemetry")
                .args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()])
                .current_dir(folder);
            command
        })
        .await?;
        let endpoint = format!("http://{}/{AZURE_ACCOUNT}", process.address());
        create_container(&process, &endpoint, container).await?;
        let options = [
            ("endpoint", endpoint.as_str()),
            ("allow_http", "true"),
            ("account_name", AZURE_ACCOUNT),
            ("account_key", AZURE_KEY),
        ];
        Ok(StoreServer {
            process,
            scheme: "az",
            bucket: container.to_owned(),
            options: owned(&options),
        })
    }

    /// Returns the URL of `prefix` in its bucket.
    pub fn url(&self, prefix: &str) -> String {
        format!("{}://{}/{prefix}", self.scheme, self.bucket)
    }

    /// Returns the options with which a store's client reaches it.
    pub fn options(&self) -> Vec<(String, String)> {
        self.options.clone()
    }

    /// Returns what the server has printed, for a test that fails.
    pub fn said(&self) -> String {
        self.process.said()
    }
}

fn owned(options: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    options.iter().map(owned).collect()
}

/// A container can only be created by a signed request, which the client library has no call for; it signs one.
async fn create_container(process: &ServerProcess, endpoint: &str, container: &str) -> anyhow::Result<()> {
    let mut request = Request::builder()
        .method(Method::PUT)
        .uri(format!("{endpoint}/{container}?restype=container"))
        .body(HttpRequestBody::empty())?;
    let key = AzureCredential::AccessKey(AzureAccessKey::try_new(AZURE_KEY).context("the account's key")?);
    AzureAuthorizer::new(&key, AZURE_ACCOUNT).try_authorize(&mut request)?;
    let status = http_client::send(process.address(), &request).await?;
    ensure!(
        status == StatusCode::CREATED,
        "azurite did not create {container}: {status}"
    );
    Ok(())
}

/// Returns a file of the installed servers.
fn installed(file: &str) -> anyhow::Result<PathBuf> {
    let folder = match std::env::var_os("TIDEMARK_STORE_SERVERS") {
        Some(folder) => PathBuf::from(folder),
        None => {
            let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
            let home = || Some(Path::new(&std::env::var_os("HOME")?).join(".cache"));
            let cache = cache.or_else(home).context("HOME is not set")?;
            cache.join("tidemark/tools/store-servers")
        }
    };
    let path = folder.join(file);
    if !path.exists() {
        bail!(
            "{} is missing: run scripts/store-servers.sh, which installs the object store servers of the tests",
            path.display()
        );
    }
    Ok(path)
}
