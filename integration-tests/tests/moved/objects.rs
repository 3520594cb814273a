//! All objects of a repository by their hashes.

use crate::Place;
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, local::LocalFileSystem, path::Path};
use std::{collections::BTreeMap, sync::Arc};
use url::Url;

/// Returns key and BLAKE3 hash of every object. The control state is another one after a move, since the source is sealed;
/// pointers and certificates have a write id of their own, and are otherwise the same.
pub(crate) async fn objects(place: &Place) -> BTreeMap<String, String> {
    let url = Url::parse(&place.url).unwrap();
    let (store, base): (Arc<dyn ObjectStore>, Path) = match url.scheme() {
        "file" => {
            let folder = url.to_file_path().unwrap();
            let store = LocalFileSystem::new_with_prefix(folder).unwrap();
            (Arc::new(store), Path::default())
        }
        _ => {
            let (store, base) = object_store::parse_url_opts(&url, place.options.clone()).unwrap();
            (store.into(), base)
        }
    };
    let listed: Vec<_> = store.list(Some(&base)).try_collect().await.unwrap();
    let mut found = BTreeMap::new();
    for location in listed.into_iter().map(|meta| meta.location) {
        let key = location.as_ref().strip_prefix(base.as_ref()).unwrap();
        let key = key.trim_start_matches('/').to_owned();
        // The lock file of a folder is no object.
        if key.starts_with('.') || key == "admin/control.json" || key == "admin/lease.json" {
            continue;
        }
        let bytes = store.get(&location).await.unwrap().bytes().await.unwrap();
        let bytes = match key.ends_with("/latest.json") || key.ends_with("/trim.json") {
            true => without_write_id(&bytes),
            false => bytes.to_vec(),
        };
        found.insert(key, blake3::hash(&bytes).to_hex().to_string());
    }
    found
}

fn without_write_id(bytes: &[u8]) -> Vec<u8> {
    let mut document: serde_json::Value = serde_json::from_slice(bytes).unwrap();
    let removed = document.as_object_mut().unwrap().remove("write_id");
    assert!(removed.is_some(), "every version has one");
    serde_json::to_vec(&document).unwrap()
}
