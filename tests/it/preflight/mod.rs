//! What stands against a migration is found, said and waived before a node is touched.

mod facts;
mod found;
mod input;
mod waits;

use serde_json::Value;
use zcp::app::preflights::PreflightView;
use zcp::domain::ids::{ClusterId, PreflightId};
use zcp::domain::insight::{Insight, Level};
use zcp::domain::migration::MigrationSpec;
use zcp::worker::Driver;

use crate::support::world::TestWorld;

/// What a preflight says about one thing.
fn insight<'a>(view: &'a PreflightView, id: &str) -> &'a Insight {
    let found = view.insights.iter().find(|one| one.id.as_str() == id);
    found.unwrap_or_else(|| panic!("no insight {id} in {:#?}", view.insights))
}

/// Level and whether it can be waived.
fn level(view: &PreflightView, id: &str) -> (Level, bool) {
    let found = insight(view, id);
    (found.level, found.is_waivable)
}

/// Asks what a migration would meet, and waits until somebody looked.
async fn plan(world: &TestWorld, driver: &Driver, asked: (ClusterId, Value)) -> PreflightView {
    let spec: MigrationSpec = serde_json::from_value(asked.1).expect("a migration");
    let made = zcp::app::preflights::create(&world.app, &world.ask, asked.0, &spec).await;
    looked(world, driver, made.expect("a preflight").row.id).await
}

/// Looks again, and waits for that.
async fn again(world: &TestWorld, driver: &Driver, id: PreflightId) -> PreflightView {
    let asked = zcp::app::preflights::check(&world.app, &world.ask, id).await;
    looked(world, driver, asked.expect("a preflight").row.id).await
}

async fn looked(world: &TestWorld, driver: &Driver, id: PreflightId) -> PreflightView {
    let since = world.db.now();
    world
        .settle(driver, "somebody looked", async |world| view(world, id).await.row.is_done())
        .await;
    let took = world.db.now().duration_since(since);
    assert!(took.as_secs() < 60, "a look took {took:#}");
    view(world, id).await
}

async fn view(world: &TestWorld, id: PreflightId) -> PreflightView {
    let caller = &world.ask.caller;
    zcp::app::preflights::show(&world.app, caller, id).await.expect("a preflight")
}
