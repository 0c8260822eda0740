"""The clients of a benchmark of the certificate service, in a process of their own.

Usage: python -m tests.bench.certificate_clients < job.json
The job names `address`, `roots` (PEM), `nodes` (a list of `{token, identities}`), `clients`, `seconds`, and `rate`:
certificates a second to ask for, or null. Without a rate every client asks again as soon as it has its answer. With one,
requests start on a schedule that does not wait for answers, and a latency counts from the moment at which its request
was due: a service that stalls for a second is seen by all who would have asked in that second. Prints one JSON object.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import uvloop
from cryptography.hazmat.primitives.asymmetric import ec

from app.demo.node_agent import CREATE_CERTIFICATE, DEFAULT_CLUSTER_ID, csr_pem, read_chain
from app.rpc.pb.certificates_pb2 import IstioCertificateRequest, IstioCertificateResponse
from tests.bench.load import quantile

CALLS_PER_CONNECTION = 8  # as many as one ztunnel makes
DAY = 86_400
LAST_ANSWERS_SECONDS = 10.0
_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))


@dataclass
class Answers:
    """What came back."""

    latencies: list[float] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)


class Client:
    """One call at a time for one identity. Key and CSR are made once: what clients compute is not measured."""

    def __init__(self, channel: grpc.aio.Channel, token: str, identity: str) -> None:
        self._identity = identity
        self._key = ec.generate_private_key(ec.SECP256R1())
        request = IstioCertificateRequest(csr=csr_pem(self._key, identity), validity_duration=DAY)
        request.metadata.fields["ImpersonatedIdentity"].string_value = identity
        self._request = request.SerializeToString()
        self._metadata = (("authorization", f"Bearer {token}"), ("clusterid", DEFAULT_CLUSTER_ID))
        self._call: Any = channel.unary_unary(CREATE_CERTIFICATE)

    async def warm_up(self) -> None:
        """One answer, read as a ztunnel reads it."""
        answer = IstioCertificateResponse.FromString(await self._call(self._request, metadata=self._metadata))
        read_chain(list(answer.cert_chain), self._key, self._identity, check_identity=True)

    async def ask(self, answers: Answers, *, due: float) -> None:
        """One request; its latency counts from `due`."""
        try:
            await self._call(self._request, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            answers.codes[error.code().name] += 1
            return
        answers.codes["OK"] += 1
        answers.latencies.append(time.perf_counter() - due)


async def closed_loop(clients: list[Client], answers: Answers, *, seconds: float) -> None:
    """Every client asks again as soon as it has its answer."""
    deadline = time.perf_counter() + seconds

    async def one_after_the_other(client: Client) -> None:
        while (started := time.perf_counter()) < deadline:
            await client.ask(answers, due=started)

    await asyncio.gather(*map(one_after_the_other, clients))


async def open_loop(clients: list[Client], answers: Answers, *, seconds: float, rate: float) -> None:
    """Requests arrive at random, `rate` a second, whether or not earlier ones were answered."""
    chance = random.Random(1)
    due = started = time.perf_counter()
    calls: set[asyncio.Task[None]] = set()
    for client in itertools.cycle(clients):
        due += chance.expovariate(rate)
        if due > started + seconds:
            break
        if (pause := due - time.perf_counter()) > 0:
            await asyncio.sleep(pause)
        call = asyncio.create_task(client.ask(answers, due=due))
        calls.add(call)
        call.add_done_callback(calls.discard)
    if calls:
        await asyncio.wait(calls, timeout=LAST_ANSWERS_SECONDS)
    answers.codes["unanswered"] += len(calls)


async def run(job: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """Connect, warm up, say `ready`, and ask for as long as the job says."""
    count = job["clients"]
    nodes = job["nodes"][: max(1, -(-count // CALLS_PER_CONNECTION))]
    trust = grpc.ssl_channel_credentials(job["roots"].encode())
    channels = [grpc.aio.secure_channel(job["address"], trust, options=_OPTIONS) for _ in nodes]
    clients = []
    for number in range(count):
        place = number % len(nodes)
        identities = nodes[place]["identities"]
        identity = identities[number // len(nodes) % len(identities)]
        clients.append(Client(channels[place], nodes[place]["token"], identity))
    answers = Answers()
    await asyncio.gather(*(client.warm_up() for client in clients))
    say("ready")
    gc.freeze()
    gc.disable()  # a collection of the clients is no latency of the service
    started = time.perf_counter()
    if job["rate"]:
        await open_loop(clients, answers, seconds=job["seconds"], rate=job["rate"])
    else:
        await closed_loop(clients, answers, seconds=job["seconds"])
    took = time.perf_counter() - started
    say("done")
    for channel in channels:
        await channel.close()
    ordered = sorted(answers.latencies)
    return {
        "connections": len(channels),
        "seconds": took,
        "codes": {code: times for code, times in answers.codes.items() if times},
        "p50_ms": round(quantile(ordered, 0.5) * 1e3, 2),
        "p99_ms": round(quantile(ordered, 0.99) * 1e3, 2),
    }


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    print(json.dumps(uvloop.run(run(json.load(sys.stdin), _say))))
