//! Runs the example as a newcomer would, and reads what it printed.

use std::process::Command;

#[test]
fn nodes_that_join_are_led_snapshotted_and_trimmed_by_the_embedded_scheduler() {
    let output = Command::new(env!("CARGO_BIN_EXE_admin-node")).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    let lines: Vec<&str> = stdout.lines().collect();
    let [paused, demanded, first, second, ok] = lines[..] else { panic!("not five lines: {stdout}{stderr}") };
    assert_eq!(paused, "a snapshot now: paused");
    assert!(demanded.starts_with("a snapshot on demand: at "), "{demanded}");
    for (number, line) in [first, second].into_iter().enumerate() {
        let [partition, trim_point, live] = numbers(line)[..] else { panic!("not three numbers: {line}") };
        assert_eq!((partition, live), (number as u64, 3), "{line}");
        assert!(trim_point > 0 && (line.contains("led by a") || line.contains("led by b")), "{line}");
    }
    assert_eq!(ok, "ok");
    // The third one came when the logs no longer had what it needs.
    assert!(stderr.contains("c joined"), "{stderr}");
}

fn numbers(line: &str) -> Vec<u64> {
    line.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect()
}
