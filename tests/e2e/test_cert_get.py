"""`gatehouse cert get` for a real Envoy that serves TLS from its files, and takes a renewal without a restart."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from app.agent.certificate_folder import BUNDLE_SECRET, CERTIFICATE_SECRET, CertificateFolder
from app.agent.keep_fresh import AgentOptions, CertificateAgent
from app.agent.workload_svid import WorkloadSvid
from app.authority.certificates.mint_tokens import TokenSubject
from app.demo.envoy import Envoy
from app.demo.envoy_parts import bootstrap, socket_address, typed
from tests.support.ca import Served, make_world, serve
from tests.support.gatehouse import Gatehouse

pytestmark = pytest.mark.e2e

CART = "spiffe://cluster.local/ns/shop/sa/cart"


def envoy_config(folder: Path) -> dict[str, Any]:
    """One listener whose mutual TLS comes from the folder's SDS files."""

    def secret(name: str, file: str) -> dict[str, Any]:
        source = {"path_config_source": {"path": str(folder / file)}, "resource_api_version": "V3"}
        return {"name": name, "sds_config": source}

    tls = typed(
        "extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        require_client_certificate=True,
        common_tls_context={
            "tls_certificate_sds_secret_configs": [secret(CERTIFICATE_SECRET, "sds-certificate.yaml")],
            "validation_context_sds_secret_config": secret(BUNDLE_SECRET, "sds-bundle.yaml"),
        },
    )
    manager = typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="tls",
        http_filters=[{"name": "router", "typed_config": typed("extensions.filters.http.router.v3.Router")}],
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "ok"}}}]}]},
    )  # fmt: skip
    chain = {
        "filters": [{"name": "http", "typed_config": manager}],
        "transport_socket": {"name": "tls", "typed_config": tls},
    }
    listener = {"name": "tls", "address": socket_address("127.0.0.1:0"), "filter_chains": [chain]}
    return bootstrap("cert-get", [listener], [])


async def served_serial(port: int, svid: WorkloadSvid, folder: Path) -> int:
    """The serial number of the certificate that Envoy shows to a client with a certificate of the mesh."""
    context = ssl.create_default_context(cadata=svid.bundle_pem.decode())
    context.check_hostname = False
    generation = (folder / "..data").resolve()
    context.load_cert_chain(generation / "cert-chain.pem", generation / "key.pem")
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(der).serial_number


def agent_for(served: Served, directory: Path) -> CertificateAgent:
    (directory / "roots.pem").write_bytes(served.roots_pem)
    minted = served.world.tokens.mint(
        TokenSubject(namespace="shop", service_account="cart"),
        token_id="t", now=served.world.clock.now(), lifetime=timedelta(hours=1),
    )  # fmt: skip
    (directory / "token").write_text(minted.token)
    options = AgentOptions(address=served.address, roots_file=directory / "roots.pem", token_file=directory / "token")
    return CertificateAgent(options, CertificateFolder(directory / "tls"), print)


async def test_envoy_serves_from_the_files_and_takes_a_renewal_without_a_restart(tmp_path: Path) -> None:
    """Certificate, key and roots through file-watched SDS; connections made before go on."""
    async with serve(make_world()) as served:
        agent = agent_for(served, tmp_path)
        first = await agent.once()
        async with Envoy("cert-get", envoy_config(tmp_path / "tls"), tmp_path / "envoy") as envoy:
            before = await served_serial(envoy.ports["tls"], first, tmp_path / "tls")
            second = await agent.once()
            async with asyncio.timeout(30):
                while (after := await served_serial(envoy.ports["tls"], second, tmp_path / "tls")) == before:
                    await asyncio.sleep(0.05)

    serials = [x509.load_pem_x509_certificate(svid.chain_pem).serial_number for svid in (first, second)]
    assert serials == [before, after]


async def test_the_command_gets_a_certificate_from_a_whole_gatehouse(tmp_path: Path) -> None:
    """As its user does: mint a token, write the roots, get; renew without the token; watch, and end it with a signal."""
    async with Gatehouse(tmp_path / "gatehouse", workers=1) as gatehouse, await gatehouse.admin() as api:
        inventory = {
            "nodes": [{"name": "node-1"}],
            "workloads": [{"namespace": "shop", "name": "cart-1", "serviceAccount": "cart", "node": "node-1"}],
        }
        assert 200 == (await api.put("/v1/inventory", json=inventory)).status_code
        minted = await api.post("/v1/tokens/workload", json={"namespace": "shop", "serviceAccount": "cart"})
        (tmp_path / "token").write_text(minted.json()["token"])
        (tmp_path / "roots.pem").write_text((await api.get("/v1/trust-bundle.pem")).text)
        command = (
            sys.executable, "-m", "app.cli.main", "cert", "get", str(tmp_path / "tls"),
            "--ca", gatehouse.addresses["ca"], "--ca-file", str(tmp_path / "roots.pem"),
            "--token-file", str(tmp_path / "token"),
        )  # fmt: skip
        once = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        out, _ = await once.communicate()
        renewing = await asyncio.create_subprocess_exec(
            *command[:-2], "--renew", gatehouse.addresses["ca_mtls"], "--identity", CART, stdout=asyncio.subprocess.PIPE
        )
        renewed, _ = await renewing.communicate()
        watching = await asyncio.create_subprocess_exec(*command, "--watch", stderr=asyncio.subprocess.PIPE)
        assert watching.stderr is not None
        line = (await asyncio.wait_for(watching.stderr.readline(), 60)).decode()
        watching.terminate()
        code = await asyncio.wait_for(watching.wait(), 30)
        bundle = json.loads((await api.get("/v1/spiffe-bundle")).text)

    assert (0, True) == (once.returncode, out.decode().startswith(f"{CART} until "))
    assert (0, True) == (renewing.returncode, renewed.decode().startswith(f"{CART} until "))
    assert (0, True) == (code, line.startswith(f"{CART} until ") and "will renew at" in line)
    assert 1 == len(bundle["keys"])
