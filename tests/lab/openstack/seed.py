"""What a new cloud is given: users, endpoints, flavors, an image, a network.

The two clouds differ on purpose in the names of their flavors, their zones and
their address ranges: whoever moves a node between them has to map these.
"""
import json
import os

import rest
from cloud import HYPERVISORS

SERVICES = (("placement", "placement"), ("glance", "image"), ("neutron", "network"),
            ("nova-api", "compute"))
KUBERNETES_VERSION = "1.36.2"
SIZES = {"2c4g": (2, 4096, 40), "4c8g": (4, 8192, 40)}
FLAVOR_NAME = {"east": "k8s.%s", "west": "m1.k8s-%s"}
RANGE = {"east": "10.10.0.0/16", "west": "10.20.0.0/16"}
ZONE = {"east": None, "west": "west-a"}     # without one a host is in "nova"
SECRET = "lab-application-credential"


def identity(cloud):
    """Needs only keystone."""
    admin = rest.Client(cloud.urls())
    roles = {r["name"]: r["id"] for r in admin.get("keystone", "/roles")["roles"]}

    def make(kind, plural, **fields):
        return admin.post("keystone", "/" + plural, {kind: fields})[kind]["id"]

    def grant(project, user, *names):
        for name in names:
            if name not in roles:      # Zed's bootstrap does not make "service"
                roles[name] = make("role", "roles", name=name)
            admin.call("PUT", "keystone", "/projects/%s/users/%s/roles/%s"
                       % (project, user, roles[name]))
    for name, extra in (("service", ("admin", "service")), ("kaas", ("member",))):
        project = make("project", "projects", name=name, domain_id="default")
        user = make("user", "users", name=name, password=rest.PASSWORD,
                    domain_id="default", default_project_id=project)
        grant(project, user, *extra)
    for name, kind in SERVICES:
        service = make("service", "services", name=name, type=kind)
        make("endpoint", "endpoints", service_id=service, interface="public",
             url=cloud.url(name), region_id=cloud.name)


def hosts_mapped(admin):
    """The scheduler finds new hosts by itself, some seconds after they came up."""
    return len(admin.get("nova-api", "/os-hypervisors")["hypervisors"]) >= HYPERVISORS


def resources(cloud):
    """Needs all services."""
    admin = rest.Client(cloud.urls())
    for size, (vcpus, ram, disk) in SIZES.items():
        admin.post("nova-api", "/flavors", {"flavor": {
            "name": FLAVOR_NAME[cloud.name] % size, "vcpus": vcpus, "ram": ram, "disk": disk}})
    make_image(admin)
    if ZONE[cloud.name]:
        make_zone(cloud, admin)
    member = rest.Client(cloud.urls(), "kaas", "kaas")
    make_network(cloud, member)
    credential = member.post(
        "keystone", "/users/%s/application_credentials" % member.user_id,
        {"application_credential": {"name": "kaas", "secret": SECRET, "unrestricted": False}})
    with open(cloud.path("data/seed.json"), "w") as f:
        json.dump({"application_credential_id": credential["application_credential"]["id"]}, f)


def make_image(admin):
    image = admin.post("glance", "/v2/images", {
        "name": "zcp-node-" + KUBERNETES_VERSION, "disk_format": "raw",
        "container_format": "bare", "visibility": "public",
        "kubernetes_version": KUBERNETES_VERSION})
    admin.call("PUT", "glance", "/v2/images/%s/file" % image["id"], bytes(65536),
               headers={"Content-Type": "application/octet-stream"})


def make_zone(cloud, admin):
    aggregate = admin.post("nova-api", "/os-aggregates", {"aggregate": {
        "name": ZONE[cloud.name], "availability_zone": ZONE[cloud.name]}})["aggregate"]["id"]
    for number in cloud.hypervisor_numbers():
        admin.post("nova-api", "/os-aggregates/%s/action" % aggregate,
                   {"add_host": {"host": "%s-hv%d" % (cloud.name, number)}})


def make_network(cloud, member):
    network = member.post("neutron", "/v2.0/networks",
                          {"network": {"name": "kaas"}})["network"]["id"]
    member.post("neutron", "/v2.0/subnets", {"subnet": {
        "network_id": network, "name": "kaas", "ip_version": 4, "cidr": RANGE[cloud.name],
        "enable_dhcp": False}})
    group = member.post("neutron", "/v2.0/security-groups",
                        {"security_group": {"name": "kaas-nodes"}})["security_group"]["id"]
    for source in RANGE.values():      # nodes of one cluster may be in both clouds
        member.post("neutron", "/v2.0/security-group-rules", {"security_group_rule": {
            "security_group_id": group, "direction": "ingress", "ethertype": "IPv4",
            "remote_ip_prefix": source}})


def write_clouds_yaml(state, clouds):
    lines = ["clouds:"]
    for cloud in clouds:
        with open(os.path.join(cloud.golden, "seed.json")) as f:
            credential = json.load(f)["application_credential_id"]
        url, common = cloud.url("keystone"), ["    region_name: " + cloud.name,
                                              "    identity_api_version: 3"]
        for entry, name in ((cloud.name, "kaas"), (cloud.name + "-admin", "admin")):
            lines += ["  %s:" % entry] + common + [
                "    auth:", "      auth_url: " + url, "      username: " + name,
                "      password: " + rest.PASSWORD, "      project_name: " + name,
                "      user_domain_id: default", "      project_domain_id: default"]
        lines += ["  %s-app:" % cloud.name] + common + [
            "    auth_type: v3applicationcredential", "    auth:", "      auth_url: " + url,
            "      application_credential_id: " + credential,
            "      application_credential_secret: " + SECRET]
    with open(os.path.join(state, "clouds.yaml"), "w") as f:
        f.write("\n".join(lines) + "\n")
