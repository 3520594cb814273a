//! Ratios of interleaved pairs: their median and their spread.

use tokio::time::Instant;

/// Runs two things in turn, the one first in even pairs and the other in odd ones, and prints how many times as long as
/// the other the first one takes.
pub(super) async fn pairs(
    what: &str,
    count: usize,
    mut ours: impl AsyncFnMut(usize) -> f64,
    mut theirs: impl AsyncFnMut(usize) -> f64,
) {
    let mut ratios = Vec::new();
    for pair in 0..count {
        let (mine, other) = if pair.is_multiple_of(2) {
            let mine = ours(pair).await;
            (mine, theirs(pair).await)
        } else {
            let other = theirs(pair).await;
            (ours(pair).await, other)
        };
        println!(
            "{what} {pair}: {mine:.4} against {other:.4}, ratio {:.3}",
            mine / other
        );
        ratios.push(mine / other);
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "{what}: median ratio {:.3} of {count} pairs, from {:.3} to {:.3}",
        ratios[ratios.len() / 2],
        ratios[0],
        ratios[ratios.len() - 1]
    );
}

/// Returns the seconds that `work` takes.
pub(super) async fn seconds(work: impl AsyncFnOnce()) -> f64 {
    let began = Instant::now();
    work().await;
    began.elapsed().as_secs_f64()
}
