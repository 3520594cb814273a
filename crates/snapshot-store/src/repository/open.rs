//! Turns a URL and options into a store.

use super::{
    local::LocalStore,
    options::{StoreOptions, TransferOptions},
};
use crate::background;
use object_store::{
    BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    client::SpawnedReqwestConnector,
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    memory::InMemory,
    path::Path,
};
use std::{fmt, path::PathBuf, sync::Arc, time::Duration};
use tokio::runtime::Handle;
use url::Url;

/// What kind of store a repository lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// A folder on this machine.
    File,
    /// The memory of this process.
    Memory,
    /// Amazon S3, or a server that speaks its protocol.
    S3,
    /// Azure Blob Storage.
    Azure,
    /// Google Cloud Storage.
    Gcs,
    /// A store that was handed over by the embedding program.
    Custom,
}

impl StoreKind {
    /// Returns whether a copy inside the store saves a transfer.
    pub const fn copies_cheaply(self) -> bool {
        matches!(self, StoreKind::S3 | StoreKind::Azure | StoreKind::Gcs)
    }

    /// Returns whether a copy may be confirmed before its bytes are there: Azure may copy in the background.
    pub(super) const fn copies_later(self) -> bool {
        matches!(self, StoreKind::Azure)
    }
}

impl fmt::Display for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StoreKind::File => "local folder",
            StoreKind::Memory => "memory",
            StoreKind::S3 => "S3",
            StoreKind::Azure => "Azure Blob Storage",
            StoreKind::Gcs => "Google Cloud Storage",
            StoreKind::Custom => "custom store",
        })
    }
}

/// A store URL, or an option, that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not a URL.
    #[error(
        "{url:?} is not a store URL: expected file:///path, s3://bucket/prefix, az://container/prefix or gs://bucket/prefix"
    )]
    Unparsable {
        /// What was given.
        url: String,
        /// What the parser says.
        #[source]
        source: url::ParseError,
    },
    /// A URL with a user name, a password or a query.
    #[error(
        "the {scheme}:// URL holds more than a place: credentials and settings belong into the environment or the store's options, where nobody prints them"
    )]
    CredentialsInUrl {
        /// Its scheme; the rest is not repeated.
        scheme: String,
    },
    /// A `file://` URL without an absolute path on this machine.
    #[error("{url:?} names no local folder: expected file:///absolute/path")]
    NoFolder {
        /// What was given.
        url: String,
    },
    /// A URL without a bucket.
    #[error(
        "{url:?} names no bucket: expected scheme://bucket/prefix; a server of one's own is named by the option `endpoint`"
    )]
    NoBucket {
        /// What was given.
        url: String,
    },
    /// A prefix that cannot be one.
    #[error("{url:?} has a prefix that the store cannot hold")]
    Prefix {
        /// What was given.
        url: String,
        /// Why.
        #[source]
        source: object_store::path::Error,
    },
    /// A scheme that is not known.
    #[error("{scheme}:// is not a kind of store: write {instead}")]
    UnknownScheme {
        /// The scheme.
        scheme: String,
        /// What to write instead.
        instead: &'static str,
    },
    /// An option that this kind of store does not have.
    #[error("{scheme}:// stores have no option {option:?}: docs/stores.md lists them")]
    UnknownOption {
        /// The scheme.
        scheme: &'static str,
        /// The option.
        option: String,
    },
    /// An option that would make the store unsafe, or another one than the URL names.
    #[error(
        "the option {option:?} cannot be set: the URL names the bucket, and conditional, signed requests are what publishing rests on"
    )]
    RefusedOption {
        /// The option.
        option: String,
    },
    /// A server without TLS, and nobody said that this is meant.
    #[error(
        "the endpoint {endpoint:?} is plain http: use https, or set the option allow_http=true where nobody can listen in"
    )]
    PlainHttp {
        /// The endpoint.
        endpoint: String,
    },
    /// The client does not accept the options, or found no credentials.
    #[error("the client for {kind} cannot be set up: check the store's options and environment")]
    Client {
        /// What kind of store.
        kind: StoreKind,
        /// What the client says; it never holds a secret.
        #[source]
        source: Box<object_store::Error>,
    },
}

impl OpenError {
    fn client(kind: StoreKind, source: object_store::Error) -> Self {
        OpenError::Client {
            kind,
            source: Box::new(source),
        }
    }
}

/// A store that was opened; no request was made.
pub(super) struct Opened {
    pub(super) store: Arc<dyn ObjectStore>,
    /// The same store as uploads reach it in the background; `None` when it cannot be used from there.
    pub(super) uploads: Option<Arc<dyn ObjectStore>>,
    pub(super) kind: StoreKind,
    /// Prefix of all keys.
    pub(super) base: Path,
    /// The folder of a `file://` store.
    pub(super) folder: Option<PathBuf>,
}

/// Options that would contradict the URL, or the conditional writes that publishing rests on.
const OPTIONS_REFUSED: &[&str] = &[
    "bucket",
    "bucket_name",
    "aws_bucket",
    "aws_bucket_name",
    "container_name",
    "azure_container_name",
    "google_bucket",
    "google_bucket_name",
    "conditional_put",
    "aws_conditional_put",
    "skip_signature",
    "aws_skip_signature",
    "azure_skip_signature",
    "google_skip_signature",
];

/// Opens the store that a repository at `url` lies in, and returns it with the prefix of all the repository's keys.
/// Makes no request.
///
/// For tools that look at stored objects, or damage them on purpose, as anybody with the bucket's credentials can.
/// What is written through it keeps none of the promises of a [`Repository`](super::Repository).
///
/// # Errors
/// When URL or options cannot be used; the error says what is expected, and never holds a secret.
pub fn open_store(url: &str, options: &StoreOptions) -> Result<(Arc<dyn ObjectStore>, Path), OpenError> {
    let opened = open(url, options)?;
    Ok((opened.store, opened.base))
}

/// Makes a client for a bucket, with its connections on a runtime of their own if one is named.
type Client = fn(&str, &StoreOptions, Option<&Handle>) -> Result<Arc<dyn ObjectStore>, OpenError>;

/// Opens the store at `url`.
pub(super) fn open(url: &str, options: &StoreOptions) -> Result<Opened, OpenError> {
    let parsed = Url::parse(url).map_err(|source| OpenError::Unparsable {
        url: url.to_owned(),
        source,
    })?;
    if !parsed.username().is_empty() || parsed.password().is_some() || parsed.query().is_some() {
        return Err(OpenError::CredentialsInUrl {
            scheme: parsed.scheme().to_owned(),
        });
    }
    match parsed.scheme() {
        "file" => open_folder(url, &parsed, options),
        "memory" => {
            refuse_options("memory", options)?;
            let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            Ok(Opened {
                uploads: Some(Arc::clone(&store)),
                store,
                kind: StoreKind::Memory,
                base: Path::default(),
                folder: None,
            })
        }
        "s3" => open_cloud(url, &parsed, StoreKind::S3, options),
        "az" => open_cloud(url, &parsed, StoreKind::Azure, options),
        "gs" => open_cloud(url, &parsed, StoreKind::Gcs, options),
        scheme => Err(OpenError::UnknownScheme {
            scheme: scheme.to_owned(),
            instead: match scheme {
                "s3a" | "s3n" => "s3://bucket/prefix",
                "abfs" | "abfss" | "azure" | "adl" | "wasb" => "az://container/prefix",
                "gcs" => "gs://bucket/prefix",
                "http" | "https" => "s3://bucket/prefix with the option endpoint, or az:// or gs://",
                _ => {
                    "file:///path, s3://bucket/prefix, az://container/prefix, gs://bucket/prefix or memory://"
                }
            },
        }),
    }
}

fn refuse_options(scheme: &'static str, options: &StoreOptions) -> Result<(), OpenError> {
    match options.client.keys().next() {
        Some(option) => Err(OpenError::UnknownOption {
            scheme,
            option: option.clone(),
        }),
        None => Ok(()),
    }
}

fn open_folder(url: &str, parsed: &Url, options: &StoreOptions) -> Result<Opened, OpenError> {
    refuse_options("file", options)?;
    let folder = parsed
        .to_file_path()
        .ok()
        .filter(|folder| folder.is_absolute())
        .ok_or_else(|| OpenError::NoFolder { url: url.to_owned() })?;
    let store: Arc<dyn ObjectStore> = Arc::new(LocalStore::new(folder.clone()));
    Ok(Opened {
        uploads: Some(Arc::clone(&store)),
        store,
        kind: StoreKind::File,
        base: Path::default(),
        folder: Some(folder),
    })
}

fn open_cloud(url: &str, parsed: &Url, kind: StoreKind, options: &StoreOptions) -> Result<Opened, OpenError> {
    let bucket = parsed
        .host_str()
        .filter(|bucket| !bucket.is_empty() && parsed.port().is_none())
        .ok_or_else(|| OpenError::NoBucket { url: url.to_owned() })?;
    let base = Path::from_url_path(parsed.path()).map_err(|source| OpenError::Prefix {
        url: url.to_owned(),
        source,
    })?;
    if let Some(option) = options
        .client
        .keys()
        .find(|key| OPTIONS_REFUSED.contains(&key.as_str()))
    {
        return Err(OpenError::RefusedOption {
            option: option.clone(),
        });
    }
    ensure_tls();
    let client: Client = match kind {
        StoreKind::Azure => azure,
        StoreKind::Gcs => gcs,
        _ => s3,
    };
    let uploads = background::runtime().map(|runtime| client(bucket, options, Some(runtime)));
    Ok(Opened {
        store: client(bucket, options, None)?,
        uploads: uploads.transpose()?,
        kind,
        base,
        folder: None,
    })
}

/// Chooses the implementation of TLS for this process, unless the embedding program has chosen one.
fn ensure_tls() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Failing means that another thread was faster.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

/// Settings of every client: ours first, then the environment's, then the options'.
fn defaults(transfer: &TransferOptions) -> [(ClientConfigKey, String); 3] {
    let seconds = |duration: Duration| format!("{} seconds", duration.as_secs().max(1));
    [
        (ClientConfigKey::Timeout, seconds(transfer.request_timeout)),
        (ClientConfigKey::ConnectTimeout, seconds(transfer.connect_timeout)),
        (
            ClientConfigKey::UserAgent,
            concat!("tidemark/", env!("CARGO_PKG_VERSION")).to_owned(),
        ),
    ]
}

fn retries(transfer: &TransferOptions) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(2),
            base: 2.,
        },
        max_retries: transfer.retries_max,
        // Bounds when the last retry begins; each request has its own timeout besides.
        retry_timeout: Duration::from_secs(30),
    }
}

/// Variables of this process's environment that begin with `prefix`, by their lower-case names.
fn environment(prefix: &'static str) -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(move |(key, value)| {
        let key = key.into_string().ok().filter(|key| key.starts_with(prefix))?;
        Some((key.to_ascii_lowercase(), value.into_string().ok()?))
    })
}

/// Lays defaults, environment and options over a client's builder. The three builders of `object_store` have the same
/// methods and no common trait.
macro_rules! configured {
    ($builder:expr, $key:ty, $endpoint:expr, $scheme:literal, $prefix:literal, $options:expr) => {{
        let mut builder = $builder.with_retry(retries(&$options.transfer));
        for (key, value) in defaults(&$options.transfer) {
            builder = builder.with_config(<$key>::Client(key), value);
        }
        for (name, value) in environment($prefix) {
            // A variable that the client does not know belongs to another program.
            if let Ok(key) = name.parse::<$key>() {
                builder = builder.with_config(key, value);
            }
        }
        for (name, value) in &$options.client {
            let unknown = |_| OpenError::UnknownOption {
                scheme: $scheme,
                option: name.clone(),
            };
            builder = builder.with_config(name.parse::<$key>().map_err(unknown)?, value);
        }
        let allowed = builder.get_config_value(&<$key>::Client(ClientConfigKey::AllowHttp));
        refuse_plain_http($endpoint.and_then(|key| builder.get_config_value(&key)), allowed)?;
        builder
    }};
}

/// Builds a client whose connections live on `runtime`, if one is named.
macro_rules! built {
    ($builder:expr, $runtime:expr, $kind:expr) => {{
        let builder = match $runtime {
            Some(runtime) => $builder.with_http_connector(SpawnedReqwestConnector::new(runtime.clone())),
            None => $builder,
        };
        match builder.build() {
            Ok(store) => Ok(Arc::new(store)),
            Err(error) => Err(OpenError::client($kind, error)),
        }
    }};
}

fn refuse_plain_http(endpoint: Option<String>, allowed: Option<String>) -> Result<(), OpenError> {
    let allowed = allowed.is_some_and(|allowed| allowed.eq_ignore_ascii_case("true") || allowed == "1");
    match endpoint.filter(|endpoint| endpoint.starts_with("http:") && !allowed) {
        Some(endpoint) => Err(OpenError::PlainHttp { endpoint }),
        None => Ok(()),
    }
}

fn s3(
    bucket: &str,
    options: &StoreOptions,
    runtime: Option<&Handle>,
) -> Result<Arc<dyn ObjectStore>, OpenError> {
    let builder = configured!(
        AmazonS3Builder::new(),
        AmazonS3ConfigKey,
        Some(AmazonS3ConfigKey::Endpoint),
        "s3",
        "AWS_",
        options
    )
    .with_bucket_name(bucket)
    .with_conditional_put(S3ConditionalPut::ETagMatch);
    built!(builder, runtime, StoreKind::S3)
}

fn azure(
    container: &str,
    options: &StoreOptions,
    runtime: Option<&Handle>,
) -> Result<Arc<dyn ObjectStore>, OpenError> {
    let builder = configured!(
        MicrosoftAzureBuilder::new(),
        AzureConfigKey,
        Some(AzureConfigKey::Endpoint),
        "az",
        "AZURE_",
        options
    )
    .with_container_name(container);
    built!(builder, runtime, StoreKind::Azure)
}

fn gcs(
    bucket: &str,
    options: &StoreOptions,
    runtime: Option<&Handle>,
) -> Result<Arc<dyn ObjectStore>, OpenError> {
    let builder = configured!(
        GoogleCloudStorageBuilder::new(),
        GoogleConfigKey,
        None::<GoogleConfigKey>,
        "gs",
        "GOOGLE_",
        options
    )
    .with_bucket_name(bucket);
    built!(builder, runtime, StoreKind::Gcs)
}
