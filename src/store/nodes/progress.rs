//! What the cluster and migration workers write on a node: intents before a call, results after.

use sqlx::types::Json;

use crate::domain::ids::NodeId;
use crate::domain::ledger::Ledger;
use crate::domain::node::{Blocker, Drain, Outside};
use crate::store::{StoreError, Ts, Tx, expect_rows, ts};

/// A change of one node.
#[derive(Debug, Clone)]
pub enum Change {
    /// The node is not wanted any more, for this reason.
    Dismiss(String),
    /// The port may be made from now on.
    PortIntent,
    /// The port was refused: nothing of it is there.
    PortRefused,
    /// The port is there, with its id and address.
    PortMade(String, String),
    /// Nothing is left of the port.
    PortGone,
    /// The server may be made from now on; its bundle token lives until then.
    ServerIntent(jiff::Timestamp, jiff::Timestamp),
    /// The server of an unclear call was looked for and not found, the first time.
    ServerLookedFor(jiff::Timestamp),
    /// The server of an unclear call was not found: the call is made again.
    ServerAgain,
    /// Surely no server was made: the call was refused.
    ServerRefused,
    /// The server is there.
    ServerMade(String),
    /// The server may be deleted from now on.
    ServerDeleting,
    /// Nothing is left of the server.
    ServerGone,
    /// Lists lied: the server is there, in this state, with this fault.
    ServerFound(String, Option<String>),
    /// The server had stopped and was started.
    ServerStarted,
    /// What is true of the bootstrap token.
    Token(Outside),
    /// The bootstrap token is there until then.
    TokenMade(jiff::Timestamp),
    /// The Node object is gone.
    ObjectGone,
    /// Labels and taints of the pool were put on the Node object.
    Labelled,
    /// The node cannot serve any more, for this reason: another takes its place.
    Lost(String),
    /// The ledger of its predecessor was put on the Node object.
    Carried(Ledger),
    /// What keeps the node from coming up, and when to try again.
    Trouble(String, Option<jiff::Timestamp>),
    /// How far the drain is, and who blocks it.
    Drain(Drain, Vec<Blocker>),
    /// The cordon is set; whether it was there before us.
    Cordoned(bool),
    /// A cordon of ours that nobody wanted was taken back.
    CordonLifted,
    /// Nothing is left of the node.
    Close,
}

/// Writes a change.
pub async fn write(
    tx: &mut Tx,
    id: NodeId,
    change: Change,
    now: jiff::Timestamp,
) -> Result<(), StoreError> {
    let query = query(id, change, ts(now));
    expect_rows(&query.execute(&mut **tx).await?, 1)
}

fn query(id: NodeId, change: Change, now: Ts) -> Query {
    match change {
        Change::Dismiss(why) => {
            sqlx::query("UPDATE nodes SET desired = 'absent', trouble = $2 WHERE id = $1")
                .bind(id)
                .bind(why)
        }
        Change::Lost(why) => sqlx::query(
            "UPDATE nodes SET desired = 'absent', trouble = $2, lost = TRUE WHERE id = $1",
        )
        .bind(id)
        .bind(why),
        Change::Carried(ledger) => {
            sqlx::query("UPDATE nodes SET carried = $2 WHERE id = $1").bind(id).bind(Json(ledger))
        }
        Change::PortIntent => {
            sqlx::query("UPDATE nodes SET port = 'unknown' WHERE id = $1").bind(id)
        }
        Change::PortRefused => {
            sqlx::query("UPDATE nodes SET port = 'never' WHERE id = $1").bind(id)
        }
        Change::PortMade(port, address) => sqlx::query(
            "UPDATE nodes SET port = 'present', port_id = $2, address = $3, trouble = NULL
             WHERE id = $1",
        )
        .bind(id)
        .bind(port)
        .bind(address),
        Change::PortGone => sqlx::query("UPDATE nodes SET port = 'gone' WHERE id = $1").bind(id),
        Change::Token(state) => {
            sqlx::query("UPDATE nodes SET token = $2 WHERE id = $1").bind(id).bind(state.as_str())
        }
        Change::TokenMade(until) => {
            sqlx::query("UPDATE nodes SET token = 'present', token_until = $2 WHERE id = $1")
                .bind(id)
                .bind(ts(until))
        }
        Change::ServerFound(..) | Change::ServerDeleting | Change::ServerStarted => {
            timed_server_query(id, change, now)
        }
        Change::ObjectGone => sqlx::query(
            "UPDATE nodes SET object = 'gone', object_order = nextval('outside_order')
             WHERE id = $1",
        )
        .bind(id),
        Change::Labelled => sqlx::query(
            "UPDATE nodes
             SET kubelet = kubelet || '{\"is_labelled\": true, \"is_kept_wrongly\": false}',
                 object_order = nextval('outside_order')
             WHERE id = $1",
        )
        .bind(id),
        other => drain_query(id, other, now),
    }
}

fn drain_query(id: NodeId, change: Change, now: Ts) -> Query {
    match change {
        Change::Trouble(why, until) => {
            sqlx::query("UPDATE nodes SET trouble = $2, not_before = $3 WHERE id = $1")
                .bind(id)
                .bind(why)
                .bind(until.map(ts))
        }
        Change::Drain(drain, blockers) => sqlx::query(
            "UPDATE nodes
             SET drain = $2,
                 blockers = $3,
                 drain_started_at = CASE
                     WHEN $2 = 'idle' THEN NULL
                     WHEN drain = 'drained' AND $2 IN ('cordoning', 'evicting') THEN $4
                     ELSE coalesce(drain_started_at, $4) END,
                 drained_at = CASE WHEN $2 = 'drained' THEN coalesce(drained_at, $4) END
             WHERE id = $1",
        )
        .bind(id)
        .bind(drain.as_str())
        .bind(Json(blockers))
        .bind(now),
        Change::Cordoned(was_cordoned) => sqlx::query(
            "UPDATE nodes
             SET drain = 'evicting',
                 was_cordoned = $2,
                 drain_started_at = coalesce(drain_started_at, $3),
                 kubelet = jsonb_set(kubelet, '{is_cordoned}', 'true'),
                 object_order = nextval('outside_order')
             WHERE id = $1",
        )
        .bind(id)
        .bind(was_cordoned)
        .bind(now),
        Change::CordonLifted => sqlx::query(
            "UPDATE nodes
             SET kubelet = kubelet || '{\"is_cordoned\": false, \"cordon_mark\": null}',
                 object_order = nextval('outside_order')
             WHERE id = $1",
        )
        .bind(id),
        Change::Close => {
            sqlx::query("UPDATE nodes SET closed_at = $2 WHERE id = $1").bind(id).bind(now)
        }
        server => server_query(id, server),
    }
}

type Query = sqlx::query::Query<'static, sqlx::Postgres, sqlx::postgres::PgArguments>;

/// Every write about a server takes a number, so that a list which began before it stays out.
fn server_query(id: NodeId, change: Change) -> Query {
    match change {
        Change::ServerIntent(now, bundle_expires_at) => sqlx::query(
            "UPDATE nodes
             SET server = 'unknown',
                 server_intent_at = $2,
                 server_looked_at = NULL,
                 bundle_expires_at = $3,
                 trouble = NULL,
                 server_creates = server_creates + 1,
                 server_order = nextval('outside_order')
             WHERE id = $1",
        )
        .bind(id)
        .bind(ts(now))
        .bind(ts(bundle_expires_at)),
        Change::ServerLookedFor(at) => sqlx::query(
            "UPDATE nodes SET server_looked_at = coalesce(server_looked_at, $2) WHERE id = $1",
        )
        .bind(id)
        .bind(ts(at)),
        Change::ServerRefused => sqlx::query(
            "UPDATE nodes
             SET server = 'never',
                 server_looked_at = NULL,
                 server_creates = greatest(server_creates - 1, 0),
                 server_order = nextval('outside_order')
             WHERE id = $1",
        )
        .bind(id),
        Change::ServerAgain => {
            sqlx::query("UPDATE nodes SET server_creates = server_creates + 1 WHERE id = $1")
                .bind(id)
        }
        Change::ServerMade(server) => sqlx::query(
            "UPDATE nodes
             SET server = 'present',
                 server_id = $2,
                 server_looked_at = NULL,
                 server_missing_since = NULL,
                 server_order = nextval('outside_order')
             WHERE id = $1",
        )
        .bind(id)
        .bind(server),
        _ => sqlx::query(
            "UPDATE nodes SET server = 'gone', server_order = nextval('outside_order')
             WHERE id = $1",
        )
        .bind(id),
    }
}

fn timed_server_query(id: NodeId, change: Change, now: Ts) -> Query {
    match change {
        Change::ServerDeleting => sqlx::query(
            "UPDATE nodes
             SET server = 'deleting',
                 server_status = NULL,
                 server_missing_since = NULL,
                 server_deleting_since = coalesce(server_deleting_since, $2),
                 server_delete_sent_at = $2,
                 server_order = nextval('outside_order')
             WHERE id = $1",
        )
        .bind(id)
        .bind(now),
        Change::ServerFound(status, fault) => sqlx::query(
            "UPDATE nodes
             SET server_missing_since = NULL,
                 server_hidden_at = $2,
                 server_status = $3,
                 server_fault = $4,
                 server_order = nextval('outside_order')
             WHERE id = $1",
        )
        .bind(id)
        .bind(now)
        .bind(status)
        .bind(fault),
        _ => {
            sqlx::query("UPDATE nodes SET server_started_at = $2 WHERE id = $1").bind(id).bind(now)
        }
    }
}

/// Takes our cordon's traces off a node that serves again.
pub async fn uncordoned(tx: &mut Tx, id: NodeId) -> Result<(), StoreError> {
    let result = sqlx::query(
        "UPDATE nodes
         SET drain = 'idle',
             drain_started_at = NULL,
             drained_at = NULL,
             blockers = '[]',
             kubelet = jsonb_set(kubelet, '{is_cordoned}', to_jsonb(was_cordoned))
                 || '{\"cordon_mark\": null}',
             was_cordoned = false,
             object_order = nextval('outside_order')
         WHERE id = $1",
    )
    .bind(id)
    .execute(&mut **tx)
    .await?;
    expect_rows(&result, 1)
}
