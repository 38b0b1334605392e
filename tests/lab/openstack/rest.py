"""Small HTTP calls to the clouds, without any OpenStack library."""
import json
import urllib.error
import urllib.request

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
PASSWORD = "lab"


class Failed(OSError):
    def __init__(self, method, url, code, text):
        super().__init__("%s %s: %d %s" % (method, url, code, text[:300]))
        self.code = code
        self.text = text


def call(method, url, body=None, token=None, timeout=60, headers=None):
    """(headers, parsed answer); an answer of 400 or more raises Failed."""
    headers = dict(headers or {}, Accept="application/json")
    data = body if isinstance(body, bytes) else None
    if body is not None and data is None:
        data = json.dumps(body).encode()
        headers.setdefault("Content-Type", "application/json")
    if token:
        headers["X-Auth-Token"] = token
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with OPENER.open(request, timeout=timeout) as reply:
            text = reply.read()
            answer = reply.headers
    except urllib.error.HTTPError as error:
        with error:
            text = error.read()
        if error.code >= 400:
            raise Failed(method, url, error.code, text.decode(errors="replace")) from None
        answer = error.headers     # 300: the list of versions
    return answer, json.loads(text) if text.strip() else None


def token(keystone, user, project):
    domain = {"id": "default"}
    headers, answer = call("POST", keystone + "/auth/tokens", {"auth": {
        "identity": {"methods": ["password"], "password": {
            "user": {"name": user, "domain": domain, "password": PASSWORD}}},
        "scope": {"project": {"name": project, "domain": domain}}}})
    return headers["X-Subject-Token"], answer["token"]


class Client:
    """One user in one project of one cloud; urls: service -> base URL."""

    def __init__(self, urls, user="admin", project="admin"):
        self.urls = urls
        self.token, answer = token(urls["keystone"], user, project)
        self.user_id = answer["user"]["id"]
        self.project_id = answer["project"]["id"]

    def call(self, method, service, path, body=None, **more):
        return call(method, self.urls[service] + path, body, self.token, **more)[1]

    def get(self, service, path, **more):
        return self.call("GET", service, path, **more)

    def post(self, service, path, body, **more):
        return self.call("POST", service, path, body, **more)
