//! The least that a store must permit, in the words of each cloud.

use serde_json::{Value, json};
use snapshot_store::{Repository, StoreKind};

/// What is to be used of the store beyond reading and publishing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Features {
    /// The admin deletes what left retention.
    pub(super) prune: bool,
}

/// A policy and what to do with it.
pub(super) struct Permissions {
    pub(super) about: &'static str,
    pub(super) document: Value,
}

impl Permissions {
    /// Returns the policy for the kind of store; `None` where the file system or the process decides.
    pub(super) fn needed(repository: &Repository, features: Features) -> Option<Self> {
        let (bucket, prefix) = place(repository.url());
        match repository.kind() {
            StoreKind::S3 => Some(s3(bucket, prefix, features)),
            StoreKind::Azure => Some(azure(features)),
            StoreKind::Gcs => Some(gcs()),
            StoreKind::File | StoreKind::Memory | StoreKind::Custom => None,
        }
    }
}

/// Splits `scheme://bucket/prefix`.
fn place(url: &str) -> (&str, &str) {
    let place = url.split_once("://").map_or(url, |(_, place)| place);
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    (bucket, prefix.trim_matches('/'))
}

fn s3(bucket: &str, prefix: &str, features: Features) -> Permissions {
    let below = if prefix.is_empty() {
        String::new()
    } else {
        format!("{prefix}/")
    };
    let objects = format!("arn:aws:s3:::{bucket}/{below}*");
    // The probe of the capability check is removed in either case.
    let deletable = match features.prune {
        true => objects.clone(),
        false => format!("arn:aws:s3:::{bucket}/{below}admin/probe/*"),
    };
    Permissions {
        about: "The least that nodes need, as an IAM policy for their role (nodes that only read need no PutObject):",
        document: json!({
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Sid": "ReadAndPublish",
                    "Effect": "Allow",
                    "Action": ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"],
                    "Resource": objects,
                },
                {
                    "Sid": "List",
                    "Effect": "Allow",
                    "Action": "s3:ListBucket",
                    "Resource": format!("arn:aws:s3:::{bucket}"),
                    "Condition": { "StringLike": { "s3:prefix": format!("{below}*") } },
                },
                {
                    "Sid": if features.prune { "Prune" } else { "RemoveProbes" },
                    "Effect": "Allow",
                    "Action": "s3:DeleteObject",
                    "Resource": deletable,
                },
            ],
        }),
    }
}

fn azure(features: Features) -> Permissions {
    let blobs = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs";
    let mut actions = vec![
        format!("{blobs}/read"),
        format!("{blobs}/write"),
        format!("{blobs}/add/action"),
    ];
    if features.prune {
        actions.push(format!("{blobs}/delete"));
    }
    Permissions {
        about: "The least that nodes need, as a custom role to be assigned on the container:",
        document: json!({
            "Name": "Tidemark node",
            "IsCustom": true,
            "Description": "Reads and publishes snapshots.",
            "Actions": [],
            "DataActions": actions,
            "AssignableScopes": ["/subscriptions/SUBSCRIPTION"],
        }),
    }
}

fn gcs() -> Permissions {
    Permissions {
        about: "The least that nodes need, as a custom role to be granted on the bucket. Replacing an object counts as deleting it \
                there, so publishing needs storage.objects.delete with and without `prune`:",
        document: json!({
            "title": "Tidemark node",
            "description": "Reads and publishes snapshots.",
            "stage": "GA",
            "includedPermissions": [
                "storage.objects.get",
                "storage.objects.list",
                "storage.objects.create",
                "storage.objects.delete",
                "storage.multipartUploads.create",
                "storage.multipartUploads.abort",
                "storage.multipartUploads.listParts",
            ],
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_prune_only_probes_may_be_deleted() {
        let delete = |prune| s3("b", "p/q", Features { prune }).document["Statement"][2]["Resource"].clone();
        assert_eq!(delete(false), "arn:aws:s3:::b/p/q/admin/probe/*");
        assert_eq!(delete(true), "arn:aws:s3:::b/p/q/*");
        let deletes = |prune| {
            azure(Features { prune }).document["DataActions"]
                .to_string()
                .contains("delete")
        };
        assert!(!deletes(false) && deletes(true));
    }

    #[test]
    fn a_place_is_bucket_and_prefix() {
        assert_eq!(place("s3://b/p/q/"), ("b", "p/q"));
        assert_eq!(place("az://c"), ("c", ""));
    }
}
