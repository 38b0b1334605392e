//! The private PostgreSQL server, and how the store lives with it.

use zcp::dev::postgres::{EmbeddedPostgres, PostgresError, PostgresOptions};
use zcp::store::Store;

use crate::support::Result;

fn folder(name: &str) -> std::path::PathBuf {
    std::env::temp_dir().join(format!("zcp-pg-{}-{name}", std::process::id()))
}

/// A disposable folder that is kept between two servers.
fn options(name: &str) -> PostgresOptions {
    let mut options = PostgresOptions::durable(folder(name));
    options.max_connections = 20;
    options
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() -> Result {
    let options = options("restart");
    let first = EmbeddedPostgres::start(options.clone()).await?;
    let store = Store::connect(&first.url("zcp"), 2).await?;
    store.migrate().await?;
    store.migrate().await?;
    store.close().await;
    let second = EmbeddedPostgres::start(options.clone()).await;
    assert!(matches!(second, Err(PostgresError::InUse(_))), "one server a folder");
    first.stop().await?;

    let again = EmbeddedPostgres::start(options.clone()).await?;
    let store = Store::connect(&again.url("zcp"), 2).await?;
    let (rows,): (i64,) =
        sqlx::query_as("SELECT count(*) FROM _sqlx_migrations").fetch_one(store.pool()).await?;
    assert_eq!(usize::try_from(rows)?, Store::migrations().len());
    store.close().await;
    // Dropped, not stopped: the next start waits for its end.
    drop(again);
    EmbeddedPostgres::start(options.clone()).await?.stop().await?;
    std::fs::remove_dir_all(&options.folder)?;
    Ok(())
}

#[tokio::test]
async fn a_folder_of_another_version_is_refused() -> Result {
    let options = options("version");
    std::fs::create_dir_all(options.folder.join("data"))?;
    std::fs::write(options.folder.join("data/PG_VERSION"), "9\n")?;
    let error = EmbeddedPostgres::start(options.clone()).await.expect_err("refused");
    assert!(matches!(error, PostgresError::OtherVersion { .. }), "{error}");
    std::fs::remove_dir_all(&options.folder)?;
    Ok(())
}

#[tokio::test]
async fn a_disposable_server_leaves_nothing() -> Result {
    let folder = folder("disposable");
    let server = EmbeddedPostgres::start(PostgresOptions::disposable(&folder)).await?;
    assert!(folder.join("data").exists());
    server.stop().await?;
    assert!(!folder.exists());
    Ok(())
}

#[tokio::test]
async fn too_long_a_folder_is_refused() {
    let long = folder(&"x".repeat(100));
    let error = EmbeddedPostgres::start(PostgresOptions::disposable(&long)).await.expect_err("");
    assert!(error.to_string().contains("too long"), "{error}");
    std::fs::remove_dir_all(&long).expect("made before it was refused");
}
