//! `/v1/tokens`

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::page;
use crate::api::Page;
use crate::api::tokens::{CreatedToken, NewToken, Token};
use crate::app::authz::Caller;
use crate::app::tokens::{self, TokenView};
use crate::domain::access::Role;
use crate::http::extract::{Body, PageQuery, Query, Segment, id};
use crate::http::{Api, Refusal};

/// Make a token; its secret is shown this once
#[utoipa::path(
    post, path = "/v1/tokens", tag = "tokens", operation_id = "create_token",
    request_body = NewToken,
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes repeating harmless: \
            the second time is refused, since the secret is shown once")),
    responses((status = 201, body = CreatedToken, description = "Made")),
)]
pub async fn create(
    State(api): State<Api>,
    Body { ask, value }: Body<NewToken>,
) -> Result<(StatusCode, Json<CreatedToken>), Refusal> {
    let new = tokens::NewToken {
        name: value.name,
        role: value.role,
        project: value.project,
        lifetime_seconds: value.lifetime_seconds,
    };
    let made = api.run(|app| async move { tokens::create(&app, &ask, &new).await }).await?;
    let made = CreatedToken { token: token(made.token), secret: made.secret };
    Ok((StatusCode::CREATED, Json(made)))
}

/// List tokens
#[utoipa::path(
    get, path = "/v1/tokens", tag = "tokens", operation_id = "list_tokens", params(PageQuery),
    responses((status = 200, body = Page<Token>, description = "Newest first")),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Token>>, Refusal> {
    let request = query.page()?;
    let run = api.run(|app| async move { tokens::list(&app, &caller, &request).await });
    Ok(page(run.await?, token))
}

/// Revoke a token
#[utoipa::path(
    delete, path = "/v1/tokens/{token}", tag = "tokens", operation_id = "revoke_token",
    params(("token" = uuid::Uuid, Path, description = "Id")),
    responses((status = 204, description = "Revoked")),
)]
pub async fn revoke(
    State(api): State<Api>,
    caller: Caller,
    Segment(text): Segment,
) -> Result<StatusCode, Refusal> {
    let (ask, token) = (caller.into(), id("token", &text)?);
    api.run(|app| async move { tokens::revoke(&app, &ask, token).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn token(view: TokenView) -> Token {
    Token {
        id: view.id,
        name: view.name,
        role: view.role.parse().unwrap_or(Role::Viewer),
        project_id: view.project,
        created_at: view.created_at,
        expires_at: view.expires_at,
        revoked_at: view.revoked_at,
    }
}
