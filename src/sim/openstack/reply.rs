//! Answers and errors in each service's own shape.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};

use super::{glance, keystone, neutron, nova, placement};

/// The services of a cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    Keystone,
    Nova,
    Neutron,
    Glance,
    Placement,
}

impl Service {
    /// The service behind the first part of a path.
    pub fn of_prefix(prefix: &str) -> Option<Self> {
        match prefix {
            "identity" => Some(Self::Keystone),
            "compute" => Some(Self::Nova),
            "network" => Some(Self::Neutron),
            "image" => Some(Self::Glance),
            "placement" => Some(Self::Placement),
            _ => None,
        }
    }

    /// Its name in faults and counters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Keystone => "keystone",
            Self::Nova => "nova",
            Self::Neutron => "neutron",
            Self::Glance => "glance",
            Self::Placement => "placement",
        }
    }

    /// What a request asks for, as faults and counters call it.
    pub fn operation(self, method: &Method, path: &[&str]) -> &'static str {
        match self {
            Self::Keystone => keystone::operation(method, path),
            Self::Nova => nova::operation(method, path),
            Self::Neutron => neutron::operation(method, path),
            Self::Glance => glance::operation(method, path),
            Self::Placement => placement::operation(method, path),
        }
    }

    /// An error as this service writes it.
    pub fn refuse(self, refusal: Refusal, request_id: &str) -> Reply {
        let Refusal { status, kind, message } = refusal;
        if status == 401 {
            let words = if self == Self::Keystone { message } else { UNAUTHORIZED.to_owned() };
            let body = json!({"error": {"code": 401, "message": words, "title": "Unauthorized"}});
            let reply = Reply::json(401, body);
            return reply.with_header("www-authenticate", "Keystone uri=\"/identity\"");
        }
        match self {
            Self::Keystone => Reply::json(
                status,
                json!({"error": {"code": status, "message": message, "title": title(status)}}),
            ),
            Self::Nova => Reply::json(
                status,
                json!({nova_kind(status): {"code": status, "message": message}}),
            ),
            Self::Neutron => Reply::json(
                status,
                json!({"NeutronError": {"type": kind, "message": message, "detail": ""}}),
            ),
            Self::Glance => Reply::html(
                status,
                format!(
                    "<html>\n <head>\n  <title>{status} {title}</title>\n </head>\n <body>\n  \
                     <h1>{status} {title}</h1>\n  {message}<br /><br />\n\n\n\n </body>\n</html>",
                    title = title(status)
                ),
            ),
            Self::Placement => Reply::json(
                status,
                json!({"errors": [{"status": status, "title": title(status), "detail": message,
                    "code": "placement.undefined_code", "request_id": request_id}]}),
            ),
        }
    }
}

const UNAUTHORIZED: &str = "The request you have made requires authentication.";

fn title(status: u16) -> &'static str {
    StatusCode::from_u16(status).ok().and_then(|code| code.canonical_reason()).unwrap_or("Error")
}

/// The name under which Nova puts an error.
fn nova_kind(status: u16) -> &'static str {
    match status {
        400 => "badRequest",
        403 => "forbidden",
        404 => "itemNotFound",
        405 => "badMethod",
        409 => "conflictingRequest",
        413 | 429 => "overLimit",
        415 => "badMediaType",
        501 => "notImplemented",
        503 => "serviceUnavailable",
        _ => "computeFault",
    }
}

/// Why a service says no.
#[derive(Debug)]
pub(super) struct Refusal {
    pub status: u16,
    /// Neutron's name of the error.
    pub kind: String,
    pub message: String,
}

impl Refusal {
    pub fn new(status: u16, message: impl Into<String>) -> Self {
        let kind = match status {
            400 => "HTTPBadRequest",
            403 => "HTTPForbidden",
            404 => "HTTPNotFound",
            503 => "ServiceUnavailable",
            _ => "HTTPInternalServerError",
        };
        Self { status, kind: kind.into(), message: message.into() }
    }

    /// An error of Neutron with its type.
    pub fn typed(status: u16, kind: &str, message: impl Into<String>) -> Self {
        Self { status, kind: kind.into(), message: message.into() }
    }

    pub fn unauthorized() -> Self {
        Self::new(401, UNAUTHORIZED)
    }

    pub fn no_such_path() -> Self {
        Self::new(404, "The resource could not be found.")
    }

    /// An error that a test ordered.
    pub fn ordered(status: u16, message: Option<String>) -> Self {
        let usual = match status {
            429 | 413 => "This request was rate-limited.",
            503 => "Service is unavailable at this time. Please try again later.",
            500 => {
                "Unexpected API Error. Please report this at http://bugs.launchpad.net/nova/ and \
                 attach the Nova API log if possible.\n<class 'oslo_db.exception.DBError'>"
            }
            _ => title(status),
        };
        Self::new(status, message.unwrap_or_else(|| usual.to_owned()))
    }
}

/// An answer.
#[derive(Debug)]
pub(super) struct Reply {
    status: u16,
    body: Content,
    headers: Vec<(&'static str, String)>,
}

#[derive(Debug)]
enum Content {
    Nothing,
    Json(Value),
    Html(String),
}

impl Reply {
    pub fn json(status: u16, body: Value) -> Self {
        Self { status, body: Content::Json(body), headers: Vec::new() }
    }

    pub fn ok(body: Value) -> Self {
        Self::json(200, body)
    }

    pub fn empty(status: u16) -> Self {
        Self { status, body: Content::Nothing, headers: Vec::new() }
    }

    pub fn html(status: u16, text: String) -> Self {
        Self { status, body: Content::Html(text), headers: Vec::new() }
    }

    /// The answer of a proxy before the service.
    pub fn of_proxy(status: u16) -> Self {
        Self::html(
            status,
            format!(
                "<html><body><h1>{status} {}</h1>\nThe server didn't respond in time.\n\
                 </body></html>\n",
                title(status)
            ),
        )
    }

    /// No service lives under that path.
    pub fn not_here() -> Self {
        Self::html(404, "<html><body><h1>404 Not Found</h1></body></html>\n".into())
    }

    pub fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn with_retry_after(self, seconds: Option<u64>) -> Self {
        match seconds {
            Some(seconds) => self.with_header("retry-after", seconds.to_string()),
            None => self,
        }
    }

    /// The header by which each service names its own request.
    pub fn with_request_id(self, service: Service, id: &str) -> Self {
        let reply = self.with_header("x-openstack-request-id", id);
        if service == Service::Nova { reply.with_header("x-compute-request-id", id) } else { reply }
    }

    /// The same with every list in it emptied, and no next page.
    pub fn without_rows(mut self) -> Self {
        if let Content::Json(Value::Object(body)) = &mut self.body {
            body.retain(|name, _| !name.ends_with("_links") && name != "next");
            body.values_mut().filter_map(Value::as_array_mut).for_each(Vec::clear);
        }
        self
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let (kind, body) = match self.body {
            Content::Nothing => (None, Body::empty()),
            Content::Json(value) => (Some("application/json"), Body::from(value.to_string())),
            Content::Html(text) => (Some("text/html; charset=UTF-8"), Body::from(text)),
        };
        let mut response = Response::new(body);
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        if let Some(kind) = kind {
            headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        for (name, value) in self.headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.append(HeaderName::from_static(name), value);
            }
        }
        response
    }
}
