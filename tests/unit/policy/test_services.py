"""Services by address."""

from __future__ import annotations

import pytest

from app.errors import AppError
from app.identity.inventory import Service
from app.policy.services import ServiceIndex, service_from_json, service_to_json
from app.policy.target import ServiceRef


def _service(name: str, *addresses: str, ports: tuple[int, ...] = ()) -> Service:
    return Service(namespace="shop", name=name, addresses=addresses, ports=ports)


def _index(*services: Service) -> ServiceIndex:
    return ServiceIndex.empty().replaced({service.key: service for service in services}, ())


def test_an_address_leads_to_its_service() -> None:
    """Lookup is by address and, where a service has ports, by port."""
    index = _index(_service("orders", "10.0.0.1", ports=(80,)), _service("web", "10.0.0.2"))

    assert (ServiceRef("shop", "orders"),) == index.lookup("10.0.0.1", 80)
    assert () == index.lookup("10.0.0.1", 81)
    assert (ServiceRef("shop", "web"),) == index.lookup("10.0.0.2", 81)
    assert () == index.lookup("10.0.0.3", 80)
    assert () == index.lookup("not an address", 80)


def test_services_that_share_an_address_are_all_found() -> None:
    """The order is that of their keys, so it does not depend on how the index came about."""
    one, two = _service("a", "10.0.0.1"), _service("b", "10.0.0.1")

    assert (ServiceRef("shop", "a"), ServiceRef("shop", "b")) == _index(two, one).lookup("10.0.0.1", 1)


@pytest.mark.parametrize("spelling", ["FD00::1", "fd00:0:0::1", "fd00::0001"])
def test_spellings_of_an_address_are_one(spelling: str) -> None:
    """IPv6 addresses are compared by value."""
    assert (ServiceRef("shop", "six"),) == _index(_service("six", "fd00::1")).lookup(spelling, 80)


def test_mapped_addresses_are_ipv4() -> None:
    """`::ffff:10.0.0.1` is 10.0.0.1."""
    assert (ServiceRef("shop", "four"),) == _index(_service("four", "10.0.0.1")).lookup("::ffff:10.0.0.1", 80)


def test_replacing_leaves_the_old_index_alone() -> None:
    """A change makes another index; addresses that were given up lead nowhere."""
    before = _index(_service("orders", "10.0.0.1"))
    moved = _service("orders", "10.0.0.9")

    after = before.replaced({moved.key: moved}, ())
    gone = after.replaced({}, [moved.key, "Kubernetes/shop/unknown"])

    assert (ServiceRef("shop", "orders"),) == before.lookup("10.0.0.1", 80)
    assert () == after.lookup("10.0.0.1", 80)
    assert (ServiceRef("shop", "orders"),) == after.lookup("10.0.0.9", 80)
    assert () == gone.lookup("10.0.0.9", 80)
    assert (1, 1, 0) == (len(before), len(after), len(gone))


def test_the_json_of_a_service_reads_back() -> None:
    """What is written into a snapshot is read from it."""
    service = Service(
        namespace="shop",
        name="api",
        registry="External",
        hosts=("api.example.org",),
        addresses=("240.0.0.1",),
        ports=(443,),
        labels=(("a", "b"),),
    )

    assert service == service_from_json(service_to_json(service))


@pytest.mark.parametrize("value", [None, "x", {}, {"namespace": "a"}, []])
def test_what_is_no_service_is_refused(value: object) -> None:
    """A part with something else in it is an error, not a crash."""
    with pytest.raises(AppError):
        service_from_json(value)


def test_a_host_leads_to_its_service_in_any_spelling() -> None:
    """Case, a trailing dot and a port of the proxy's own do not count."""
    orders = Service(namespace="shop", name="orders", hosts=("Orders.shop.svc.",), ports=(80,))
    index = _index(orders)

    found = (ServiceRef("shop", "orders"),)
    for host in (
        "orders.shop.svc",
        "ORDERS.SHOP.SVC",
        "orders.shop.svc.",
        "orders.shop.svc:80",
        "orders.shop.svc.:8443",
    ):
        assert found == index.lookup_host(host, 0)
        assert found == index.lookup_host(host, 8443)
    for host in ("", "x.orders.shop.svc", "orders.shop.svc:", "orders.shop.svc:x", "orders.shop.svc:123456"):
        assert () == index.lookup_host(host, 80)


def test_a_port_chooses_among_services_of_one_host() -> None:
    """That of the header before that of the connection; one that is nobody's means all of them."""
    plain = Service(namespace="shop", name="plain", hosts=("api.example",), ports=(80,))
    secure = Service(namespace="shop", name="secure", hosts=("api.example",), ports=(443,))
    index = _index(plain, secure)

    assert (ServiceRef("shop", "plain"),) == index.lookup_host("api.example", 80)
    assert (ServiceRef("shop", "secure"),) == index.lookup_host("api.example:443", 80)
    assert (ServiceRef("shop", "plain"), ServiceRef("shop", "secure")) == index.lookup_host("api.example", 8443)


def test_the_longest_wildcard_holds_where_no_name_is_exact() -> None:
    """`*.a` is for what ends in `.a`, not for `a` itself."""
    wide = Service(namespace="shop", name="wide", hosts=("*.example",))
    long = Service(namespace="shop", name="long", hosts=("*.eu.example",))
    exact = Service(namespace="shop", name="exact", hosts=("api.eu.example",))
    index = _index(wide, long, exact)

    assert [(ServiceRef("shop", name),) for name in ("wide", "long", "exact")] == [
        index.lookup_host(host, 0) for host in ("api.example", "v1.api.eu.example", "api.eu.example")
    ]
    assert () == index.lookup_host("example", 0)
    assert () == index.replaced({}, [wide.key]).lookup_host("api.example", 0)
    assert () == index.lookup_host("a." * 500 + "example", 0)


def test_a_service_is_found_by_its_key() -> None:
    """Registry, namespace and name."""
    index = _index(_service("orders", "10.0.0.1"))

    assert ServiceRef("shop", "orders") == index.named("Kubernetes/shop/orders")
    assert index.named("External/shop/orders") is None
