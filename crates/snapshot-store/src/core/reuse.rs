//! Which files of a download may be on this disk already.

use crate::format::ManifestFile;
use std::collections::BTreeMap;

/// Names and sizes in bytes of the files in one local folder.
pub type Listing = BTreeMap<String, u64>;

/// Endings of files that RocksDB writes once and never changes. Only these may be shared with another state by a hard
/// link: writing to one name would change the other.
const IMMUTABLE: &[&str] = &[".sst", ".blob"];

/// How many local files are hashed at most in search of one: a size alone says little.
pub const CANDIDATES_MAX: usize = 4;

/// A place where a file may be. Name and size are no proof: whoever takes it hashes it first, from its bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Candidate {
    /// The target folder, under the file's own name.
    Target,
    /// Another folder.
    Source {
        /// Number of the folder among the sources.
        folder: usize,
        /// Name of the file in it.
        name: String,
    },
}

/// What to try before the store is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReusePlan {
    /// For each wanted file where it may be, in the order of trying.
    pub candidates: Vec<Vec<Candidate>>,
    /// Files in the target folder that cannot be part of the result: of no wanted name, or of another size.
    pub unwanted: Vec<String>,
}

/// Decides where each of `wanted` may be found locally: in the `target` folder, where an earlier attempt left it, else
/// as an immutable file of equal size in one of the `sources`, equal names first.
pub fn plan_reuse(wanted: &[ManifestFile], target: &Listing, sources: &[Listing]) -> ReusePlan {
    let sizes: BTreeMap<_, _> = wanted
        .iter()
        .map(|file| (file.name.as_str(), file.bytes))
        .collect();
    let unwanted = target
        .iter()
        .filter(|(name, bytes)| sizes.get(name.as_str()) != Some(bytes))
        .map(|(name, _)| name.clone())
        .collect();
    let by_size = immutable_by_size(sources);
    let candidates = wanted
        .iter()
        .map(|file| candidates(file, target, &by_size))
        .collect();
    ReusePlan { candidates, unwanted }
}

type BySize<'a> = BTreeMap<u64, Vec<(usize, &'a str)>>;

fn immutable_by_size(sources: &[Listing]) -> BySize<'_> {
    let mut by_size = BySize::new();
    for (folder, listing) in sources.iter().enumerate() {
        for (name, bytes) in listing.iter().filter(|(name, _)| is_immutable(name)) {
            by_size.entry(*bytes).or_default().push((folder, name));
        }
    }
    by_size
}

fn candidates(file: &ManifestFile, target: &Listing, by_size: &BySize<'_>) -> Vec<Candidate> {
    let mut found = Vec::new();
    if target.get(&file.name) == Some(&file.bytes) {
        found.push(Candidate::Target);
    }
    let of_size = by_size
        .get(&file.bytes)
        .filter(|_| is_immutable(&file.name))
        .map_or(&[][..], Vec::as_slice);
    let (same, other): (Vec<_>, Vec<_>) = of_size.iter().partition(|(_, name)| *name == file.name);
    let sources = same
        .into_iter()
        .chain(other)
        .map(|(folder, name)| Candidate::Source {
            folder,
            name: name.to_owned(),
        });
    found.extend(sources.take(CANDIDATES_MAX));
    found
}

/// Returns whether a file of this name never changes once it is written.
fn is_immutable(name: &str) -> bool {
    IMMUTABLE.iter().any(|ending| name.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::ContentHash;
    use proptest::prelude::*;

    fn listing(files: &[(&str, u64)]) -> Listing {
        files
            .iter()
            .map(|(name, bytes)| ((*name).to_owned(), *bytes))
            .collect()
    }

    fn wanted(files: &[(&str, u64)]) -> Vec<ManifestFile> {
        let file = |(name, bytes): &(&str, u64)| ManifestFile {
            name: (*name).to_owned(),
            bytes: *bytes,
            hash: ContentHash::of(name.as_bytes()),
            copies: 0,
            unknown: Default::default(),
        };
        files.iter().map(file).collect()
    }

    fn source(folder: usize, name: &str) -> Candidate {
        Candidate::Source {
            folder,
            name: name.to_owned(),
        }
    }

    #[test]
    fn a_complete_file_in_the_target_comes_before_every_source() {
        let plan = plan_reuse(
            &wanted(&[("1.sst", 5)]),
            &listing(&[("1.sst", 5)]),
            &[listing(&[("1.sst", 5)])],
        );
        assert_eq!(plan.candidates, [vec![Candidate::Target, source(0, "1.sst")]]);
        assert_eq!(plan.unwanted, Vec::<String>::new());
    }

    #[test]
    fn what_is_shorter_or_of_no_wanted_name_is_unwanted() {
        let target = listing(&[("1.sst", 4), ("CURRENT", 16), ("9.sst", 5)]);
        let plan = plan_reuse(&wanted(&[("1.sst", 5), ("CURRENT", 16)]), &target, &[]);
        assert_eq!(plan.candidates, [vec![], vec![Candidate::Target]]);
        assert_eq!(plan.unwanted, ["1.sst", "9.sst"]);
    }

    #[test]
    fn files_that_change_are_never_taken_from_a_source() {
        let mutable = [
            ("CURRENT", 5),
            ("MANIFEST-000001", 5),
            ("OPTIONS-000007", 5),
            ("LOG", 5),
            ("000003.log", 5),
        ];
        let plan = plan_reuse(&wanted(&mutable), &Listing::new(), &[listing(&mutable)]);
        assert_eq!(plan.candidates, vec![Vec::<Candidate>::new(); mutable.len()]);
        let as_table = plan_reuse(&wanted(&[("1.sst", 5)]), &Listing::new(), &[listing(&mutable)]);
        assert_eq!(as_table.candidates, [vec![]], "nor under another name");
    }

    #[test]
    fn equal_names_come_first_and_only_equal_sizes_count() {
        let sources = [
            listing(&[("2.sst", 5), ("3.sst", 6)]),
            listing(&[("1.sst", 5), ("4.blob", 7)]),
        ];
        let plan = plan_reuse(
            &wanted(&[("1.sst", 5), ("4.blob", 7), ("5.sst", 8)]),
            &Listing::new(),
            &sources,
        );
        assert_eq!(
            plan.candidates,
            [
                vec![source(1, "1.sst"), source(0, "2.sst")],
                vec![source(1, "4.blob")],
                vec![],
            ]
        );
    }

    #[test]
    fn the_search_for_one_file_is_bounded() {
        let names: Vec<String> = (0..100).map(|n| format!("{n}.sst")).collect();
        let many: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 5)).collect();
        let plan = plan_reuse(&wanted(&[("99.sst", 5)]), &Listing::new(), &[listing(&many)]);
        assert_eq!(plan.candidates[0].len(), CANDIDATES_MAX);
        assert_eq!(plan.candidates[0][0], source(0, "99.sst"));
    }

    fn few_files() -> impl Strategy<Value = Listing> {
        let names = prop::sample::select(&["1.sst", "2.sst", "3.blob", "CURRENT", "MANIFEST-1"]);
        prop::collection::btree_map(names.prop_map(str::to_owned), 0u64..3, 0..6)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

        /// What is tried has the size of what is wanted; nothing mutable comes from another folder; and what stays in the
        /// target is wanted.
        #[test]
        fn nothing_is_tried_or_kept_that_cannot_be_part_of_the_result(
            files in few_files(), target in few_files(), sources in prop::collection::vec(few_files(), 0..4),
        ) {
            let files: Vec<(&str, u64)> = files.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect();
            let files = wanted(&files);
            let plan = plan_reuse(&files, &target, &sources);
            prop_assert_eq!(plan.candidates.len(), files.len());
            for (file, candidates) in files.iter().zip(&plan.candidates) {
                let in_target = target.get(&file.name) == Some(&file.bytes);
                prop_assert_eq!(candidates.first() == Some(&Candidate::Target), in_target);
                let elsewhere = &candidates[usize::from(in_target)..];
                let mut equal_names = true;
                for candidate in elsewhere {
                    let Candidate::Source { folder, name } = candidate else {
                        return Err(TestCaseError::fail("the target is tried first, and once"));
                    };
                    prop_assert_eq!(sources[*folder].get(name), Some(&file.bytes));
                    prop_assert!(is_immutable(name) && is_immutable(&file.name));
                    prop_assert!(equal_names || *name != file.name, "equal names come first");
                    equal_names &= *name == file.name;
                }
                let fits = |name: &str, bytes: u64| is_immutable(name) && bytes == file.bytes;
                let there = sources.iter().flatten().filter(|(name, bytes)| fits(name, **bytes)).count();
                let there = if is_immutable(&file.name) { there.min(CANDIDATES_MAX) } else { 0 };
                prop_assert_eq!(elsewhere.len(), there);
            }
            for (name, bytes) in &target {
                let part = files.iter().any(|file| file.name == *name && file.bytes == *bytes);
                prop_assert_eq!(plan.unwanted.contains(name), !part);
            }
        }
    }
}
