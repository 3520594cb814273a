//! An S3 server on loopback whose buckets are folders, with signatures checked.
//!
//! The protocol is `s3s`, the disk is `s3s-fs`. That one checks a write condition and then writes, in two steps, so that
//! racing writers overwrite each other; here a lock makes the two one. It also leaves an object with the version of the
//! one before, when a client hangs up between the two; here what was begun is finished. A kill comes between the two as
//! well: a server that starts over what another one has left takes all versions from the content anew.
//!
//! Two kinds are wrong on purpose, as some servers are, and must be refused by the capability check: [`Locking::None`]
//! leaves the lock out and is right for one writer at a time; [`Locking::Unconditional`] takes no notice of conditions.

mod listing;

use anyhow::Context;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use s3s::{
    Body, S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, access::S3Access, auth::SimpleAuth,
    dto::*, service::S3ServiceBuilder,
};
use s3s_fs::FileSystem;
use std::{
    future::Future,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{
    net::TcpListener,
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard},
    task::JoinHandle,
};

/// Largest body of a single request; parts of snapshots have 8 MiB.
const BODY_BYTES_MAX: usize = 64 << 20;

/// Whether conditional writes are atomic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locking {
    /// They are.
    Atomic,
    /// They are not: condition and write are two steps.
    None,
    /// Conditions are ignored, without a word.
    Unconditional,
}

/// A running server; it ends when this is dropped.
#[derive(Debug)]
pub struct S3Server {
    address: SocketAddr,
    folder: PathBuf,
    archive: Archive,
    serving: JoinHandle<()>,
}

impl S3Server {
    /// The key id that it accepts, unless it was started for another one.
    pub const ACCESS_KEY: &str = "TIDEMARKTEST";
    /// The secret that belongs to it.
    pub const SECRET_KEY: &str = "tidemark-test-secret";

    /// Starts one at `address` (port 0 picks a free one) that keeps `bucket`, and whatever else is created, below `folder`.
    ///
    /// # Errors
    /// When the folder cannot be used or the address is taken.
    pub async fn start(address: &str, folder: &Path, bucket: &str, locking: Locking) -> anyhow::Result<Self> {
        Self::start_for(
            Self::ACCESS_KEY,
            Self::SECRET_KEY,
            address,
            folder,
            bucket,
            locking,
        )
        .await
    }

    /// Like [`S3Server::start`], accepting `access_key` with `secret_key`.
    ///
    /// # Errors
    /// When the folder cannot be used or the address is taken.
    pub async fn start_for(
        access_key: &str,
        secret_key: &str,
        address: &str,
        folder: &Path,
        bucket: &str,
        locking: Locking,
    ) -> anyhow::Result<Self> {
        let path = folder.join(bucket);
        std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        forget_versions(folder).with_context(|| folder.display().to_string())?;
        let files =
            FileSystem::new(folder).map_err(|error| anyhow::anyhow!("{}: {error:?}", folder.display()))?;
        let buckets = Buckets(Arc::new(Shared {
            files,
            folder: folder.to_owned(),
            locking,
            lock: RwLock::default(),
        }));
        let mut builder = S3ServiceBuilder::new(buckets);
        builder.set_auth(SimpleAuth::from_single(access_key, secret_key));
        let archive = Archive::default();
        builder.set_access(archive.clone());
        let service = builder.build();
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| address.to_owned())?;
        let address = listener.local_addr()?;
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Small answers would otherwise wait for the client's delayed acknowledgement.
                let _ = stream.set_nodelay(true);
                let service = service.clone();
                tokio::spawn(async move {
                    let http = Builder::new(TokioExecutor::new());
                    // A client that hangs up is not worth a word.
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(S3Server {
            address,
            folder: folder.to_owned(),
            archive,
            serving,
        })
    }

    /// Returns where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns where it listens, as a client's option.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the folder that holds the buckets.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Moves all objects whose keys end in `suffix` to a storage class that must be thawed before it can be read: listings
    /// show them as before.
    pub fn archive(&self, suffix: &str) {
        let mut suffixes = self.archive.0.lock().unwrap_or_else(PoisonError::into_inner);
        suffixes.push(suffix.to_owned());
    }

    /// Returns the options with which a store's client reaches it. They are complete: no client asks the
    /// environment, or a cloud's metadata address, for credentials.
    pub fn options(&self) -> Vec<(String, String)> {
        Self::options_at(self.address)
    }

    /// Returns the same for one that listens at `address`, in whatever process.
    pub fn options_at(address: SocketAddr) -> Vec<(String, String)> {
        [
            ("endpoint", format!("http://{address}").as_str()),
            ("region", "us-east-1"),
            ("allow_http", "true"),
            ("access_key_id", Self::ACCESS_KEY),
            ("secret_access_key", Self::SECRET_KEY),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Removes the versions that `s3s-fs` has noted beside the buckets: without a note an object's version is its content's hash.
fn forget_versions(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(".bucket-") && name.ends_with(".internal.json") {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Suffixes of keys whose objects cannot be read at once.
#[derive(Clone, Debug, Default)]
struct Archive(Arc<Mutex<Vec<String>>>);

#[async_trait::async_trait]
impl S3Access for Archive {
    async fn get_object(&self, request: &mut S3Request<GetObjectInput>) -> S3Result<()> {
        let suffixes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match suffixes.iter().any(|suffix| request.input.key.ends_with(suffix)) {
            true => Err(S3ErrorCode::InvalidObjectState.into()),
            false => Ok(()),
        }
    }
}

/// The buckets: files behind a lock that makes condition and write one step.
#[derive(Clone)]
struct Buckets(Arc<Shared>);

struct Shared {
    files: FileSystem,
    folder: PathBuf,
    locking: Locking,
    lock: RwLock<()>,
}

impl Buckets {
    async fn read(&self) -> Option<RwLockReadGuard<'_, ()>> {
        match self.0.locking {
            Locking::None => None,
            _ => Some(self.0.lock.read().await),
        }
    }

    async fn write(&self) -> Option<RwLockWriteGuard<'_, ()>> {
        match self.0.locking {
            Locking::None => None,
            _ => Some(self.0.lock.write().await),
        }
    }

    /// Writing to a bucket that is not there would create it.
    fn check_bucket(&self, bucket: &str) -> S3Result<()> {
        match self.0.folder.join(bucket).is_dir() {
            true => Ok(()),
            false => Err(S3Error::with_message(
                S3ErrorCode::NoSuchBucket,
                bucket.to_owned(),
            )),
        }
    }
}

/// Runs an operation to its end, also when the client hangs up meanwhile.
async fn to_the_end<T: Send + 'static>(
    operation: impl Future<Output = S3Result<T>> + Send + 'static,
) -> S3Result<T> {
    let ended = tokio::spawn(operation).await;
    ended.unwrap_or_else(|error| {
        Err(S3Error::with_message(
            S3ErrorCode::InternalError,
            error.to_string(),
        ))
    })
}

/// Passes each operation on, under the lock in the mode that is named.
macro_rules! operations {
    ($($mode:ident $name:ident $input:ident $output:ident;)*) => {
        #[async_trait::async_trait]
        impl S3 for Buckets {
            $(async fn $name(&self, request: S3Request<$input>) -> S3Result<S3Response<$output>> {
                let buckets = self.clone();
                to_the_end(async move {
                    let _guard = buckets.$mode().await;
                    buckets.0.files.$name(request).await
                })
                .await
            })*

            async fn list_objects_v2(
                &self,
                request: S3Request<ListObjectsV2Input>,
            ) -> S3Result<S3Response<ListObjectsV2Output>> {
                self.check_bucket(&request.input.bucket)?;
                let buckets = self.clone();
                to_the_end(async move {
                    let _guard = buckets.read().await;
                    let bucket = buckets.0.folder.join(&request.input.bucket);
                    let listed = tokio::task::spawn_blocking(move || listing::list(&bucket, request.input));
                    let listed = listed.await.map_err(S3Error::internal_error)?;
                    Ok(S3Response::new(listed.map_err(S3Error::internal_error)?))
                })
                .await
            }

            async fn create_multipart_upload(
                &self,
                request: S3Request<CreateMultipartUploadInput>,
            ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
                self.check_bucket(&request.input.bucket)?;
                self.0.files.create_multipart_upload(request).await
            }

            async fn put_object(
                &self,
                mut request: S3Request<PutObjectInput>,
            ) -> S3Result<S3Response<PutObjectOutput>> {
                self.check_bucket(&request.input.bucket)?;
                // All of the body comes first: a slow client must not hold the lock.
                if let Some(body) = request.input.body.take() {
                    let mut body = Body::from(body);
                    let cut =
                        |error| S3Error::with_message(S3ErrorCode::IncompleteBody, format!("{error}"));
                    let bytes = body.store_all_limited(BODY_BYTES_MAX).await.map_err(cut)?;
                    request.input.body = Some(Body::from(bytes).into());
                }
                if self.0.locking == Locking::Unconditional {
                    request.input.if_match = None;
                    request.input.if_none_match = None;
                }
                let buckets = self.clone();
                to_the_end(async move {
                    let _guard = buckets.write().await;
                    buckets.0.files.put_object(request).await
                })
                .await
            }
        }
    };
}

operations! {
    write create_bucket CreateBucketInput CreateBucketOutput;
    write copy_object CopyObjectInput CopyObjectOutput;
    write delete_bucket DeleteBucketInput DeleteBucketOutput;
    write delete_object DeleteObjectInput DeleteObjectOutput;
    write delete_objects DeleteObjectsInput DeleteObjectsOutput;
    read get_bucket_location GetBucketLocationInput GetBucketLocationOutput;
    read get_object GetObjectInput GetObjectOutput;
    read head_bucket HeadBucketInput HeadBucketOutput;
    read head_object HeadObjectInput HeadObjectOutput;
    read list_buckets ListBucketsInput ListBucketsOutput;
    read list_objects ListObjectsInput ListObjectsOutput;
    read upload_part UploadPartInput UploadPartOutput;
    read upload_part_copy UploadPartCopyInput UploadPartCopyOutput;
    read list_parts ListPartsInput ListPartsOutput;
    write complete_multipart_upload CompleteMultipartUploadInput CompleteMultipartUploadOutput;
    write abort_multipart_upload AbortMultipartUploadInput AbortMultipartUploadOutput;
}
