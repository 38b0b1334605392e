//! How a guest reaches the node listener of the service: in process or over the network.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use futures::future::BoxFuture;
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;
use uuid::Uuid;

/// One try to fetch a bundle.
#[derive(Clone)]
pub struct Fetch {
    /// Where to ask.
    pub url: String,
    /// With what.
    pub token: String,
    /// Who must have signed the answerer's certificate, as PEM.
    pub ca: String,
    /// The guest's server.
    pub server_id: Uuid,
    /// The guest's own address.
    pub from: IpAddr,
}

impl fmt::Debug for Fetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fetch({} from {})", self.url, self.from)
    }
}

/// What came of a try.
#[derive(Debug, Clone)]
pub enum Fetched {
    /// There was an answer.
    Answer {
        /// Its HTTP status.
        status: u16,
        /// Its body.
        body: String,
    },
    /// There was none.
    Unreachable(String),
}

/// Makes the calls of guests.
#[derive(Clone)]
pub struct NodeFacing(Arc<dyn Fn(Fetch) -> BoxFuture<'static, Fetched> + Send + Sync>);

impl fmt::Debug for NodeFacing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeFacing")
    }
}

impl NodeFacing {
    /// Any way to make the call.
    pub fn new(
        call: impl Fn(Fetch) -> BoxFuture<'static, Fetched> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(call))
    }

    /// Nobody answers.
    pub fn nowhere() -> Self {
        Self::new(|_| Box::pin(async { Fetched::Unreachable("there is no node listener".into()) }))
    }

    /// Straight into the listener's router, with the guest's address as [`ConnectInfo`].
    pub fn in_process(router: Router) -> Self {
        Self::new(move |fetch| {
            let router = router.clone();
            Box::pin(async move {
                match into_router(router, fetch).await {
                    Ok(fetched) => fetched,
                    Err(error) => Fetched::Unreachable(error.to_string()),
                }
            })
        })
    }

    /// Over HTTPS, from the guest's own address, trusting only the CA that it was told.
    pub fn over_network() -> Self {
        Self::new(|fetch| {
            Box::pin(async move {
                match over_https(fetch).await {
                    Ok(fetched) => fetched,
                    Err(error) => Fetched::Unreachable(chain(&error)),
                }
            })
        })
    }

    /// Makes one try.
    pub async fn fetch(&self, fetch: Fetch) -> Fetched {
        (self.0)(fetch).await
    }
}

async fn into_router(router: Router, fetch: Fetch) -> anyhow::Result<Fetched> {
    let path = url::Url::parse(&fetch.url)?.path().to_owned();
    let body = serde_json::json!({"server_id": fetch.server_id}).to_string();
    let request = http::Request::post(path)
        .header("authorization", format!("Bearer {}", fetch.token))
        .header("content-type", "application/json")
        .extension(ConnectInfo(SocketAddr::new(fetch.from, 40_000)))
        .body(Body::from(body))?;
    let response = match router.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await?.to_bytes();
    Ok(Fetched::Answer { status, body: String::from_utf8_lossy(&bytes).into_owned() })
}

async fn over_https(fetch: Fetch) -> Result<Fetched, reqwest::Error> {
    // A client for each guest: its address and its trust are its own.
    let client = reqwest::Client::builder()
        .local_address(fetch.from)
        .tls_certs_only([reqwest::Certificate::from_pem(fetch.ca.as_bytes())?])
        .connect_timeout(Duration::from_secs(5))
        .timeout(Duration::from_secs(30))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()?;
    let request = client
        .post(&fetch.url)
        .bearer_auth(&fetch.token)
        .json(&serde_json::json!({"server_id": fetch.server_id}));
    let response = request.send().await?;
    let status = response.status().as_u16();
    Ok(Fetched::Answer { status, body: response.text().await? })
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}
