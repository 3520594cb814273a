//! Waiting for a condition, with a deadline.

use super::ClusterError;
use std::time::Duration;
use tokio::time::Instant;

/// Time between two looks at a condition.
const INTERVAL: Duration = Duration::from_millis(100);

/// Asks `probe` again and again until it returns `Ok`; what it returns as `Err` says how things stand.
///
/// # Errors
/// [`ClusterError::Timeout`] with the last answer, when `within` has passed. A probe that hangs counts as well.
pub async fn wait_for<T>(
    what: &str,
    within: Duration,
    mut probe: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T, ClusterError> {
    let deadline = Instant::now() + within;
    let mut seen = "nothing yet".to_owned();
    while Instant::now() < deadline {
        match tokio::time::timeout_at(deadline, probe()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(state)) => seen = state,
            Err(_) => break,
        }
        tokio::time::sleep_until(deadline.min(Instant::now() + INTERVAL)).await;
    }
    Err(ClusterError::Timeout {
        what: what.to_owned(),
        within,
        seen,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_condition_that_never_holds_ends_with_what_was_last_seen() {
        let mut looks = 0;
        let error = wait_for("rain", Duration::from_secs(1), async || {
            looks += 1;
            Err::<(), _>(format!("look {looks}"))
        })
        .await
        .unwrap_err();
        assert!(
            matches!(&error, ClusterError::Timeout { seen, .. } if seen == "look 10"),
            "{error}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_hangs_does_not_outlive_the_deadline() {
        let error = wait_for("rain", Duration::from_secs(1), async || {
            std::future::pending::<Result<(), String>>().await
        })
        .await
        .unwrap_err();
        assert!(matches!(error, ClusterError::Timeout { .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_condition_that_comes_true_is_returned() {
        let mut looks = 0;
        let answer = wait_for("rain", Duration::from_secs(1), async || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err(String::new()) }
        })
        .await;
        assert_eq!(answer.unwrap(), 3);
    }
}
