//! Events, audit, idempotency, tokens, projects, the installation, and dead rows.

use jiff::SignedDuration;
use serde_json::json;
use uuid::Uuid;
use zcp::clock::Ids;
use zcp::domain::ids::{ClusterId, InstallId, ProjectId, TokenId};
use zcp::store::audit::{self, AuditFilter, AuditRecord};
use zcp::store::events::{self, EventFilter, EventType, NewEvent, Position};
use zcp::store::idempotency::{self, Answer, Begun, KeyedRequest};
use zcp::store::installation::{self, Installation};
use zcp::store::page::PageRequest;
use zcp::store::projects::{self, Project};
use zcp::store::replicas::{self, Beat};
use zcp::store::seal::{KeyRing, SealError};
use zcp::store::tokens::{self, Token, TokenFilter, TokenHash};
use zcp::store::{StoreError, Tx, housekeeping};

use crate::support::{Result, TestDb, wait_for};

fn event(cluster: u128, message: &str) -> NewEvent {
    NewEvent {
        project: Some(ProjectId(Uuid::from_u128(1))),
        cluster: Some(ClusterId(Uuid::from_u128(cluster))),
        resource_kind: "node",
        resource: Uuid::from_u128(7),
        event_type: EventType::Warning,
        reason: "NodeSick",
        message: message.to_owned(),
        data: json!({"try": 1}),
    }
}

async fn record(db: &TestDb, tx: &mut Tx, message: &str) -> Result {
    Ok(events::record(tx, event(1, message), db.now()).await?)
}

async fn follow(db: &TestDb, from: Position) -> Result<Vec<events::Event>> {
    Ok(events::follow(db.store.pool(), EventFilter::default(), from, 100).await?)
}

#[tokio::test]
async fn the_stream_skips_no_event_that_commits_late() -> Result {
    let db = TestDb::new().await;
    let start = events::end(db.store.pool()).await?;
    let mut slow = db.store.begin().await?;
    record(&db, &mut slow, "slow").await?;
    let mut quick = db.store.begin().await?;
    record(&db, &mut quick, "quick").await?;
    quick.commit().await?;
    assert!(follow(&db, start).await?.is_empty(), "an older transaction is still running");
    slow.commit().await?;
    // Transactions of other databases on the server (other tests) hold the stream back, too.
    let seen = wait_for("both events", async || {
        follow(&db, start).await.ok().filter(|seen| seen.len() == 2)
    })
    .await;
    let messages: Vec<&str> = seen.iter().map(|event| event.message.as_str()).collect();
    assert_eq!(messages, ["slow", "quick"]);
    let text = seen[0].position.to_string();
    let rest = follow(&db, text.parse()?).await?;
    assert_eq!(rest, seen[1..]);
    assert!(follow(&db, events::end(db.store.pool()).await?).await?.is_empty());
    assert!("7".parse::<Position>().is_err());
    Ok(())
}

#[tokio::test]
async fn a_timeline_is_newest_first_and_of_one_cluster() -> Result {
    let db = TestDb::new().await;
    let mut tx = db.store.begin().await?;
    for n in 0..3 {
        record(&db, &mut tx, &n.to_string()).await?;
    }
    events::record(&mut tx, event(2, "other"), db.now()).await?;
    tx.commit().await?;
    let cluster = Some(ClusterId(Uuid::from_u128(1)));
    let filter = EventFilter { cluster, ..EventFilter::default() };
    let first = events::list(db.store.pool(), filter, &PageRequest::new(Some(2), None)).await?;
    let next = PageRequest::new(Some(2), first.next);
    let second = events::list(db.store.pool(), filter, &next).await?;
    let all: Vec<_> = first.items.iter().chain(&second.items).map(|one| &one.message).collect();
    assert_eq!(all, ["2", "1", "0"]);
    assert_eq!(second.next, None);
    assert_eq!(first.items[0].data, json!({"try": 1}));
    Ok(())
}

#[tokio::test]
async fn audit_records_are_listed_newest_first() -> Result {
    let db = TestDb::new().await;
    let mut tx = db.store.begin().await?;
    let make = |action: &str, resource: u128| AuditRecord {
        id: db.ids.uuid(),
        at: db.now(),
        actor: "token:1".into(),
        action: action.into(),
        project: None,
        resource_kind: "cluster".into(),
        resource: Uuid::from_u128(resource),
        detail: json!({}),
    };
    for action in [make("cluster.create", 1), make("cluster.delete", 1), make("pool.scale", 2)] {
        audit::record(&mut tx, &action).await?;
    }
    tx.commit().await?;
    let filter = AuditFilter { resource: Some(Uuid::from_u128(1)), project: None };
    let page = audit::list(db.store.pool(), filter, &PageRequest::first()).await?;
    let actions: Vec<&str> = page.items.iter().map(|one| one.action.as_str()).collect();
    assert_eq!(actions, ["cluster.delete", "cluster.create"]);
    Ok(())
}

#[tokio::test]
async fn a_key_is_used_once_and_answers_the_same_again() -> Result {
    let db = TestDb::new().await;
    let request = KeyedRequest::new("token:1", "k", &[b"POST", b"/v1/clusters", b"{}"]);
    let mut tx = db.store.begin().await?;
    assert_eq!(idempotency::begin(&mut tx, &request).await?, Begun::Fresh);
    let mut other = db.store.begin().await?;
    assert_eq!(idempotency::begin(&mut other, &request).await?, Begun::Running);
    other.rollback().await?;
    let answer = Answer { status: 201, response: json!({"id": 1}) };
    idempotency::finish(&mut tx, &request, &answer, db.now()).await?;
    tx.commit().await?;

    let mut tx = db.store.begin().await?;
    assert_eq!(idempotency::begin(&mut tx, &request).await?, Begun::Repeated(answer));
    let changed = KeyedRequest::new("token:1", "k", &[b"POST", b"/v1/clusters", b"{1}"]);
    assert_eq!(idempotency::begin(&mut tx, &changed).await?, Begun::OtherRequest);
    let foreign = KeyedRequest::new("token:2", "k", &[b"POST", b"/v1/clusters", b"{}"]);
    assert_eq!(idempotency::begin(&mut tx, &foreign).await?, Begun::Fresh);
    Ok(())
}

#[tokio::test]
async fn a_request_that_was_rolled_back_may_come_again() -> Result {
    let db = TestDb::new().await;
    let request = KeyedRequest::new("token:1", "k", &[]);
    let mut tx = db.store.begin().await?;
    idempotency::begin(&mut tx, &request).await?;
    let answer = Answer { status: 201, response: json!(null) };
    idempotency::finish(&mut tx, &request, &answer, db.now()).await?;
    tx.rollback().await?;
    let mut tx = db.store.begin().await?;
    assert_eq!(idempotency::begin(&mut tx, &request).await?, Begun::Fresh);
    Ok(())
}

#[tokio::test]
async fn a_token_is_found_by_its_hash_until_it_ends() -> Result {
    let db = TestDb::new().await;
    let token = Token {
        id: TokenId(db.ids.uuid()),
        name: "ci".into(),
        role: "operator".into(),
        project: None,
        created_at: db.now(),
        expires_at: Some(db.now() + SignedDuration::from_hours(1)),
        revoked_at: None,
    };
    let mut tx = db.store.begin().await?;
    tokens::insert(&mut tx, &token, TokenHash::of("secret")).await?;
    tx.commit().await?;
    let pool = db.store.pool();
    assert_eq!(tokens::find_by_hash(pool, TokenHash::of("secret")).await?, Some(token.clone()));
    assert_eq!(tokens::find_by_hash(pool, TokenHash::of("Secret")).await?, None);
    assert!(token.is_valid(db.now()));
    assert!(!token.is_valid(db.now() + SignedDuration::from_hours(1)));
    let mut tx = db.store.begin().await?;
    let revoked = tokens::revoke(&mut tx, token.id, db.now()).await?.unwrap();
    assert!(!revoked.is_valid(db.now()));
    let later = db.now() + SignedDuration::from_secs(5);
    assert_eq!(tokens::revoke(&mut tx, token.id, later).await?, Some(revoked.clone()));
    assert_eq!(tokens::revoke(&mut tx, TokenId(Uuid::nil()), later).await?, None);
    tx.commit().await?;
    let page = tokens::list(pool, TokenFilter::default(), &PageRequest::first()).await?;
    assert_eq!(tokens::find(pool, token.id).await?.as_ref(), Some(&revoked));
    assert_eq!(page.items, [revoked]);
    Ok(())
}

#[tokio::test]
async fn a_project_name_is_taken_once() -> Result {
    let db = TestDb::new().await;
    let make = |name: &str| Project {
        id: ProjectId(db.ids.uuid()),
        name: name.into(),
        created_at: db.now(),
    };
    let red = make("red");
    let mut tx = db.store.begin().await?;
    projects::insert(&mut tx, &red).await?;
    projects::insert(&mut tx, &make("blue")).await?;
    tx.commit().await?;
    let mut tx = db.store.begin().await?;
    let refused = projects::insert(&mut tx, &make("red")).await.unwrap_err();
    assert_eq!(refused.constraint(), Some(projects::NAME_KEY));
    drop(tx);
    let pool = db.store.pool();
    assert_eq!(projects::find(pool, red.id).await?, Some(red.clone()));
    assert_eq!(projects::find_by_name(pool, "red").await?, Some(red));
    let first = projects::list(pool, &PageRequest::new(Some(1), None)).await?;
    let second = projects::list(pool, &PageRequest::new(Some(1), first.next)).await?;
    assert_eq!((first.items[0].name.as_str(), second.items[0].name.as_str()), ("blue", "red"));
    assert_eq!(second.next, None);
    Ok(())
}

#[tokio::test]
async fn of_two_replicas_on_an_empty_database_one_makes_the_installation() -> Result {
    let db = TestDb::new().await;
    let keys = KeyRing::parse(&KeyRing::generate("k1", &*db.ids))?;
    let make = || {
        let id = InstallId(db.ids.uuid());
        Installation {
            id,
            node_ca_pem: "pem".into(),
            node_ca_key: keys.seal(Installation::key_place(id), b"key", &*db.ids),
            created_at: db.now(),
        }
    };
    let (one, two) = (make(), make());
    assert_eq!(installation::find(db.store.pool()).await?, None);
    let mut tx = db.store.begin().await?;
    assert_eq!(installation::ensure(&mut tx, &one).await?, one);
    tx.commit().await?;
    let mut tx = db.store.begin().await?;
    assert_eq!(installation::ensure(&mut tx, &two).await?, one);
    tx.commit().await?;
    assert_eq!(one.open_key(&keys)?.as_slice(), b"key");
    let wrong = KeyRing::parse(&KeyRing::generate("k1", &*db.ids))?;
    let error = one.open_key(&wrong).unwrap_err();
    assert!(matches!(error, StoreError::Seal(SealError::Refused { .. })), "{error}");
    Ok(())
}

#[tokio::test]
async fn housekeeping_deletes_what_is_old_and_nothing_else() -> Result {
    let db = TestDb::new().await;
    let fill = async |key: &str, replica: u128| -> Result {
        let mut tx = db.store.begin().await?;
        record(&db, &mut tx, "x").await?;
        let request = KeyedRequest::new("a", key, &[]);
        let answer = Answer { status: 200, response: json!(null) };
        idempotency::finish(&mut tx, &request, &answer, db.now()).await?;
        tx.commit().await?;
        let beat = Beat { id: Uuid::from_u128(replica), name: "r" };
        replicas::beat(&db.store, beat, db.now()).await?;
        Ok(())
    };
    fill("old", 1).await?;
    db.clock.advance(SignedDuration::from_hours(24 * 91));
    fill("new", 2).await?;
    let swept = housekeeping::run(&db.store, db.now()).await?;
    assert_eq!((swept.events, swept.idempotency_keys, swept.replicas), (1, 1, 1));
    assert_eq!(housekeeping::run(&db.store, db.now()).await?, housekeeping::Swept::default());
    let left = replicas::list(db.store.pool()).await?;
    assert_eq!(left.iter().map(|one| one.id).collect::<Vec<_>>(), [Uuid::from_u128(2)]);
    replicas::leave(&db.store, Uuid::from_u128(2)).await?;
    assert!(replicas::list(db.store.pool()).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn f89_a_cancelled_begin_leaves_no_transaction_in_the_pool() -> Result {
    let db = TestDb::new().await;
    let store = zcp::store::Store::connect(db.url(), 1).await?;
    for polls in 1..40 {
        // Drop `begin` after so many polls: somewhere in there, BEGIN is sent and not answered.
        let mut begin = Box::pin(store.begin());
        let mut left = polls;
        let cancelled = std::future::poll_fn(|cx| {
            left -= 1;
            match begin.as_mut().poll(cx) {
                std::task::Poll::Ready(_) => std::task::Poll::Ready(true),
                std::task::Poll::Pending if left == 0 => std::task::Poll::Ready(false),
                std::task::Poll::Pending => {
                    cx.waker().wake_by_ref();
                    std::task::Poll::Pending
                }
            }
        });
        cancelled.await;
        drop(begin);
        sqlx::query("INSERT INTO projects (id, name, created_at) VALUES ($1, $2, now())")
            .bind(db.ids.uuid())
            .bind(format!("p{polls}"))
            .execute(store.pool())
            .await?;
    }
    let (seen,): (i64,) =
        sqlx::query_as("SELECT count(*) FROM projects").fetch_one(db.store.pool()).await?;
    assert_eq!(seen, 39, "every write outside a transaction is committed");
    Ok(())
}

#[tokio::test]
async fn only_replicas_that_live_share_a_budget() -> Result {
    let db = TestDb::new().await;
    for (n, minutes) in [(1, 0), (2, 0), (3, 5)] {
        let id = Uuid::from_u128(n);
        let seen = db.now() - SignedDuration::from_mins(minutes);
        replicas::beat(&db.store, Beat { id, name: "r" }, seen).await?;
    }
    let since = db.now() - SignedDuration::from_mins(1);
    assert_eq!(replicas::count_living(db.store.pool(), since).await?, 2);
    Ok(())
}
