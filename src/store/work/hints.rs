//! Wake-up hints: they make work start sooner, and may be lost.

use sqlx::postgres::{PgListener, PgPoolOptions};

use super::WAKE_CHANNEL;
use super::kind::WorkKind;
use crate::store::{Store, StoreError};

/// Somebody woke work, or may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    /// Work of this kind is due.
    Woken(WorkKind),
    /// The connection was lost for a while: look at everything.
    MaybeMissed,
}

/// Listens for wake-ups of all kinds.
#[derive(Debug)]
pub struct Hints {
    listener: PgListener,
}

impl Hints {
    /// Begins to listen, on a connection of its own: one from the pool would be missing there
    /// for ever. Look at the work once after this, not before.
    pub async fn listen(store: &Store) -> Result<Self, StoreError> {
        let options = store.pool().connect_options();
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_with((*options).clone())
            .await?;
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.listen(WAKE_CHANNEL).await?;
        Ok(Self { listener })
    }

    /// Waits for the next hint.
    pub async fn next(&mut self) -> Result<Hint, StoreError> {
        loop {
            match self.listener.try_recv().await? {
                None => return Ok(Hint::MaybeMissed),
                Some(hint) => {
                    // A newer replica may know kinds that we do not.
                    if let Ok(kind) = hint.payload().parse() {
                        return Ok(Hint::Woken(kind));
                    }
                }
            }
        }
    }
}
