//! The right to work on an item, and how it ends.

use std::time::Duration;

use uuid::Uuid;

use super::kind::{ResourceId, WorkKind};

/// The right to work on one item until it expires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Kind of the item.
    pub kind: WorkKind,
    /// What it is about.
    pub id: ResourceId,
    /// Which replica holds it.
    pub holder: Uuid,
    /// Grows with every claim; every write of a worker names it.
    pub fence: i64,
    /// How many wake-ups had been asked for at the claim.
    pub wanted: i64,
    /// Failures in a row before this one.
    pub attempts: u32,
}

/// What to claim.
#[derive(Debug, Clone)]
pub struct Claim<'a> {
    /// Which kind of work.
    pub kind: WorkKind,
    /// Which replica takes it.
    pub holder: Uuid,
    /// At most so many items.
    pub limit: u32,
    /// How long the lease lasts, by the database's clock.
    pub lease: Duration,
    /// Not these, although they are due.
    pub except: &'a [Uuid],
}

/// How an activation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finish {
    /// Nothing more to do until someone wakes it; looked at again after `resync` anyway.
    Settled {
        /// When to look again unasked.
        resync: Duration,
    },
    /// All well so far; go on after this time.
    After(Duration),
    /// Waits for the world. Not a failure.
    Parked {
        /// Why, for the owner to read.
        reason: String,
        /// When to look again.
        recheck: Duration,
    },
    /// The outside asked us to wait. Does not count as a failure, and forgets none.
    Busy {
        /// What it said.
        error: String,
        /// How long to wait.
        wait: Duration,
    },
    /// Went wrong; counts.
    Failed {
        /// What went wrong.
        error: String,
        /// When to try again.
        backoff: Duration,
    },
    /// Went wrong so often that a person must look; counts, and is parked for all to see.
    Dead {
        /// What went wrong.
        error: String,
        /// When to try again all the same.
        recheck: Duration,
    },
    /// The resource is no more, and its item with it.
    Gone,
}

/// What became of a [`finish`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    /// Recorded, and due after this time.
    DueIn(Duration),
    /// Recorded, and due at once: somebody woke the item meanwhile.
    DueAgain,
    /// There is no such item any more.
    Gone,
    /// Somebody else holds the item. Nothing was written.
    LeaseLost,
}
