//! Runs the example as a newcomer would, and reads what it printed.

use std::process::Command;

#[test]
fn the_sum_stays_constant_over_trims_and_the_loss_of_a_disk() {
    let output = Command::new(env!("CARGO_BIN_EXE_ledger")).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    assert_eq!(stdout.lines().last(), Some("ok"), "{stdout}{stderr}");
    // Roles and states were watched: each branch was led, and restored.
    for branch in 0..2 {
        for seen in ["leader and active", "follower and restoring"] {
            let seen = format!("branch {branch} is {seen}");
            assert!(stderr.contains(&seen), "{seen} is not in\n{stderr}");
        }
    }
    let results: Vec<Vec<u64>> = stdout.lines().filter(|line| line.contains("the sum is")).map(numbers).collect();
    assert_eq!(results.len(), 2, "{stdout}{stderr}");
    for result in results {
        let [_, trim_point, restored, last, sum] = result[..] else { panic!("not five numbers: {result:?}") };
        assert!(0 < trim_point && trim_point <= restored && restored < last, "{result:?}");
        assert_eq!(sum, 2000);
    }
}

fn numbers(line: &str) -> Vec<u64> {
    line.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect()
}
