//! Where a test may kill or freeze a worker.
//!
//! Every step of every reconciler passes three points: before its call outside, after it, and
//! before its result is recorded. In production nothing happens there. A test installs a hook
//! that crashes (the driver then does nothing more with the item, as after `kill -9`) or freezes
//! (waits, like a process that was stopped while its lease ran out).

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use futures::future::BoxFuture;

/// A moment in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Point {
    /// The intent is recorded, the call is not made.
    BeforeCall,
    /// The call is answered, we have not looked at the answer.
    AfterCall,
    /// The answer is understood, and not recorded.
    BeforeRecord,
}

impl Point {
    /// Every point, in order.
    pub const ALL: [Self; 3] = [Self::BeforeCall, Self::AfterCall, Self::BeforeRecord];
}

/// A test killed the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("killed by a test")]
pub struct Crashed;

type Hook = dyn Fn(&'static str, Point) -> BoxFuture<'static, Result<(), Crashed>> + Send + Sync;

/// The points. Cheap to clone.
#[derive(Clone, Default)]
pub struct CrashPoints {
    hook: Option<Arc<Hook>>,
}

impl fmt::Debug for CrashPoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CrashPoints").field("armed", &self.hook.is_some()).finish()
    }
}

impl CrashPoints {
    /// Points at which nothing happens.
    pub fn none() -> Self {
        Self::default()
    }

    /// Points that ask `hook`, which may fail (crash) or wait (freeze).
    pub fn with<F, Fut>(hook: F) -> Self
    where
        F: Fn(&'static str, Point) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Crashed>> + Send + 'static,
    {
        Self { hook: Some(Arc::new(move |step, point| Box::pin(hook(step, point)))) }
    }

    /// Passes `point` of `step`.
    pub async fn at(&self, step: &'static str, point: Point) -> Result<(), Crashed> {
        match &self.hook {
            Some(hook) => hook(step, point).await,
            None => Ok(()),
        }
    }
}
