//! The HTTP face: from a request to a [`Call`], and from an [`Answer`] to a response.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State as Shared};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Value, json};

use super::KubeCluster;
use super::auth::{self, Caller};
use super::discovery;
use super::faults::AnswerTime;
use super::probing;
use super::refusal::{Outcome, Refusal};
use super::resource;
use super::rest::{self, Answer, Call, List, Verb};
use super::schema;
use super::state::{self, State};
use super::table;
use super::watch::Watch;
use crate::clock::SharedClock;

/// The largest body that is read: a real server takes 3 MiB.
const LARGEST_BODY: usize = 3 << 20;

/// Marks a response that a server must not send: it cuts the connection instead.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unanswered;

#[derive(Debug, Clone)]
struct Face {
    cluster: Arc<KubeCluster>,
    clock: SharedClock,
}

/// The API of a cluster as a router.
pub(super) fn router(cluster: Arc<KubeCluster>, clock: SharedClock) -> Router {
    Router::new().fallback(serve).with_state(Face { cluster, clock })
}

async fn serve(Shared(face): Shared<Face>, request: Request) -> Response {
    let now = face.clock.now();
    let (is_down, latency) =
        face.cluster.with_state(now, |state| (state.faults.is_api_down, state.faults.latency));
    if is_down {
        let mut response = StatusCode::SERVICE_UNAVAILABLE.into_response();
        response.extensions_mut().insert(Unanswered);
        return response;
    }
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    let is_table = accepts(request.headers(), "as=Table");
    let is_partial = accepts(request.headers(), "as=PartialObjectMetadataList");
    let outcome = answer(&face, request).await;
    let audit = face.cluster.with_state(now, |state| audit_id(state));
    let mut response = match outcome {
        Ok(Reply::Json(value)) => json_response(200, &value),
        Ok(Reply::Text(text)) => text.into_response(),
        Ok(Reply::Answer(answer)) if is_table => table_response(answer, &face.clock),
        Ok(Reply::Answer(Answer::List(list))) if is_partial => {
            json_response(200, &table::metadata_of(&list))
        }
        Ok(Reply::Answer(answer)) => answer_response(answer),
        Err(refusal) => refusal_response(&refusal),
    };
    if let Ok(id) = HeaderValue::from_str(&audit) {
        response.headers_mut().insert("audit-id", id);
    }
    response
}

/// An id for each request, by which a log of the server would name it.
fn audit_id(state: &State) -> String {
    let number = state.counters.total();
    let high = state::mixed(state.settings.seed ^ number);
    let low = state::mixed(high ^ number);
    let bytes = ((u128::from(high) << 64) | u128::from(low)).to_be_bytes();
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}

/// Whether the client wants another form of the objects.
fn accepts(headers: &HeaderMap, form: &str) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains(form) && accept.contains("v=v1;"))
}

enum Reply {
    Json(Value),
    Text(&'static str),
    Answer(Answer),
}

async fn answer(face: &Face, request: Request) -> Outcome<Reply> {
    let caller = caller_of(face, &request)?;
    let path = request.uri().path().to_owned();
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    if let ["api", "v1", "nodes", name, "proxy", ..] = segments.as_slice() {
        if caller.as_ref().is_some_and(Caller::is_anonymous) {
            return Err(Refusal::new(403, "Forbidden", "nodes/proxy is forbidden"));
        }
        let ask = |state: &mut State| probing::ask_kubelet(state, name);
        return face.cluster.with_state(face.clock.now(), ask).map(Reply::Text);
    }
    if let Some(reply) = fixed_reply(face, &segments, caller.as_ref()) {
        return reply;
    }
    let call = read_call(&segments, request).await?;
    let now = face.clock.now();
    face.cluster.with_state(now, |state| perform(state, caller.as_ref(), &call)).map(Reply::Answer)
}

/// Whether a group has resources that are served.
fn is_group(face: &Face, group: &str) -> bool {
    let now = face.clock.now();
    face.cluster.with_state(now, |state| {
        resource::RESOURCES
            .iter()
            .any(|resource| resource.group == group && schema::is_served(state, resource))
    })
}

fn is_version(face: &Face, group: &str, version: &str) -> bool {
    version == resource::version_of(group) && is_group(face, group)
}

fn perform(state: &mut State, caller: Option<&Caller>, call: &Call) -> Outcome<Answer> {
    if !schema::is_served(state, call.resource) {
        return Err(Refusal::no_such_path());
    }
    state.counters.count(format!("{} {}", call.verb.word(), call.target()));
    if let Some(caller) = caller {
        auth::check(state, caller, call)?;
    }
    match state.faults.take_answer(call.verb.word(), &call.target()) {
        None => rest::perform(state, call),
        Some(planned) => {
            if planned.when == AnswerTime::After {
                // Whatever it did or refused: its answer is lost.
                let _ = rest::perform(state, call);
            }
            Err(planned.refusal())
        }
    }
}

/// Who calls; nobody in process.
fn caller_of(face: &Face, request: &Request) -> Outcome<Option<Caller>> {
    let Some(caller) = request.extensions().get::<Caller>() else { return Ok(None) };
    let bearer = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    match bearer {
        Some(token) if caller.is_anonymous() => {
            let now = face.clock.now();
            let found =
                face.cluster.with_state(now, |state| auth::bootstrap_caller(state, token.trim()));
            found.map(Some).map_err(|_| unauthorized())
        }
        _ => Ok(Some(caller.clone())),
    }
}

fn unauthorized() -> Refusal {
    Refusal::new(401, "Unauthorized", "Unauthorized")
}

/// Paths that are no resource.
fn fixed_reply(face: &Face, segments: &[&str], caller: Option<&Caller>) -> Option<Outcome<Reply>> {
    let now = face.clock.now();
    let open = match segments {
        ["version"] => {
            let version = |state: &mut State| discovery::version(&state.settings);
            Reply::Json(face.cluster.with_state(now, version))
        }
        ["healthz" | "readyz" | "livez", ..] => Reply::Text("ok"),
        _ => {
            let found = match segments {
                ["api"] => Ok(discovery::core_versions()),
                ["apis"] => Ok(discovery::groups(|group| is_group(face, group))),
                ["api", "v1"] => discovery::resources(""),
                ["apis", group] if is_group(face, group) => discovery::group(group),
                ["apis", group, version] if is_version(face, group, version) => {
                    discovery::resources(group)
                }
                ["openapi", "v3"] => Ok(discovery::openapi_index()),
                ["openapi", "v3", "api", "v1"] => Ok(discovery::openapi("")),
                ["openapi", "v3", "apis", group, _] => Ok(discovery::openapi(group)),
                ["apis", _, _] => Err(Refusal::no_such_path()),
                _ => return None,
            };
            if caller.is_some_and(Caller::is_anonymous) {
                let path = segments.join("/");
                let message =
                    format!("forbidden: User \"system:anonymous\" cannot get path \"/{path}\"");
                return Some(Err(Refusal::new(403, "Forbidden", message)));
            }
            return Some(found.map(Reply::Json));
        }
    };
    Some(Ok(open))
}

/// Reads what is asked.
async fn read_call(segments: &[&str], request: Request) -> Outcome<Call> {
    let (group, rest) = match segments {
        ["api", "v1", rest @ ..] => ("", rest),
        ["apis", group, version, rest @ ..] if *version == resource::version_of(group) => {
            (*group, rest)
        }
        _ => return Err(Refusal::no_such_path()),
    };
    let target = target_of(group, rest).ok_or_else(Refusal::no_such_path)?;
    let (parts, body) = request.into_parts();
    let query: BTreeMap<String, String> =
        url::form_urlencoded::parse(parts.uri.query().unwrap_or("").as_bytes())
            .into_owned()
            .collect();
    let body = axum::body::to_bytes(body, LARGEST_BODY).await.map_err(|_| {
        Refusal::new(413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728")
    })?;
    let header = |name: header::HeaderName| {
        parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned()
    };
    let content_type = header(header::CONTENT_TYPE);
    if content_type.contains("protobuf") || content_type.contains("cbor") {
        return Err(Refusal::unsupported_media_type(&content_type));
    }
    let manager = match query.get("fieldManager").filter(|manager| !manager.is_empty()) {
        Some(manager) => manager.clone(),
        None => header(header::USER_AGENT).split('/').next().unwrap_or("").to_owned(),
    };
    let is_watch = query.get("watch").is_some_and(|watch| matches!(watch.as_str(), "1" | "true"));
    let verb = verb_of(&parts.method, &target, is_watch)?;
    Ok(Call {
        verb,
        resource: target.resource,
        namespace: target.namespace,
        name: target.name,
        subresource: target.subresource,
        query,
        content_type,
        body,
        manager: if manager.is_empty() { "unknown".to_owned() } else { manager },
    })
}

struct Target {
    resource: &'static resource::Resource,
    namespace: String,
    name: String,
    subresource: String,
}

fn target_of(group: &str, rest: &[&str]) -> Option<Target> {
    let (namespace, rest) = match rest {
        ["namespaces", namespace, inner, ..]
            if resource::by_plural(group, inner).is_some_and(|found| found.is_namespaced) =>
        {
            (*namespace, &rest[2..])
        }
        _ => ("", rest),
    };
    let (plural, name, subresource) = match rest {
        [plural] => (plural, "", ""),
        [plural, name] => (plural, *name, ""),
        [plural, name, subresource] => (plural, *name, *subresource),
        _ => return None,
    };
    let resource = resource::by_plural(group, plural)?;
    let is_known = subresource.is_empty() || resource.subresources.contains(&subresource);
    let is_placed = !resource.is_namespaced || !namespace.is_empty() || name.is_empty();
    (is_known && is_placed).then(|| Target {
        resource,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        subresource: subresource.to_owned(),
    })
}

fn verb_of(method: &Method, target: &Target, is_watch: bool) -> Outcome<Verb> {
    let is_collection = target.name.is_empty();
    match *method {
        Method::GET if is_watch => Ok(Verb::Watch),
        Method::GET if is_collection => Ok(Verb::List),
        Method::GET => Ok(Verb::Get),
        Method::POST if is_collection != target.subresource.is_empty() => {
            Err(Refusal::method_not_allowed())
        }
        Method::POST if target.resource.is_namespaced && target.namespace.is_empty() => {
            Err(Refusal::method_not_allowed())
        }
        Method::POST => Ok(Verb::Create),
        Method::DELETE if is_collection => Ok(Verb::DeleteCollection),
        Method::DELETE => Ok(Verb::Delete),
        Method::PUT if !is_collection => Ok(Verb::Update),
        Method::PATCH if !is_collection => Ok(Verb::Patch),
        _ => Err(Refusal::method_not_allowed()),
    }
}

fn answer_response(answer: Answer) -> Response {
    match answer {
        Answer::Object(code, object) => json_response(code, &*object),
        Answer::List(list) => json_response(200, &list),
        Answer::Watch(watch) => watch_response(watch),
    }
}

/// The answer as `kubectl get` asks for it.
fn table_response(answer: Answer, clock: &SharedClock) -> Response {
    match answer {
        Answer::Object(code, object) if object["kind"] != "Status" => {
            json_response(code, &table::of_object(&object, clock.now()))
        }
        Answer::List(list) => json_response(200, &table::of_list(&list, clock.now())),
        Answer::Watch(watch) => watch_response(watch.with_tables(Arc::clone(clock))),
        Answer::Object(..) => answer_response(answer),
    }
}

fn json_response(code: u16, value: &impl Serialize) -> Response {
    let body = serde_json::to_vec(value).unwrap_or_default();
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::OK);
    (code, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn refusal_response(refusal: &Refusal) -> Response {
    let mut response = json_response(refusal.code, &refusal.to_status());
    if let Some(seconds) = refusal.retry_after() {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

fn watch_response(watch: Watch) -> Response {
    let lines = stream::unfold(watch, |mut watch| async move {
        let line = watch.next().await?;
        Some((Ok::<_, std::convert::Infallible>(line), watch))
    });
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(lines)).into_response()
}

impl List {
    /// The list's own metadata.
    pub(super) fn metadata(&self) -> Value {
        let mut metadata = json!({"resourceVersion": self.revision.to_string()});
        if let Some((token, remaining)) = &self.rest {
            metadata["continue"] = token.as_str().into();
            metadata["remainingItemCount"] = (*remaining).into();
        }
        metadata
    }
}

impl Serialize for List {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let items: Vec<Item<'_>> = self.items.iter().map(|object| Item(object)).collect();
        let mut map = serializer.serialize_map(Some(4))?;
        map.serialize_entry("kind", &format!("{}List", self.resource.kind.name()))?;
        map.serialize_entry("apiVersion", &self.resource.api_version())?;
        map.serialize_entry("metadata", &self.metadata())?;
        map.serialize_entry("items", &items)?;
        map.end()
    }
}

/// An object in a list: a real server leaves its type out, since the list tells it.
struct Item<'a>(&'a Value);

impl Serialize for Item<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = self.0.as_object().into_iter().flatten();
        serializer.collect_map(fields.filter(|(key, _)| *key != "kind" && *key != "apiVersion"))
    }
}
