//! A small file system of its own for a test. The test runs again in a child process that has its own mount namespace, in
//! which a tmpfs is mounted; both end with it.

use std::{
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

const DIR: &str = "TIDEMARK_TEST_SMALL_DISK";

/// Returns the folder of an empty file system of `mib` MiB, in the child process. In the first process it runs the test
/// named `test` in such a child, passes its failure on, and returns `None`.
///
/// # Errors
/// With what to do, where no file system can be mounted.
///
/// # Panics
/// When the child fails.
pub(super) fn inside(test: &str, mib: u32) -> Result<Option<PathBuf>, String> {
    let mount = |dir: &Path| {
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(dir);
        mount
    };
    if let Some(dir) = env::var_os(DIR) {
        let dir = PathBuf::from(dir);
        succeeded(&mount(&dir).output().unwrap());
        return Ok(Some(dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let namespace = namespace(&mount(dir.path()))?;
    let output = Command::new("unshare")
        .arg(namespace)
        .arg(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(DIR, dir.path())
        // What it says is to be read while it runs.
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    succeeded(&output);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("1 passed"), "there is no test {test}:\n{said}");
    Ok(None)
}

/// Returns the option of `unshare` with which this user can mount something.
fn namespace(mount: &Command) -> Result<&'static str, String> {
    let mut refusals = String::new();
    for option in ["-m", "-rm"] {
        let tried = Command::new("unshare")
            .arg(option)
            .arg(mount.get_program())
            .args(mount.get_args())
            .output()
            .unwrap();
        if tried.status.success() {
            return Ok(option);
        }
        refusals += &String::from_utf8_lossy(&tried.stderr);
    }
    Err(format!(
        "this test needs a small file system of its own, and none can be mounted: run it as root or with user namespaces \
         (sysctl kernel.unprivileged_userns_clone=1), in a container with the capability SYS_ADMIN\n{refusals}"
    ))
}

fn succeeded(output: &Output) {
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A file that takes up room.
pub(super) struct Filler(PathBuf);

impl Filler {
    /// Fills the file system of `dir` until about `left` bytes are free.
    pub(super) fn leaving(dir: &Path, left: usize) -> Self {
        let filler = Filler(dir.join("filler"));
        let mut file = fs::File::create(&filler.0).unwrap();
        while file.write_all(&[7; 4096]).is_ok() {}
        let full = file.metadata().unwrap().len();
        file.set_len(full.saturating_sub(left as u64)).unwrap();
        filler
    }

    /// Gives the room back.
    pub(super) fn remove(self) {
        fs::remove_file(self.0).unwrap();
    }
}
