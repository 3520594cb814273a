//! An S3 server on loopback whose buckets are folders, with signatures checked.
//!
//! The protocol is `s3s`, the disk is `s3s-fs`. That one checks a write condition and then writes, in two steps, so that
//! racing writers overwrite each other; here a lock makes the two one. [`Locking::None`] leaves the lock out: a store
//! that is right for one writer at a time, as some are, which the capability check must refuse.

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
    /// The key id that it accepts.
    pub const ACCESS_KEY: &str = "TIDEMARKTEST";
    /// The secret that belongs to it.
    pub const SECRET_KEY: &str = "tidemark-test-secret";

    /// Starts one at `address` (port 0 picks a free one) that keeps `bucket`, and whatever else is created, below `folder`.
    ///
    /// # Errors
    /// When the folder cannot be used or the address is taken.
    pub async fn start(address: &str, folder: &Path, bucket: &str, locking: Locking) -> anyhow::Result<Self> {
        let path = folder.join(bucket);
        std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        let files =
            FileSystem::new(folder).map_err(|error| anyhow::anyhow!("{}: {error:?}", folder.display()))?;
        let lock = (locking == Locking::Atomic).then(RwLock::default);
        let mut builder = S3ServiceBuilder::new(Buckets { files, lock });
        builder.set_auth(SimpleAuth::from_single(Self::ACCESS_KEY, Self::SECRET_KEY));
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
        [
            ("endpoint", self.endpoint().as_str()),
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
struct Buckets {
    files: FileSystem,
    lock: Option<RwLock<()>>,
}

impl Buckets {
    async fn read(&self) -> Option<RwLockReadGuard<'_, ()>> {
        match &self.lock {
            Some(lock) => Some(lock.read().await),
            None => None,
        }
    }

    async fn write(&self) -> Option<RwLockWriteGuard<'_, ()>> {
        match &self.lock {
            Some(lock) => Some(lock.write().await),
            None => None,
        }
    }
}

/// Passes each operation on, under the lock in the mode that is named.
macro_rules! operations {
    ($($mode:ident $name:ident $input:ident $output:ident;)*) => {
        #[async_trait::async_trait]
        impl S3 for Buckets {
            $(async fn $name(&self, request: S3Request<$input>) -> S3Result<S3Response<$output>> {
                let _guard = self.$mode().await;
                self.files.$name(request).await
            })*

            async fn put_object(&self, mut request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
                // All of the body comes first: a slow client must not hold the lock.
                if let Some(body) = request.input.body.take() {
                    let mut body = Body::from(body);
                    let cut = |error| S3Error::with_message(S3ErrorCode::IncompleteBody, format!("{error}"));
                    let bytes = body.store_all_limited(BODY_BYTES_MAX).await.map_err(cut)?;
                    request.input.body = Some(Body::from(bytes).into());
                }
                let _guard = self.write().await;
                self.files.put_object(request).await
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
    read list_objects_v2 ListObjectsV2Input ListObjectsV2Output;
    read create_multipart_upload CreateMultipartUploadInput CreateMultipartUploadOutput;
    read upload_part UploadPartInput UploadPartOutput;
    read upload_part_copy UploadPartCopyInput UploadPartCopyOutput;
    read list_parts ListPartsInput ListPartsOutput;
    write complete_multipart_upload CompleteMultipartUploadInput CompleteMultipartUploadOutput;
    write abort_multipart_upload AbortMultipartUploadInput AbortMultipartUploadOutput;
}
