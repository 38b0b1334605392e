//! The watch: it wakes the work item when somebody changed an object, and says nothing else.
//!
//! Each replica follows the objects by itself; a second wake-up is no second piece of work. A
//! watch that ends, is refused with 410, or whose API server went away begins anew from a fresh
//! list, and wakes the item: whatever happened meanwhile is found by the next activation.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::clock::{SharedClock, SharedIds};
use crate::domain::ids::InstallId;
use crate::kubernetes::ManagementClient;
use crate::kubernetes::management::Seen;
use crate::store::Store;
use crate::store::work::{self, WorkKind};
use crate::worker::activation::jitter;

/// First wait after a watch that did not come about; doubles up to the longest.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What following needs.
#[derive(Debug, Clone)]
pub struct Follower {
    /// The management cluster.
    pub client: ManagementClient,
    /// Where the item is woken.
    pub store: Store,
    /// Now, and jitter.
    pub clock: SharedClock,
    /// Jitter.
    pub ids: SharedIds,
    /// The item is the installation's.
    pub install: InstallId,
}

/// Follows the objects until `stop`.
pub async fn follow(follower: Follower, stop: CancellationToken) {
    let _stopped = stop.run_until_cancelled(follower.run()).await;
}

impl Follower {
    async fn run(&self) {
        let mut wait = FIRST_WAIT;
        loop {
            let began = self.clock.now();
            self.wake().await;
            if let Err(error) = self.watch().await {
                tracing::debug!(%error, "no watch on the management cluster; its objects are listed");
            }
            // One that lasted is no failure.
            let lasted = self.clock.now().duration_since(began);
            let is_good = lasted.unsigned_abs() > LONGEST_WAIT;
            wait = if is_good { FIRST_WAIT } else { (wait * 2).min(LONGEST_WAIT) };
            tokio::time::sleep(jitter(wait, self.ids.fraction())).await;
        }
    }

    /// Watches until the watch is refused; each wish that it tells of wakes the item.
    async fn watch(&self) -> Result<(), crate::domain::outside::OutsideError> {
        let mut revision = self.client.revision().await?;
        let mut known: BTreeMap<String, (i64, bool)> = BTreeMap::new();
        let (told, mut hints) = mpsc::unbounded_channel::<Seen>();
        let waking = async {
            while let Some(seen) = hints.recv().await {
                // Our own reports are changes too; a new generation or a deletion is a wish.
                let new = (seen.generation, seen.is_leaving);
                if known.insert(seen.uid, new) != Some(new) {
                    self.wake().await;
                }
            }
        };
        let watching = async {
            loop {
                let tell = |seen| drop(told.send(seen));
                match self.client.watch(revision, tell).await {
                    Ok(next) => revision = next,
                    Err(error) => return error,
                }
            }
        };
        tokio::select! {
            error = watching => Err(error),
            () = waking => Ok(()),
        }
    }

    async fn wake(&self) {
        let woken = async {
            let mut tx = self.store.begin().await?;
            work::wake(&mut tx, WorkKind::Management, self.install, self.clock.now()).await?;
            tx.commit().await.map_err(crate::store::StoreError::from)
        };
        if let Err(error) = woken.await {
            tracing::debug!(%error, "the management cluster's objects are looked at later");
        }
    }
}
