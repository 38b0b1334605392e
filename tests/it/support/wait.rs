//! Waiting for something real: a process, a socket, a driver that runs by itself.

use std::time::{Duration, Instant};

/// Far more than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);
const INTERVAL: Duration = Duration::from_millis(10);

/// Asks until there is an answer, and panics with `what` if there is none for long.
pub async fn wait_for<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(answer) = condition().await {
            return answer;
        }
        assert!(since.elapsed() < LIMIT, "waited {LIMIT:?} for {what}");
        tokio::time::sleep(INTERVAL).await;
    }
}
