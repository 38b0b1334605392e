//! Work items: leases, fences, and wake-ups that are never lost.

use std::time::Duration;

use jiff::SignedDuration;
use uuid::Uuid;
use zcp::store::page::PageRequest;
use zcp::store::work::{
    self, Claim, Finish, Finished, Lease, ResourceId, WorkFilter, WorkKind, WorkState,
};
use zcp::store::{Fenced, Store, StoreError};

use crate::support::{Result, TestDb};

const LEASE: Duration = Duration::from_mins(1);
const KIND: WorkKind = WorkKind::Cluster;

fn id(n: u128) -> ResourceId {
    ResourceId(Uuid::from_u128(n))
}

async fn wake(db: &TestDb, n: u128) -> Result {
    let mut tx = db.store.begin().await?;
    work::wake(&mut tx, KIND, id(n), db.now()).await?;
    tx.commit().await?;
    Ok(())
}

fn request(holder: u128, limit: u32) -> Claim<'static> {
    let holder = Uuid::from_u128(holder);
    Claim { kind: KIND, holder, limit, lease: LEASE, except: &[] }
}

async fn claim(db: &TestDb, limit: u32) -> Result<Vec<Lease>> {
    Ok(work::claim(&db.store, request(1, limit), db.now()).await?)
}

async fn claim_one(db: &TestDb) -> Result<Lease> {
    claim(db, 1).await?.pop().ok_or_else(|| "nothing is due".into())
}

async fn finish(db: &TestDb, lease: &Lease, end: Finish) -> Result<Finished> {
    Ok(work::finish(&db.store, lease, end, db.now()).await?)
}

fn later(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test]
async fn waking_twice_is_one_piece_of_work() -> Result {
    let db = TestDb::new().await;
    wake(&db, 1).await?;
    wake(&db, 1).await?;
    let leases = claim(&db, 10).await?;
    assert_eq!(leases.len(), 1);
    assert_eq!((leases[0].wanted, leases[0].fence, leases[0].attempts), (2, 1, 0));
    assert!(claim(&db, 10).await?.is_empty(), "a leased item is nobody else's");
    Ok(())
}

#[tokio::test]
async fn settled_work_is_due_again_after_its_resync() -> Result {
    let db = TestDb::new().await;
    wake(&db, 1).await?;
    let lease = claim_one(&db).await?;
    let end = Finish::Settled { resync: later(300) };
    assert_eq!(finish(&db, &lease, end).await?, Finished::DueIn(later(300)));
    db.clock.advance(SignedDuration::from_secs(299));
    assert!(claim(&db, 1).await?.is_empty());
    db.clock.advance(SignedDuration::from_secs(1));
    assert_eq!(claim_one(&db).await?.fence, 2);
    Ok(())
}

#[tokio::test]
async fn a_wake_up_during_work_is_not_lost() -> Result {
    let db = TestDb::new().await;
    wake(&db, 1).await?;
    let lease = claim_one(&db).await?;
    wake(&db, 1).await?;
    let end = Finish::Parked { reason: "Waits: for rain".into(), recheck: later(300) };
    assert_eq!(finish(&db, &lease, end).await?, Finished::DueAgain);
    let item = work::find(db.store.pool(), KIND, id(1), db.now()).await?.unwrap();
    assert_eq!((item.state, item.parked_reason, item.seen), (WorkState::Due, None, 1));
    assert_eq!(claim_one(&db).await?.wanted, 2);
    Ok(())
}

#[tokio::test]
async fn waking_for_later_never_postpones() -> Result {
    let db = TestDb::new().await;
    let mut tx = db.store.begin().await?;
    work::wake_at(&mut tx, KIND, id(1), db.now() + SignedDuration::from_mins(1)).await?;
    work::wake_at(&mut tx, KIND, id(1), db.now() + SignedDuration::from_secs(90)).await?;
    tx.commit().await?;
    assert!(claim(&db, 1).await?.is_empty());
    db.clock.advance(SignedDuration::from_mins(1));
    let lease = claim_one(&db).await?;
    let mut tx = db.store.begin().await?;
    work::wake_at(&mut tx, KIND, id(1), db.now() + SignedDuration::from_secs(5)).await?;
    tx.commit().await?;
    let end = Finish::After(later(3600));
    assert_eq!(finish(&db, &lease, end).await?, Finished::DueAgain);
    Ok(())
}

#[tokio::test]
async fn a_rolled_back_wake_up_wakes_nobody() -> Result {
    let db = TestDb::new().await;
    let mut tx = db.store.begin().await?;
    work::wake(&mut tx, KIND, id(1), db.now()).await?;
    tx.rollback().await?;
    assert!(claim(&db, 1).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn f82_many_replicas_never_claim_the_same_item() -> Result {
    let db = TestDb::new().await;
    let ids: Vec<ResourceId> = (1..=200).map(id).collect();
    let mut tx = db.store.begin().await?;
    work::wake_all(&mut tx, KIND, &ids, db.now()).await?;
    tx.commit().await?;
    let take_all = |holder: u128, store: Store, now| async move {
        let mut taken = Vec::new();
        loop {
            let leases = work::claim(&store, request(holder, 7), now).await?;
            if leases.is_empty() {
                return Ok::<_, StoreError>(taken);
            }
            taken.extend(leases.into_iter().map(|lease| lease.id));
        }
    };
    let replicas = (1..=4).map(|n| take_all(n, db.store.clone(), db.now()));
    let taken = futures::future::try_join_all(replicas).await?;
    let mut all: Vec<ResourceId> = taken.into_iter().flatten().collect();
    all.sort();
    // A claim may find nothing because the others hold all locks; what is left is taken here.
    all.extend(take_all(9, db.store.clone(), db.now()).await?);
    all.sort();
    assert_eq!(all, ids);
    Ok(())
}

#[tokio::test]
async fn a_stale_lease_writes_nothing() -> Result {
    let db = TestDb::new().await;
    wake(&db, 1).await?;
    let stale = claim_one(&db).await?;
    db.expire_lease(KIND, id(1)).await;
    assert!(matches!(Fenced::begin(&db.store, &stale).await, Err(StoreError::LeaseLost)));
    let fresh = work::claim(&db.store, request(2, 1), db.now()).await?.pop().unwrap();
    assert_eq!(fresh.fence, stale.fence + 1);
    assert!(matches!(Fenced::begin(&db.store, &stale).await, Err(StoreError::LeaseLost)));
    assert!(matches!(work::renew(&db.store, &stale, LEASE).await, Err(StoreError::LeaseLost)));
    assert!(matches!(work::check(&db.store, &stale).await, Err(StoreError::LeaseLost)));
    let end = Finish::Failed { error: "late".into(), backoff: later(1) };
    assert_eq!(finish(&db, &stale, end).await?, Finished::LeaseLost);
    assert_eq!(finish(&db, &stale, Finish::Gone).await?, Finished::LeaseLost);
    work::release(&db.store, &stale).await?;
    work::check(&db.store, &fresh).await?;
    Fenced::begin(&db.store, &fresh).await?.commit().await?;
    Ok(())
}

#[tokio::test]
async fn nobody_takes_an_item_over_inside_a_fenced_transaction() -> Result {
    let db = TestDb::new().await;
    wake(&db, 1).await?;
    let lease = claim_one(&db).await?;
    let mut fenced = Fenced::begin(&db.store, &lease).await?;
    // The lease ends while the transaction is open: only a change of the row can show that here,
    // and the row is locked, so the change is made inside.
    sqlx::query("UPDATE work_items SET expires_at = clock_timestamp() - interval '1 second'")
        .execute(&mut **fenced)
        .await?;
    assert!(work::claim(&db.store, request(2, 1), db.now()).await?.is_empty());
    fenced.commit().await?;
    assert_eq!(work::claim(&db.store, request(2, 1), db.now()).await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_renewed_lease_lasts() -> Result {
    let db = TestDb::new().await;
    wake(&db, 1).await?;
    let claim = Claim { lease: Duration::from_millis(500), ..request(1, 1) };
    let lease = work::claim(&db.store, claim, db.now()).await?.pop().unwrap();
    work::renew(&db.store, &lease, LEASE).await?;
    let item = work::find(db.store.pool(), KIND, id(1), db.now()).await?.unwrap();
    let (left,): (f64,) = sqlx::query_as(
        "SELECT extract(epoch FROM expires_at - clock_timestamp())::float8 FROM work_items",
    )
    .fetch_one(db.store.pool())
    .await?;
    assert!((30.0..=60.0).contains(&left), "{left} s are left");
    assert_eq!(item.state, WorkState::Leased);
    Ok(())
}

#[tokio::test]
async fn failures_count_and_success_forgets_them() -> Result {
    let db = TestDb::new().await;
    wake(&db, 1).await?;
    for n in 0..3 {
        let lease = claim_one(&db).await?;
        assert_eq!(lease.attempts, n);
        let end = Finish::Failed { error: "no".into(), backoff: later(5) };
        finish(&db, &lease, end).await?;
        assert!(claim(&db, 1).await?.is_empty(), "it backs off");
        db.clock.advance(SignedDuration::from_secs(5));
    }
    let busy = Finish::Busy { error: "slow down".into(), wait: later(5) };
    finish(&db, &claim_one(&db).await?, busy).await?;
    db.clock.advance(SignedDuration::from_secs(5));
    let lease = claim_one(&db).await?;
    assert_eq!(lease.attempts, 3, "being told to wait neither counts nor forgets");
    let item = work::find(db.store.pool(), KIND, id(1), db.now()).await?.unwrap();
    assert_eq!((item.seen, item.last_error.as_deref()), (0, Some("slow down")));
    finish(&db, &lease, Finish::After(later(5))).await?;
    let item = work::find(db.store.pool(), KIND, id(1), db.now()).await?.unwrap();
    assert_eq!((item.attempts, item.last_error, item.seen), (0, None, 1));
    Ok(())
}

#[tokio::test]
async fn parked_work_says_why_and_since_when_and_a_wake_up_frees_it() -> Result {
    let db = TestDb::new().await;
    wake(&db, 1).await?;
    let since = db.now();
    for _ in 0..2 {
        let lease = claim_one(&db).await?;
        let end = Finish::Parked { reason: "Capacity: full".into(), recheck: later(300) };
        finish(&db, &lease, end).await?;
        db.clock.advance(SignedDuration::from_secs(300));
    }
    db.clock.advance(SignedDuration::from_secs(-1));
    let item = work::find(db.store.pool(), KIND, id(1), db.now()).await?.unwrap();
    assert_eq!(item.state, WorkState::Parked);
    assert_eq!(item.parked_reason.as_deref(), Some("Capacity: full"));
    assert_eq!(item.parked_at, Some(since), "parked again is parked since the first time");
    wake(&db, 1).await?;
    let item = work::find(db.store.pool(), KIND, id(1), db.now()).await?.unwrap();
    assert_eq!((item.state, item.parked_reason, item.parked_at), (WorkState::Due, None, None));
    Ok(())
}

#[tokio::test]
async fn a_retry_forgets_back_off_even_while_the_item_is_worked_on() -> Result {
    let db = TestDb::new().await;
    wake(&db, 1).await?;
    let fail = || Finish::Failed { error: "no".into(), backoff: later(300) };
    finish(&db, &claim_one(&db).await?, fail()).await?;
    let mut tx = db.store.begin().await?;
    let item = work::retry(&mut tx, KIND, id(1), db.now()).await?.unwrap();
    assert!(work::retry(&mut tx, KIND, id(2), db.now()).await?.is_none());
    tx.commit().await?;
    assert_eq!((item.state, item.attempts, item.last_error), (WorkState::Due, 0, None));

    let lease = claim_one(&db).await?;
    let mut tx = db.store.begin().await?;
    work::retry(&mut tx, KIND, id(1), db.now()).await?;
    tx.commit().await?;
    assert_eq!(finish(&db, &lease, fail()).await?, Finished::DueAgain);
    assert_eq!(claim_one(&db).await?.attempts, 1);
    Ok(())
}

#[tokio::test]
async fn released_and_expired_work_is_due_for_others() -> Result {
    let db = TestDb::new().await;
    wake(&db, 1).await?;
    let lease = claim_one(&db).await?;
    work::release(&db.store, &lease).await?;
    assert_eq!(claim_one(&db).await?.fence, 2);
    db.expire_all_leases().await;
    assert_eq!(claim_one(&db).await?.fence, 3);
    Ok(())
}

#[tokio::test]
async fn paused_work_is_left_alone() -> Result {
    let db = TestDb::new().await;
    wake(&db, 1).await?;
    let mut tx = db.store.begin().await?;
    work::pause(&mut tx, KIND, id(1)).await?;
    tx.commit().await?;
    wake(&db, 1).await?;
    assert!(claim(&db, 1).await?.is_empty());
    let mut tx = db.store.begin().await?;
    work::resume(&mut tx, KIND, id(1)).await?;
    tx.commit().await?;
    assert_eq!(claim_one(&db).await?.wanted, 2);
    Ok(())
}

#[tokio::test]
async fn gone_work_goes_unless_it_was_woken_meanwhile() -> Result {
    let db = TestDb::new().await;
    wake(&db, 1).await?;
    let lease = claim_one(&db).await?;
    wake(&db, 1).await?;
    assert_eq!(finish(&db, &lease, Finish::Gone).await?, Finished::DueAgain);
    let lease = claim_one(&db).await?;
    assert_eq!(finish(&db, &lease, Finish::Gone).await?, Finished::Gone);
    assert_eq!(finish(&db, &lease, Finish::After(later(1))).await?, Finished::Gone);
    assert!(work::find(db.store.pool(), KIND, id(1), db.now()).await?.is_none());
    Ok(())
}

#[tokio::test]
async fn a_claim_leaves_out_what_it_is_told_to() -> Result {
    let db = TestDb::new().await;
    wake(&db, 1).await?;
    wake(&db, 2).await?;
    let except = [id(1).0];
    let claim = Claim { except: &except, ..request(1, 10) };
    let leases = work::claim(&db.store, claim, db.now()).await?;
    assert_eq!(leases.iter().map(|lease| lease.id).collect::<Vec<_>>(), [id(2)]);
    Ok(())
}

#[tokio::test]
async fn work_is_listed_by_state_page_by_page() -> Result {
    let db = TestDb::new().await;
    for n in 1..=5 {
        wake(&db, n).await?;
    }
    let mut tx = db.store.begin().await?;
    work::wake(&mut tx, WorkKind::Sweep, id(9), db.now()).await?;
    tx.commit().await?;
    let leased = claim_one(&db).await?;
    let filter = WorkFilter { state: Some(WorkState::Due), kind: None };
    let mut found = Vec::new();
    let mut cursor = None;
    loop {
        let request = PageRequest::new(Some(2), cursor);
        let page = work::list(db.store.pool(), filter, &request, db.now()).await?;
        assert!(page.items.len() <= 2);
        found.extend(page.items.into_iter().map(|item| item.id));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(found, [id(2), id(3), id(4), id(5), id(9)]);
    let filter = WorkFilter { state: Some(WorkState::Leased), kind: Some(KIND) };
    let page = work::list(db.store.pool(), filter, &PageRequest::first(), db.now()).await?;
    assert_eq!(page.items[0].id, leased.id);
    assert_eq!(page.items[0].holder, Some(leased.holder));
    let junk = PageRequest::new(None, Some("junk".into()));
    let refused = work::list(db.store.pool(), filter, &junk, db.now()).await;
    assert!(matches!(refused, Err(StoreError::Cursor(_))));
    Ok(())
}

#[tokio::test]
async fn the_queue_has_its_numbers() -> Result {
    let db = TestDb::new().await;
    for n in 1..=3 {
        wake(&db, n).await?;
    }
    let failed = claim_one(&db).await?;
    finish(&db, &failed, Finish::Failed { error: "no".into(), backoff: later(600) }).await?;
    claim_one(&db).await?;
    db.clock.advance(SignedDuration::from_secs(42));
    let all = work::statistics(db.store.pool(), db.now()).await?;
    assert_eq!(all.len(), 1);
    let one = &all[0];
    assert_eq!((one.kind, one.total, one.due, one.leased), (KIND, 3, 1, 1));
    assert_eq!((one.parked, one.failing, one.oldest_due), (0, 1, later(42)));
    Ok(())
}
