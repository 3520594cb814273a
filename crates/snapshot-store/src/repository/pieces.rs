//! Reads a range of an object in pieces as they arrive: only a little of it lies in memory at a time, and where a transfer
//! breaks off, the next one goes on.

use super::{
    Repository,
    limits::{Lane, Permit},
    request::{PART_DEADLINE, REPEATS_MAX, SMALL_DEADLINE, is_transient, within},
};
use bytes::Bytes;
use futures::{
    FutureExt, StreamExt, TryStreamExt,
    stream::{self, BoxStream, Stream},
};
use object_store::{Error, GetOptions, GetRange, GetResultPayload};
use std::{io, ops::Range};

/// How large a piece is: several dozens of them lie in memory at a time, and each is handed to another thread.
const PIECE_BYTES: u64 = 256 << 10;

/// Bytes that follow one another, in the chunks in which they arrived.
pub(super) type Piece = Vec<Bytes>;

impl Repository {
    /// Reads a range of an object; it holds one place in the node's budget, whatever it is long. Each request is repeated
    /// as others are, and the count begins anew with every byte that arrives.
    pub(super) fn pieces<'a>(
        &'a self,
        lane: Lane,
        key: &'a str,
        range: Range<u64>,
    ) -> impl Stream<Item = Result<Piece, Error>> + use<'a> {
        let reading = Reading {
            repository: self,
            lane,
            key,
            missing: range,
            body: None,
            permit: None,
            fruitless: 0,
        };
        stream::try_unfold(reading, |mut reading| async move {
            let piece = reading.next().await?;
            Ok(piece.map(|piece| (piece, reading)))
        })
    }

    /// Begins to read a range; the body may end before its end.
    async fn ask(
        &self,
        key: &str,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, Error>>, Error> {
        let path = self.path(key);
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            ..Default::default()
        };
        let ask = || async { self.store().get_opts(&path, options.clone()).await };
        let mut answer = self.repeat(PART_DEADLINE, ask).await?;
        match answer.payload {
            GetResultPayload::Stream(body) => Ok(body),
            // The client would read a local file in chunks of a few KiB, each on another thread.
            GetResultPayload::File(..) => {
                answer.range.end = answer.range.end.min(answer.range.start + PIECE_BYTES);
                Ok(answer.bytes().into_stream().boxed())
            }
        }
    }
}

struct Reading<'a> {
    repository: &'a Repository,
    lane: Lane,
    key: &'a str,
    missing: Range<u64>,
    /// The answer to the request under way.
    body: Option<BoxStream<'static, Result<Bytes, Error>>>,
    permit: Option<Permit<'a>>,
    /// How many requests in a row brought nothing.
    fruitless: usize,
}

impl Reading<'_> {
    async fn next(&mut self) -> Result<Option<Piece>, Error> {
        while !self.missing.is_empty() {
            if self.permit.is_none() {
                let bytes = self.missing.end - self.missing.start;
                self.permit = Some(self.repository.0.limits.admit(self.lane, bytes).await);
            }
            let mut body = match self.body.take() {
                Some(body) => body,
                None => self.repository.ask(self.key, self.missing.clone()).await?,
            };
            let (piece, broken) = gather(&mut body, self.missing.end - self.missing.start).await;
            let bytes: usize = piece.iter().map(Bytes::len).sum();
            self.missing.start += bytes as u64;
            if broken.is_none() {
                self.body = Some(body);
            }
            if bytes > 0 {
                self.fruitless = 0;
                return Ok(Some(piece));
            }
            if let Some(error) = broken {
                self.give_up_or_pause(error).await?;
            }
        }
        Ok(None)
    }

    /// After an answer that brought nothing more.
    async fn give_up_or_pause(&mut self, error: Error) -> Result<(), Error> {
        if self.fruitless > REPEATS_MAX || !is_transient(&error) {
            return Err(error);
        }
        // The first time is the end of an answer that did bring something.
        if self.fruitless > 0 {
            self.repository.pause(self.fruitless).await;
        }
        self.fruitless += 1;
        Ok(())
    }
}

/// Reads a piece, of at most `bytes_max`; also returns what kept it from being complete. A body that has ended is no fault
/// if it brought something: who wants more asks again.
async fn gather(
    body: &mut BoxStream<'static, Result<Bytes, Error>>,
    bytes_max: u64,
) -> (Piece, Option<Error>) {
    let (mut piece, mut bytes) = (Piece::new(), 0);
    while bytes < bytes_max.min(PIECE_BYTES) {
        match within(SMALL_DEADLINE, body.try_next()).await {
            Ok(Some(mut chunk)) => {
                let room = usize::try_from(bytes_max - bytes).unwrap_or(usize::MAX);
                chunk.truncate(room);
                bytes += chunk.len() as u64;
                piece.push(chunk);
            }
            Ok(None) => return (piece, Some(ended_early())),
            Err(error) => return (piece, Some(error)),
        }
    }
    (piece, None)
}

fn ended_early() -> Error {
    Error::Generic {
        store: "read",
        source: io::Error::from(io::ErrorKind::UnexpectedEof).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Seams, StoreOptions};
    use async_trait::async_trait;
    use object_store::{
        CopyOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
        PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
    };
    use std::{
        fmt,
        sync::{
            Arc,
            atomic::{AtomicU64, Ordering},
        },
    };

    /// Answers bring at most so many bytes, in small chunks, and then end or break.
    #[derive(Debug)]
    struct Breaking {
        inner: InMemory,
        bytes_max: u64,
        chunk: usize,
        fails: bool,
        asked: AtomicU64,
    }

    impl fmt::Display for Breaking {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Breaking")
        }
    }

    #[async_trait]
    impl ObjectStore for Breaking {
        async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
            self.inner.put_opts(at, payload, options).await
        }
        async fn put_multipart_opts(
            &self,
            at: &Path,
            options: PutMultipartOptions,
        ) -> Result<Box<dyn MultipartUpload>> {
            self.inner.put_multipart_opts(at, options).await
        }
        async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let found = self.inner.get_opts(at, options).await?;
            let (meta, range, attributes) =
                (found.meta.clone(), found.range.clone(), found.attributes.clone());
            let bytes = found.bytes().await?;
            let brought = bytes.slice(..bytes.len().min(self.bytes_max as usize));
            let mut chunks: Vec<Result<Bytes>> = brought
                .chunks(self.chunk)
                .map(|c| Ok(Bytes::copy_from_slice(c)))
                .collect();
            if self.fails {
                chunks.push(Err(ended_early()));
            }
            Ok(GetResult {
                payload: GetResultPayload::Stream(stream::iter(chunks).boxed()),
                meta,
                range,
                attributes,
                extensions: Default::default(),
            })
        }
        fn delete_stream(&self, at: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
            self.inner.delete_stream(at)
        }
        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
            self.inner.list(prefix)
        }
        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
            self.inner.list_with_delimiter(prefix).await
        }
        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
            self.inner.copy_opts(from, to, options).await
        }
    }

    const KEY: &str = "object";

    fn content() -> Vec<u8> {
        (0..5 << 20).map(|i: u32| (i % 251) as u8).collect()
    }

    async fn read(repository: &Repository, range: Range<u64>) -> Result<(Vec<u8>, usize), Error> {
        let pieces: Vec<Piece> = repository.pieces(Lane::Restore, KEY, range).try_collect().await?;
        let most = pieces
            .iter()
            .map(|piece| piece.iter().map(Bytes::len).sum())
            .max();
        Ok((pieces.concat().concat(), most.unwrap_or(0)))
    }

    async fn breaking(bytes_max: u64, fails: bool) -> (Repository, Arc<Breaking>) {
        let store = Arc::new(Breaking {
            inner: InMemory::new(),
            bytes_max,
            chunk: 10_000,
            fails,
            asked: AtomicU64::new(0),
        });
        store.inner.put(&KEY.into(), content().into()).await.unwrap();
        let shared = Arc::clone(&store) as Arc<dyn ObjectStore>;
        let repository = Repository::with_store(shared, Path::default(), Seams::real());
        (repository, store)
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_breaks_off_is_continued_and_nothing_is_read_twice() {
        for fails in [true, false] {
            let (repository, store) = breaking(600_000, fails).await;
            let (bytes, most) = read(&repository, 100..2_000_100).await.unwrap();
            assert!(bytes == content()[100..2_000_100]);
            assert!(most <= 600_000);
            assert_eq!(store.asked.load(Ordering::Relaxed), 4);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_bring_nothing_are_an_error_in_the_end() {
        let (repository, store) = breaking(0, true).await;
        assert!(read(&repository, 0..10).await.is_err());
        assert_eq!(store.asked.load(Ordering::Relaxed), REPEATS_MAX as u64 + 2);
    }

    #[tokio::test]
    async fn a_piece_is_small_from_every_kind_of_store() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}", folder.path().display());
        let local = Repository::open_with(&url, &StoreOptions::default(), Seams::real()).unwrap();
        let (remote, store) = breaking(u64::MAX, false).await;
        // The folder gives small files a version, for which it reads them whole.
        for content in [content(), content()[..3 << 20].to_vec()] {
            let put = || content.clone().into();
            local.store().put(&local.path(KEY), put()).await.unwrap();
            store.inner.put(&KEY.into(), put()).await.unwrap();
            for repository in [&local, &remote] {
                let (bytes, most) = read(repository, 0..content.len() as u64).await.unwrap();
                assert!(bytes == content);
                assert!(most < PIECE_BYTES as usize + 10_000, "{most}");
            }
        }
        assert_eq!(read(&breaking(1, true).await.0, 7..7).await.unwrap().0, b"");
    }
}
