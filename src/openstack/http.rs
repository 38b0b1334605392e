//! The transport: one HTTP request to a cloud and its answer, or why there is none.
//!
//! Production goes over the network with every limit set. Tests and the simulation hand requests
//! straight to a router, so that everything above this file is the same code in both.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use axum::Router;
use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::BodyExt;
use reqwest::redirect;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt};

/// Largest answer that is read. A full page of 1000 servers is about 4 MB.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// Limits of one connection and one request.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Until the connection stands, TLS included.
    pub connect: Duration,
    /// Until the answer is read. Calls have deadlines of their own below this.
    pub total: Duration,
}

impl Default for Timeouts {
    /// 5 s to connect: more means a dead host. 120 s in all: above every deadline in use.
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), total: Duration::from_mins(2) }
    }
}

/// How far a request came that got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransportErrorKind {
    /// It never left: the connection was not made.
    NotSent,
    /// It may have been received and done.
    Unclear,
}

/// A request without an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransportError {
    /// How far it came.
    pub kind: TransportErrorKind,
    /// Why, in words for people.
    pub message: String,
}

impl TransportError {
    /// The request never left.
    pub fn not_sent(message: impl Into<String>) -> Self {
        Self { kind: TransportErrorKind::NotSent, message: message.into() }
    }

    /// The request may have been done.
    pub fn unclear(message: impl Into<String>) -> Self {
        Self { kind: TransportErrorKind::Unclear, message: message.into() }
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for TransportError {}

/// Why no transport could be made: the CA is not a certificate.
#[derive(Debug, thiserror::Error)]
#[error("the CA certificate cannot be used: {0}")]
pub struct BadCa(String);

/// Sends requests to a cloud. Cheap to clone.
#[derive(Clone)]
pub struct Transport(BoxCloneSyncService<Request<Bytes>, Response<Bytes>, TransportError>);

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Transport")
    }
}

impl Transport {
    /// Over the network. With `ca_pem` only these authorities are trusted, else the system's.
    pub fn network(ca_pem: Option<&str>, timeouts: Timeouts) -> Result<Self, BadCa> {
        let mut builder = reqwest::Client::builder()
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(timeouts.connect)
            .timeout(timeouts.total)
            .user_agent(concat!("zcp/", env!("CARGO_PKG_VERSION")));
        if let Some(pem) = ca_pem {
            let roots = reqwest::Certificate::from_pem_bundle(pem.as_bytes())
                .map_err(|error| BadCa(chain(&error)))?;
            if roots.is_empty() {
                return Err(BadCa("it holds no PEM block 'CERTIFICATE'".to_owned()));
            }
            builder = builder.tls_certs_only(roots);
        }
        let client = builder.build().map_err(|error| BadCa(chain(&error)))?;
        Ok(Self::new(tower::service_fn(move |request| over_network(client.clone(), request))))
    }

    /// Straight into a router: no sockets, no TLS.
    pub fn in_process(router: Router) -> Self {
        Self::new(tower::service_fn(move |request| into_router(router.clone(), request)))
    }

    /// Over any service, such as one that loses answers on purpose.
    pub fn new<S>(service: S) -> Self
    where
        S: Service<Request<Bytes>, Response = Response<Bytes>, Error = TransportError>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        Self(BoxCloneSyncService::new(service))
    }

    /// Sends one request and reads the whole answer.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, TransportError> {
        self.0.clone().oneshot(request).await
    }
}

async fn over_network(
    client: reqwest::Client,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, TransportError> {
    let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
    let request = reqwest::Request::try_from(request)
        .map_err(|error| TransportError::not_sent(chain(&error)))?;
    let mut answer = client.execute(request).await.map_err(|error| explain(&host, &error))?;
    let mut head = Response::new(Bytes::new());
    *head.status_mut() = answer.status();
    *head.headers_mut() = std::mem::take(answer.headers_mut());
    let mut body = BytesMut::new();
    while let Some(part) = answer.chunk().await.map_err(|error| explain(&host, &error))? {
        if body.len() + part.len() > MAX_ANSWER {
            return Err(TransportError::unclear(format!("{host} sent more than {MAX_ANSWER} B")));
        }
        body.extend_from_slice(&part);
    }
    *head.body_mut() = body.freeze();
    Ok(head)
}

async fn into_router(
    router: Router,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, TransportError> {
    let answer = router
        .oneshot(request.map(axum::body::Body::from))
        .await
        .unwrap_or_else(|never| match never {});
    let (head, body) = answer.into_parts();
    let body = body
        .collect()
        .await
        .map_err(|error| TransportError::unclear(format!("the answer was cut off: {error}")))?;
    Ok(Response::from_parts(head, body.to_bytes()))
}

/// Says in words for people why `host` gave no answer.
fn explain(host: &str, error: &reqwest::Error) -> TransportError {
    let reason = match tls_fault(error) {
        Some(fault) => format!("TLS to {host} failed: {fault}"),
        None if error.is_timeout() && error.is_connect() => {
            format!("{host} did not accept a connection in time")
        }
        None if error.is_connect() => format!("{host} cannot be reached: {}", root(error)),
        None if error.is_timeout() => format!("{host} did not answer in time"),
        None => format!("the connection to {host} was lost: {}", root(error)),
    };
    if error.is_connect() || error.is_builder() {
        TransportError::not_sent(reason)
    } else {
        TransportError::unclear(reason)
    }
}

/// What is wrong with a certificate, if that is the cause.
fn tls_fault(error: &reqwest::Error) -> Option<String> {
    use rustls::CertificateError as Cert;
    let fault = causes(error).find_map(as_rustls)?;
    let rustls::Error::InvalidCertificate(reason) = fault else {
        return Some(fault.to_string());
    };
    Some(match reason {
        Cert::Expired | Cert::ExpiredContext { .. } => {
            "the server's certificate, or the CA that signed it, has expired".to_owned()
        }
        Cert::NotValidYet | Cert::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet; compare the clocks".to_owned()
        }
        // A CA that was made anew under its old name shows as a bad signature.
        Cert::UnknownIssuer | Cert::BadSignature => {
            "the server's certificate is not signed by a trusted CA; give its CA as 'cacert'"
                .to_owned()
        }
        Cert::NotValidForName | Cert::NotValidForNameContext { .. } => {
            "the server's certificate is for another host name".to_owned()
        }
        other => other.to_string(),
    })
}

/// An I/O error hides the error that it wraps, maybe another I/O error: it is not its `source`.
fn as_rustls<'a>(cause: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    if let Some(fault) = cause.downcast_ref::<rustls::Error>() {
        return Some(fault);
    }
    as_rustls(cause.downcast_ref::<std::io::Error>()?.get_ref()?)
}

fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

/// The innermost cause: the outer ones only say "error sending request" and repeat the URL.
fn root(error: &(dyn StdError + 'static)) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}

fn chain(error: &(dyn StdError + 'static)) -> String {
    causes(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
