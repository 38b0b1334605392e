//! Waits until something is as it should be. Only watches: the work goes on by itself.

use std::future::Future;
use std::time::{Duration, Instant};

use super::Failure;
use super::failure::Exit;
use super::output::note;
use crate::domain::duration::HumanDuration;

/// First pause between two looks; a simulation is ready before a second is over.
const FIRST: Duration = Duration::from_millis(200);
/// Longest pause: nobody minds two seconds in an hour.
const LONGEST: Duration = Duration::from_secs(2);

/// Whether and how long to wait.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Wait {
    /// Wait until it is done.
    #[arg(long)]
    pub(super) wait: bool,
    /// How long to wait at most; then exit with 3, and the work goes on.
    #[arg(long, value_name = "DURATION", default_value = "30m")]
    pub(super) timeout: HumanDuration,
}

/// What a look has shown.
pub(super) enum Look<T> {
    /// It is as it should be.
    Done(T),
    /// Not yet; this is where it is.
    NotYet(String),
}

/// Looks until it is done. Says where it is whenever that changes. The API may be away for a
/// while: a restart is no reason to give up.
pub(super) async fn until<T, F, Fut>(
    timeout: HumanDuration,
    what: &str,
    mut look: F,
) -> Result<T, Failure>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Look<T>, Failure>>,
{
    let (since, mut pause, mut said) = (Instant::now(), FIRST, String::new());
    loop {
        let now = match look().await {
            Ok(Look::Done(value)) => return Ok(value),
            Ok(Look::NotYet(now)) => now,
            Err(failure) if failure.exit() == Exit::Ours => failure.to_string().trim_end().into(),
            Err(failure) => return Err(failure),
        };
        if now != said {
            note(&format!("{what}: {now}"));
            said = now;
        }
        if since.elapsed() + pause > timeout.0 {
            return Err(Failure::timeout(format!("{what} is not done after {timeout}: {said}"))
                .with_hint("the work goes on; look again later, or wait with a longer --timeout"));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(LONGEST);
    }
}
