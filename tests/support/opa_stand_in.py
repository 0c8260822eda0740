"""A stand-in that speaks OPA's data, policy, health and bundle wire formats; its rules are Python functions.

It shows how we speak to an OPA where none can be had, not what Rego means: that is for the real engines beside it.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
from aiohttp import web

from tests.support.loopback_servers import web_site

Rule = Callable[[Any], Any]
UNDEFINED = object()


@dataclass
class OpaStandIn:
    """What it holds, and what it was asked."""

    rules: Mapping[str, Rule]
    token: str = ""
    policies: dict[str, str] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    connections: set[int] = field(default_factory=set)
    tokens: set[str] = field(default_factory=set)  # Authorization headers of questions; empty: there was none
    hang_up: bool = False  # close the connection instead of answering
    answer: web.Response | None = None  # instead of what a rule says
    port: int = 0
    revision: str = ""
    bundle_etag: str = ""

    async def data_api(self, request: web.Request) -> web.StreamResponse:
        """POST and PUT /v1/data/<path>, as OPA documents them."""
        path = request.match_info["path"]
        self.asked.append((request.method, request.raw_path))
        assert request.transport is not None
        self.connections.add(id(request.transport))
        self.tokens.add(request.headers.get("authorization", ""))
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            return web.json_response({"code": "unauthorized", "message": "who?"}, status=401)
        if self.hang_up:
            request.transport.abort()
            return web.Response()
        if self.answer is not None:
            return web.Response(body=self.answer.body, status=self.answer.status)
        body = await request.json()
        if request.method == "PUT":
            self.data[path] = body
            return web.Response(status=204)
        try:
            value = self.rules[path](body["input"]) if path in self.rules else UNDEFINED
        except (KeyError, IndexError, TypeError):
            value = UNDEFINED  # as a rule that looks for what is not there
        answer = {"decision_id": "d"} if value is UNDEFINED else {"result": value, "decision_id": "d"}
        return web.json_response(answer)

    async def policy_api(self, request: web.Request) -> web.StreamResponse:
        """GET, PUT and DELETE of /v1/policies."""
        self.asked.append((request.method, request.raw_path))
        name = request.match_info.get("path", "")
        if request.method == "GET":
            return web.json_response({"result": [{"id": key, "raw": raw} for key, raw in self.policies.items()]})
        if request.method == "DELETE":
            self.policies.pop(name, None)
            return web.json_response({})
        text = await request.text()
        if "syntax error" in text:
            return web.json_response({"code": "invalid_parameter", "message": "bad", "errors": []}, status=400)
        self.policies[name] = text
        return web.json_response({})

    async def health(self, _request: web.Request) -> web.Response:
        """GET /health."""
        return web.json_response({})

    async def pull_bundle(self, url: str, token: str, *, wait_seconds: int = 0) -> int:
        """Fetch a bundle as OPA does, with the tag of the last one; what it holds replaces policies and data."""
        headers = {"authorization": f"Bearer {token}", "if-none-match": self.bundle_etag} if self.bundle_etag else {
            "authorization": f"Bearer {token}"
        }  # fmt: skip
        if wait_seconds:
            headers["prefer"] = f"modes=snapshot;wait={wait_seconds}"
        async with httpx2.AsyncClient(timeout=10 + wait_seconds) as client:
            answer = await client.get(url, headers=headers)
        if answer.status_code == 200:
            self._activate(answer.content)
            self.bundle_etag = answer.headers["etag"]
        return answer.status_code

    def _activate(self, archive: bytes) -> None:
        self.policies.clear()
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as files:
            for member in files:
                extracted = files.extractfile(member)
                assert extracted is not None
                content = extracted.read()
                if member.name.endswith(".manifest"):
                    self.revision = json.loads(content)["revision"]
                elif member.name.endswith("data.json"):
                    self.data = json.loads(content)
                else:
                    self.policies[member.name] = content.decode()


@asynccontextmanager
async def serve(stand_in: OpaStandIn, *, socket_path: str = "") -> AsyncIterator[OpaStandIn]:
    """The stand-in, listening on loopback or a UNIX socket while the context is open."""
    app = web.Application(client_max_size=16_777_216)
    app.router.add_route("*", "/v1/data/{path:.*}", stand_in.data_api)
    app.router.add_route("*", "/v1/policies/{path:.*}", stand_in.policy_api)
    app.router.add_get("/health", stand_in.health)
    async with web_site(app, socket_path=socket_path) as stand_in.port:
        yield stand_in
