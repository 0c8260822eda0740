"""What the real Envoy makes of a path in each mode of the mesh, and that decision cases see the same."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from app.demo.envoy import Envoy
from app.demo.envoy_parts import LOOPBACK, bootstrap, connection_manager, router, socket_address, virtual_host
from app.policy.mesh import PathNormalization
from app.policy.paths import normalize
from tests.support.raw_http import RawClient

pytestmark = pytest.mark.e2e

# How istiod writes each mode.
_MODES: dict[PathNormalization, dict[str, Any]] = {
    PathNormalization.NONE: {},
    PathNormalization.BASE: {"normalize_path": True},
    PathNormalization.MERGE_SLASHES: {"normalize_path": True, "merge_slashes": True},
    PathNormalization.DECODE_AND_MERGE_SLASHES: {
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD",
    },
}
# Not `..;`, which this Envoy takes for `..` and those before it did not, and nothing beyond ASCII: HTTP/1 has none.
_PIECES = (
    *("a", "A", "..", ".", "...", "", "\\", "%2e", "%2E%2e", "%2f", "%2F", "%5c", "%5C", "%2f..", "..%5c", "a.", ".a"),
    *("%61", "%7e", "%2D", "%5f", "%39", "%25", "%252e", "%00", "%20", "%zz", "%2", "%", "%c0%ae", "%ff", "%23", "%3f"),
    *('"<>^`{|}', "!$&'()*+,=:@~[]-_", "a;b", ";"),
)


def _listener(mode: PathNormalization) -> dict[str, Any]:
    hosts = virtual_host({"match": {"prefix": ""}, "direct_response": {"status": 200, "body": {"inline_string": "ok"}}})
    seen = {"header": {"key": "x-path", "value": "%REQ(:path)%"}}
    hosts["response_headers_to_add"] = [seen]
    manager = connection_manager(mode, route_config=hosts, http_filters=[router()], **_MODES[mode])
    return {"name": mode, "address": socket_address(f"{LOOPBACK}:0"), "filter_chains": [{"filters": [manager]}]}


def _paths(count: int) -> list[str]:
    chance = random.Random(20)  # the same paths every time
    found = ["/", "//", "///", "/?a|b", "/a?b=/../c", "/a/..", "/../../a", "/.//", "//?q"]
    for _ in range(count):
        pieces = chance.choices(_PIECES, k=chance.randint(1, 5))
        found.append("/" + chance.choice(("/", "/", "")).join(pieces))
    return found


async def _seen(http: RawClient, path: str) -> str | None:
    """The path that filters see, None when Envoy refuses it."""
    await http.send(f"GET {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
    answer = await http.response()
    assert answer.status in (200, 400)
    return answer.headers["x-path"] if answer.status == 200 else None


async def test_envoy_hands_filters_the_path_that_cases_see(tmp_path: Path) -> None:
    """The same path, and the same refusals, in every mode."""
    config = bootstrap("paths", [_listener(mode) for mode in _MODES], [])
    differ = []
    async with Envoy("paths", config, tmp_path) as envoy:
        for mode in _MODES:
            http = await RawClient.connect(envoy.ports[mode])
            for path in _paths(250):
                seen = await _seen(http, path)
                if seen != normalize(path, mode):
                    differ.append((mode.value, path, seen, normalize(path, mode)))
                if seen is None:  # Envoy closes after a refusal
                    await http.close()
                    http = await RawClient.connect(envoy.ports[mode])
            await http.close()

    assert [] == differ
