"""What the operations port answers."""

from typing import Any

import pytest

from app.supervisor.probes import create_probes_app


async def _get(path: str, roles: dict[str, str], *, method: str = "GET") -> tuple[int, str]:
    app = create_probes_app(readiness=lambda: roles, details=lambda: {"process a": "ok"}, metrics=lambda: b"m 1\n")
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("a probe has no body")

    plain, _, query = path.partition("?")
    scope = {"type": "http", "method": method, "path": plain, "query_string": query.encode()}
    await app(scope, receive, send)
    return sent[0]["status"], sent[1]["body"].decode()


@pytest.mark.parametrize(
    ("path", "roles", "expected"),
    [
        ("/livez", {"authority": "away"}, (200, "ok\n")),
        ("/livez?verbose", {}, (200, "[+] supervisor: ok\n")),
        ("/readyz", {"authority": "ok", "decision": "ok"}, (200, "ok\n")),
        ("/healthz", {"authority": "ok"}, (200, "ok\n")),
        ("/readyz", {"authority": "signer: away", "decision": "ok"}, (503, "[-] authority: signer: away\n[+] decision: ok\n")),
        ("/readyz?verbose", {"authority": "ok"}, (200, "[+] authority: ok\n[+] process a: ok\n")),
        ("/metrics", {}, (200, "m 1\n")),
        ("/other", {}, (404, "not found; /metrics, /livez and /readyz are here\n")),
    ],
)  # fmt: skip
async def test_each_path_answers(path: str, roles: dict[str, str], expected: tuple[int, str]) -> None:
    """Liveness asks nobody, readiness asks every role, the rest is refused."""
    assert expected == await _get(path, roles)


async def test_only_reading_methods_are_accepted() -> None:
    """HEAD has no body; everything else is refused."""
    assert (200, "") == await _get("/readyz", {"authority": "ok"}, method="HEAD")
    assert 405 == (await _get("/metrics", {}, method="POST"))[0]
