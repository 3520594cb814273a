//! Runs the example as a newcomer would, and reads what it printed.

use std::process::Command;

#[test]
fn the_service_is_trimmed_and_a_node_without_a_disk_comes_back_equal() {
    let output = Command::new(env!("CARGO_BIN_EXE_existing-service")).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{stdout}{stderr}");
    assert_eq!(lines[2], "ok");
    for line in &lines[..2] {
        let numbers = numbers(line);
        let [_, trim_point, restored, last] = numbers[..] else { panic!("not four numbers: {line}") };
        assert!(0 < trim_point && trim_point <= restored && restored < last, "{line}");
    }
}

fn numbers(line: &str) -> Vec<u64> {
    line.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect()
}
