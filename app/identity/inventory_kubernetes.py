"""Kubernetes objects as `kubectl get -o yaml` prints them: Pod, Service, ServiceEntry, Node.

They have many members; only those that matter here are read, and none is refused for being unknown.
"""

from __future__ import annotations

from app.errors import FieldError
from app.identity.inventory import Node, Service, Workload
from app.identity.inventory_fields import Fields, ParsedInventory, canonical_address, is_port

_HEADLESS = {"", "None"}


def read_object(item: Fields, parsed: ParsedInventory) -> None:
    """Read one object into the inventory, or note why that is not possible."""
    kind = item.raw("kind")
    match kind:
        case "Pod":
            _read_pod(item, parsed)
        case "Service":
            _read_service(item, parsed)
        case "ServiceEntry":
            _read_service_entry(item, parsed)
        case "Node":
            _read_node(item, parsed)
        case _:
            item.complain("kind", "Pod, Service, ServiceEntry or Node is wanted")


def _read_pod(item: Fields, parsed: ParsedInventory) -> None:
    metadata, spec, status = item.object("metadata"), item.object("spec"), item.object("status")
    namespace, name = metadata.namespace("namespace"), metadata.name("name")
    if spec.raw("nodeName") is None:
        parsed.warnings.append(_note(item, "the pod is not scheduled to a node yet and was left out"))
        return
    node = spec.name("nodeName")
    account = spec.name("serviceAccountName", default="default")
    uid, labels = metadata.text("uid"), metadata.labels("labels")
    phase = status.text("phase") or "Unknown"
    addresses = [text for address in status.objects("podIPs") if (text := canonical_address(address.raw("ip")))]
    if not addresses and (single := canonical_address(status.raw("podIP"))):
        addresses = [single]
    if None not in (namespace, name, account, node):
        parsed.add_workload(
            item.pointer,
            Workload(
                namespace=str(namespace),
                name=str(name),
                service_account=str(account),
                node=str(node),
                uid=uid,
                phase=phase,
                addresses=tuple(addresses),
                labels=labels,
                cluster=parsed.clusters.default,
            ),
        )


def _read_service(item: Fields, parsed: ParsedInventory) -> None:
    metadata, spec = item.object("metadata"), item.object("spec")
    namespace, name = metadata.namespace("namespace"), metadata.name("name")
    labels = metadata.labels("labels")
    texts = spec.raw("clusterIPs")
    if not isinstance(texts, list):
        texts = [spec.raw("clusterIP") or ""]
    addresses = []
    for index, text in enumerate(texts):
        if text in _HEADLESS:
            continue
        address = canonical_address(text)
        if address is None:
            spec.complain_at("clusterIPs", index, "an IP address is wanted")
        else:
            addresses.append(address)
    ports = _ports(spec, "port")
    if namespace is not None and name is not None:
        parsed.add_service(
            item.pointer,
            Service(namespace=namespace, name=name, addresses=tuple(addresses), ports=ports, labels=labels),
        )


def _read_service_entry(item: Fields, parsed: ParsedInventory) -> None:
    metadata, spec, status = item.object("metadata"), item.object("spec"), item.object("status")
    namespace, name = metadata.namespace("namespace"), metadata.name("name")
    labels, hosts, ports = metadata.labels("labels"), spec.hosts("hosts"), _ports(spec, "number")
    addresses = []
    for index, text in enumerate(spec.raw("addresses") or []):
        if (address := canonical_address(text)) is not None:
            addresses.append(address)
        elif isinstance(text, str) and "/" in text:
            parsed.warnings.append(_note(item, f"the address range {text[:64]} was left out: only addresses count"))
        else:
            spec.complain_at("addresses", index, "an IP address is wanted")
    # Addresses that Istio gave to an entry without its own.
    addresses += [text for value in status.objects("addresses") if (text := canonical_address(value.raw("value")))]
    if namespace is not None and name is not None:
        parsed.add_service(
            item.pointer,
            Service(
                namespace=namespace,
                name=name,
                registry="External",
                hosts=hosts,
                addresses=tuple(dict.fromkeys(addresses)),
                ports=ports,
                labels=labels,
            ),
        )


def _read_node(item: Fields, parsed: ParsedInventory) -> None:
    name = item.object("metadata").name("name")
    if name is not None:
        node = Node(name=name, cluster=parsed.clusters.default)
        parsed.add_node(item.pointer, node)
        parsed.silent_about_bans.add(node.key)


def _ports(spec: Fields, member: str) -> tuple[int, ...]:
    found = []
    for port in spec.objects("ports"):
        number = port.raw(member)
        if is_port(number):
            found.append(number)
        else:
            port.complain(member, "a port from 1 to 65535 is wanted")
    return tuple(dict.fromkeys(found))


def _note(item: Fields, message: str) -> FieldError:
    return FieldError(item.pointer, message)
