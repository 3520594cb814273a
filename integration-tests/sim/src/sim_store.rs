//! The object store as one node sees it: in memory, with latency and faults. The oracle looks at every change.

use crate::{
    parts::SlowParts,
    plan::FaultClass,
    plant,
    reads::{drag, maybe_stale, maybe_truncate},
    world::World,
};
use async_trait::async_trait;
use futures::{FutureExt, StreamExt, TryStreamExt, stream, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, path::Path,
};
use std::{fmt, time::Duration};

/// How often a node's requests fail, of those classes that are on.
const CHANCE: f64 = 0.02;
/// How often a node stops in the middle of a request.
const CRASH_CHANCE: f64 = 0.002;

/// The store as `node` sees it.
#[derive(Clone)]
pub(crate) struct SimStore {
    pub(crate) world: World,
    node: String,
}

pub(crate) fn fault() -> Error {
    Error::Generic {
        store: "simulated",
        source: "a simulated fault".into(),
    }
}

/// Puts for good, with the oracle looking before and after.
fn put(world: &World, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
    if matches!(options.mode, PutMode::Overwrite) {
        let content = bytes::Bytes::from(payload.clone());
        world.oracle(|oracle| oracle.before_overwrite(path, &content));
    }
    let raw = world.raw().clone();
    let done = raw.put_opts(path, payload, options).now_or_never();
    let done = done.unwrap_or_else(|| Err(fault()));
    match &done {
        Ok(_) => {
            world.event(format!("store put {path}"));
            world.oracle(|oracle| oracle.after_write(path));
        }
        Err(_) => {
            world.counters().count("store refused a conditional put");
            world.event(format!("store refused to put {path}"));
        }
    }
    done
}

impl SimStore {
    pub(crate) fn new(world: World, node: &str) -> Self {
        SimStore {
            world,
            node: node.to_owned(),
        }
    }

    /// The way to the store: latency, and what keeps the request from arriving.
    pub(crate) async fn there(&self) -> Result<()> {
        let world = &self.world;
        world.lag(world.plan().store_lag_ms()).await;
        world.wait_for_time(&self.node).await;
        if world.strikes(FaultClass::StoreSlow, CHANCE) {
            world.lag(500..5000).await;
        }
        if world.strikes(FaultClass::StoreOutage, 0.001) {
            world.event(format!("{} loses the store", self.node));
            world.begin_outage(&self.node, 500..10_000);
        }
        if world.has_outage(&self.node) {
            tokio::time::sleep(Duration::from_millis(200)).await;
            return Err(fault());
        }
        self.maybe_crash("before").await;
        if world.strikes(FaultClass::StoreBefore, CHANCE) {
            return Err(fault());
        }
        Ok(())
    }

    /// The way back: what keeps the answer from arriving.
    pub(crate) async fn back<T>(&self, done: Result<T>) -> Result<T> {
        self.world.wait_for_time(&self.node).await;
        self.maybe_crash("after").await;
        if self.world.strikes(FaultClass::StoreAfter, CHANCE) {
            return Err(fault());
        }
        done
    }

    async fn put_faulty(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.there().await?;
        if self.world.strikes(FaultClass::StoreLate, CHANCE) {
            self.world.event(format!("store holds a put of {path} up"));
            let path = path.clone();
            self.world.later(50..8000, move |world| {
                put(world, &path, payload, options).ok();
            });
            return Err(fault());
        }
        let done = put(&self.world, path, payload, options);
        self.back(done).await
    }

    async fn maybe_crash(&self, moment: &str) {
        if self.world.strikes(FaultClass::CrashAtRequest, CRASH_CHANCE) {
            self.world
                .event(format!("{} stops {moment} a request to the store", self.node));
            self.world.crash_soon(&self.node);
            std::future::pending::<()>().await;
        }
    }
}

impl fmt::Debug for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimStore")
    }
}

impl fmt::Display for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimStore")
    }
}

#[async_trait]
impl ObjectStore for SimStore {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        plant::before_put(&self.world, path, &payload).await;
        let mode = plant::mode(&self.world, path, options.mode.clone());
        let options = PutOptions { mode, ..options };
        let answer = self.put_faulty(path, payload.clone(), options).await;
        plant::after_put(&self.world, self, path, payload, answer).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.world.counters().count("multipart upload begun");
        self.there().await?;
        let inner = self.world.raw().put_multipart_opts(path, options).await?;
        Ok(Box::new(SlowParts::new(self.clone(), path.clone(), inner)))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.there().await?;
        drag(&self.world, path).await;
        if let Some(read) = plant::read(&self.world, &self.node, path, &options) {
            return Ok(read);
        }
        let stale = maybe_stale(&self.world, path).filter(|_| !options.head);
        let read = match stale {
            Some(read) => read,
            None => self.world.raw().get_opts(path, options).await?,
        };
        let read = maybe_truncate(&self.world, path, read).await?;
        self.back(Ok(read)).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let deleted = paths.and_then(move |path| {
            let store = store.clone();
            async move {
                store.there().await?;
                store.world.oracle(|oracle| oracle.before_delete(&path));
                let raw = store.world.raw().clone();
                let one = stream::iter([Ok(path.clone())]).boxed();
                let gone = raw.delete_stream(one).try_collect::<Vec<Path>>().await;
                store.world.counters().count("object deleted");
                store.world.event(format!("store deleted {path}"));
                store.world.oracle(|oracle| oracle.after_write(&path));
                store.back(gone.map(|_| path)).await
            }
        });
        deleted.boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned());
        let listed = async move {
            match store.there().await {
                Ok(()) => store.world.raw().list(prefix.as_ref()),
                Err(error) => stream::iter([Err(error)]).boxed(),
            }
        };
        listed.flatten_stream().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.there().await?;
        self.world.raw().list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.there().await?;
        let done = self.world.raw().copy_opts(from, to, options).await;
        if done.is_ok() {
            self.world.counters().count("object copied");
            self.world.event(format!("store copied {from} to {to}"));
            self.world.oracle(|oracle| oracle.after_copy(from, to));
        }
        self.back(done).await
    }
}
