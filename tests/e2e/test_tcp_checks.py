"""TCP connections through the real Envoy's network filter ext_authz: decided once, by what TCP has."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from app.demo.envoy import Envoy
from app.demo.envoy_parts import Credentials, bootstrap, cluster, downstream_tls, socket_address, typed
from app.policy.decision import Reason
from tests.support.check_servers import check_listener
from tests.support.decisions import FRONTEND, REPORTS, Worker, worker
from tests.support.loopback_servers import stream_server
from tests.support.pki import TestAuthority
from tests.support.snapshots import point, policy

pytestmark = pytest.mark.e2e

DATABASE = "spiffe://cluster.local/ns/shop/sa/database"
SELECTOR = {"matchLabels": {"app": "database"}}
SIDECAR = point("database", kind="sidecar", labels={"app": "database"}, caller={"listener": "local"})
FROM_FRONTEND = {"from": [{"source": {"principals": ["cluster.local/ns/shop/sa/frontend"]}}]}


def _policy(name: str, action: str, *rules: dict[str, Any]) -> dict[str, Any]:
    return policy(name, selector=SELECTOR, action=action, rules=list(rules))


@pytest.fixture(name="authority", scope="module")
def _authority(tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
    return TestAuthority(tmp_path_factory.mktemp("pki"))


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.readexactly(5))
    await writer.drain()


class Proxy:
    """An Envoy that ends mutual TLS, asks about each connection, and hands its bytes to an echo."""

    def __init__(self, authority: TestAuthority, port: int, serving: Worker) -> None:
        self._authority = authority
        self.port = port
        self.serving = serving

    async def says(self, spiffe_id: str) -> str:
        """What comes back for `hello`; empty when the connection was ended."""
        name = spiffe_id.rpartition("/")[2]
        credentials = self._authority.issue(spiffe_id, file_name=f"tcp-{name}")
        tls = ssl.create_default_context(cafile=str(credentials.trust_bundle))
        tls.check_hostname = False
        tls.load_cert_chain(credentials.certificate, credentials.private_key)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=tls)
        try:
            async with asyncio.timeout(10):
                writer.write(b"hello")
                await writer.drain()
                return (await reader.read(5)).decode()
        except OSError:
            return ""
        finally:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def _proxy(authority: TestAuthority, folder: Path, *policies: dict[str, Any]) -> AsyncIterator[Proxy]:
    serves: Credentials = authority.issue(DATABASE, file_name="tcp-database")
    serving = await worker(SIDECAR, *policies)
    async with stream_server(_echo) as echo, check_listener(serving) as check:
        authz = typed(
            "extensions.filters.network.ext_authz.v3.ExtAuthz",
            stat_prefix="tcp",
            transport_api_version="V3",
            failure_mode_allow=False,
            grpc_service={"envoy_grpc": {"cluster_name": "check"}, "timeout": "5s"},
        )
        tcp = typed("extensions.filters.network.tcp_proxy.v3.TcpProxy", stat_prefix="tcp", cluster="echo")
        listener = {
            "name": "tcp",
            "address": socket_address("127.0.0.1:0"),
            "filter_chains": [
                {
                    "transport_socket": downstream_tls(serves, alpn="database"),
                    "filters": [{"name": "ext_authz", "typed_config": authz}, {"name": "tcp", "typed_config": tcp}],
                }
            ],
        }
        clusters = [
            cluster("check", check.address, http2=True),
            cluster("echo", f"127.0.0.1:{echo}"),
        ]
        async with Envoy("tcp", bootstrap("tcp", [listener], clusters), folder) as envoy:
            yield Proxy(authority, envoy.ports["tcp"], serving)


async def test_a_connection_is_allowed_by_who_opens_it(tmp_path: Path, authority: TestAuthority) -> None:
    """The peer's certificate decides; the metadata of the decision is the same as for HTTP."""
    async with _proxy(authority, tmp_path, _policy("readers", "ALLOW", FROM_FRONTEND)) as proxy:
        assert "hello" == await proxy.says(FRONTEND)
        assert "" == await proxy.says(REPORTS)
        counters = proxy.serving.service.counters
        assert (1, 1) == (counters.allowed[Reason.ALLOW_RULE], counters.denied[Reason.NO_RULE_MATCHED])


async def test_an_allow_rule_about_http_allows_no_connection(tmp_path: Path, authority: TestAuthority) -> None:
    """Left out it would allow more than it says; so the whole rule is."""
    both = {**FROM_FRONTEND, "to": [{"operation": {"methods": ["GET"]}}]}
    async with _proxy(authority, tmp_path, _policy("get", "ALLOW", both)) as proxy:
        assert "" == await proxy.says(FRONTEND)


async def test_a_deny_rule_about_http_denies_the_connection_by_what_is_left_of_it(
    tmp_path: Path, authority: TestAuthority
) -> None:
    """Only the part that TCP has not is left out: the rule gets wider, never narrower."""
    writes = {"from": [{"source": {"principals": ["cluster.local/ns/shop/sa/reports"]}}]}
    writes |= {"to": [{"operation": {"methods": ["POST"], "paths": ["/admin"]}}]}
    async with _proxy(authority, tmp_path, _policy("writes", "DENY", writes)) as proxy:
        assert "" == await proxy.says(REPORTS)
        assert "hello" == await proxy.says(FRONTEND)


async def test_a_rule_about_a_port_is_about_the_port_of_the_connection(
    tmp_path: Path, authority: TestAuthority
) -> None:
    """A DENY of HTTP on another port leaves this one alone, one on this port closes it."""
    http = {"operation": {"methods": ["GET"], "ports": ["1"]}}
    async with _proxy(authority, tmp_path, _policy("elsewhere", "DENY", {"to": [http]})) as proxy:
        assert "hello" == await proxy.says(FRONTEND)
        here = {"operation": {"ports": [str(proxy.port)]}}
        await proxy.serving.put(_policy("here", "DENY", {"to": [here]}))
        assert "" == await proxy.says(FRONTEND)
