"""Step 2: a node agent that speaks as ztunnel does gets the certificates of its node, and no others."""

from __future__ import annotations

import json
import time
from pathlib import Path

import grpc

from app.demo import shop
from app.demo.envoy_parts import Credentials
from app.demo.narrator import DemoFailed, Narrator, expect
from app.demo.node_agent import CertificateRefused, NodeAgent, UnusableResponse, WorkloadCertificate
from app.demo.service import GatehouseService

ANSWER_SECONDS = 10.0


async def get_certificates(narrator: Narrator, gatehouse: GatehouseService, directory: Path) -> dict[str, Credentials]:
    """Certificates as PEM files by service account, after the refusal was shown too."""
    minted = json.loads((await gatehouse.command("token", "node", shop.NODE, "--output", "json")).output)
    narrator.tell(
        f"gatehouse token node {shop.NODE}: a bearer token for the node proxy, good until {minted['expiresAt']}"
    )
    roots = (await gatehouse.rest("GET", "/v1/trust-bundle.pem")).raise_for_status().content
    found = {}
    async with NodeAgent(gatehouse.address("ca"), roots, minted["token"]) as agent:
        for account in (*shop.CLIENTS, shop.WAYPOINT):
            certificate = await _fetch(agent, shop.identity(account))
            found[account] = _as_files(certificate, directory, account)
            hours = (
                certificate.leaf.not_valid_after_utc - certificate.leaf.not_valid_before_utc
            ).total_seconds() / 3600
            narrator.tell(
                f"certificate for {certificate.identity}",
                f"serial {certificate.leaf.serial_number:x}, {hours:.0f} h, "
                f"{len(certificate.intermediates)} intermediate, {len(certificate.roots)} root",
            )
        request_id = await _be_refused(narrator, agent)
    explained = json.loads((await gatehouse.command("ca", "explain", request_id, "--output", "json")).output)
    refused = [step["name"] for step in explained["steps"] if step["outcome"] == "refused"]
    expect(refused == ["placement"], f"gatehouse ca explain names the steps {refused}, not placement")
    narrator.tell(
        f"gatehouse ca explain {request_id}: refused at the step {refused[0]}",
        f"reason: {explained['reason']}",
        f"advice: {explained['advice']}",
    )
    return found


async def _fetch(agent: NodeAgent, identity: str) -> WorkloadCertificate:
    try:
        return await agent.fetch(identity, timeout_seconds=ANSWER_SECONDS)
    except (CertificateRefused, UnusableResponse) as error:
        raise DemoFailed(f"no certificate for {identity}: {error}") from error


async def _be_refused(narrator: Narrator, agent: NodeAgent) -> str:
    """Ask for an identity of another node; the request id of the refusal."""
    started = time.perf_counter()
    try:
        await agent.fetch(shop.ELSEWHERE, timeout_seconds=ANSWER_SECONDS)
    except CertificateRefused as refused:
        expect(refused.code is grpc.StatusCode.UNAUTHENTICATED, f"the refusal has the code {refused.code.name}")
        expect(refused.request_id != "", "the refusal has no request id")
        expect("vault" not in refused.message and "node" not in refused.message, "the refusal tells the caller why")
        narrator.tell(
            f"{shop.ELSEWHERE}, which runs on another node, is refused",
            f"the caller sees only: {refused}",
        )
        return refused.request_id
    raise DemoFailed(f"a certificate for another node's identity was issued in {time.perf_counter() - started:.3f} s")


def _as_files(certificate: WorkloadCertificate, directory: Path, name: str) -> Credentials:
    directory.mkdir(parents=True, exist_ok=True)
    files = Credentials(
        certificate=directory / f"{name}.pem",
        private_key=directory / f"{name}.key",
        trust_bundle=directory / "trust-bundle.pem",
    )
    files.certificate.write_bytes(certificate.chain_pem)
    files.private_key.touch(mode=0o600)
    files.private_key.write_bytes(certificate.key_pem)
    files.trust_bundle.write_bytes(certificate.roots_pem)
    return files
