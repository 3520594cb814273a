//! Lists the objects of a bucket that is a folder. Only what lies below the prefix is looked at, so that a listing costs
//! what it returns: `s3s-fs` walks the whole bucket each time.

use s3s::dto::{CommonPrefix, ListObjectsV2Input, ListObjectsV2Output, Object, Timestamp};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// As many keys as S3 returns at once.
const KEYS_MAX: i32 = 1_000;

/// What stands at a key.
enum Found {
    Object { bytes: u64, modified: SystemTime },
    Folder,
}

/// Answers a request for a page of the listing of `bucket`. The only delimiter is `/`.
pub(super) fn list(bucket: &Path, input: ListObjectsV2Input) -> io::Result<ListObjectsV2Output> {
    let prefix = input.prefix.as_deref().unwrap_or_default();
    let mut found = BTreeMap::new();
    // The last part of the prefix may be half a name.
    let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
    let walk = Walk {
        prefix,
        grouped: input.delimiter.is_some(),
    };
    walk.walk(bucket.join(folder), folder, &mut found)?;

    let token = input.continuation_token.as_ref();
    let after = token.max(input.start_after.as_ref()).cloned().unwrap_or_default();
    found.retain(|key, _| *key > after);
    let keys_max = input.max_keys.unwrap_or(KEYS_MAX).clamp(0, KEYS_MAX);
    let page_len = usize::try_from(keys_max).unwrap_or_default();
    let truncated = found.len() > page_len;
    let mut output = ListObjectsV2Output {
        name: Some(input.bucket),
        prefix: input.prefix,
        delimiter: input.delimiter,
        max_keys: Some(keys_max),
        continuation_token: input.continuation_token,
        is_truncated: Some(truncated),
        ..Default::default()
    };
    let (mut objects, mut folders, mut last) = (Vec::new(), Vec::new(), None);
    for (key, one) in found.into_iter().take(page_len) {
        last = Some(key.clone());
        match one {
            Found::Object { bytes, modified } => objects.push(Object {
                key: Some(key),
                size: i64::try_from(bytes).ok(),
                last_modified: Some(Timestamp::from(modified)),
                ..Default::default()
            }),
            Found::Folder => folders.push(CommonPrefix { prefix: Some(key) }),
        }
    }
    output.key_count = i32::try_from(objects.len() + folders.len()).ok();
    output.next_continuation_token = last.filter(|_| truncated);
    output.contents = Some(objects);
    output.common_prefixes = Some(folders);
    Ok(output)
}

struct Walk<'a> {
    prefix: &'a str,
    /// Whether folders are named instead of what is in them.
    grouped: bool,
}

impl Walk<'_> {
    /// Adds what lies in `folder`, whose key is `key`, and below.
    fn walk(&self, folder: PathBuf, key: &str, found: &mut BTreeMap<String, Found>) -> io::Result<()> {
        for (entry, name) in entries(&folder)? {
            let key = match key {
                "" => name,
                _ => format!("{key}/{name}"),
            };
            let inside = format!("{key}/");
            if !entry.file_type()?.is_dir() {
                if key.starts_with(self.prefix) {
                    let metadata = entry.metadata()?;
                    let (bytes, modified) = (metadata.len(), metadata.modified()?);
                    found.insert(key, Found::Object { bytes, modified });
                }
            } else if self.grouped && inside.starts_with(self.prefix) {
                // S3 has no folders: an empty one is none.
                if holds_an_object(entry.path())? {
                    found.insert(inside, Found::Folder);
                }
            } else if inside.starts_with(self.prefix) {
                self.walk(entry.path(), &key, found)?;
            }
        }
        Ok(())
    }
}

fn holds_an_object(folder: PathBuf) -> io::Result<bool> {
    for (entry, _) in entries(&folder)? {
        if !entry.file_type()?.is_dir() || holds_an_object(entry.path())? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns what is in a folder, by name; nothing when it is not there.
fn entries(folder: &Path) -> io::Result<Vec<(std::fs::DirEntry, String)>> {
    let listed = match std::fs::read_dir(folder) {
        Ok(listed) => listed,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let named = listed.map(|entry| {
        let entry = entry?;
        // Keys are text, and so is every name here.
        let name = entry.file_name().to_string_lossy().into_owned();
        Ok((entry, name))
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lists page by page; returns keys, folders ending in `/`.
    fn keys(bucket: &Path, prefix: &str, delimiter: Option<&str>, max_keys: i32) -> Vec<String> {
        let (mut keys, mut token) = (Vec::new(), None);
        loop {
            let input = ListObjectsV2Input {
                bucket: "bucket".to_owned(),
                prefix: Some(prefix.to_owned()),
                delimiter: delimiter.map(str::to_owned),
                max_keys: Some(max_keys),
                continuation_token: token,
                ..Default::default()
            };
            let page = list(bucket, input).unwrap();
            keys.extend(
                page.contents
                    .into_iter()
                    .flatten()
                    .filter_map(|object| object.key),
            );
            let folders = page.common_prefixes.into_iter().flatten();
            keys.extend(folders.filter_map(|folder| folder.prefix));
            match page.next_continuation_token {
                Some(next) => token = Some(next),
                None => return keys,
            }
        }
    }

    #[test]
    fn a_listing_is_what_s3_would_say() {
        let bucket = tempfile::tempdir().unwrap();
        for key in ["a/1", "a/2/x", "a/2/y", "a.txt", "ab/z", "b"] {
            let path = bucket.path().join(key);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, key).unwrap();
        }
        std::fs::create_dir_all(bucket.path().join("a/empty")).unwrap();
        let cases: [(&str, Option<&str>, &[&str]); 7] = [
            ("", None, &["a.txt", "a/1", "a/2/x", "a/2/y", "ab/z", "b"]),
            ("a/", None, &["a/1", "a/2/x", "a/2/y"]),
            ("a", None, &["a.txt", "a/1", "a/2/x", "a/2/y", "ab/z"]),
            ("a/2/x", None, &["a/2/x"]),
            ("", Some("/"), &["a.txt", "a/", "ab/", "b"]),
            ("a/", Some("/"), &["a/1", "a/2/"]),
            ("none/at/all", None, &[]),
        ];
        for (prefix, delimiter, expected) in cases {
            for max_keys in [1, 2, 1_000] {
                let mut listed = keys(bucket.path(), prefix, delimiter, max_keys);
                listed.sort();
                assert_eq!(listed, expected, "{prefix:?} {delimiter:?} {max_keys}");
            }
        }
    }
}
