"""Real proxies that ask over HTTP, set up as docs/guides/http-ext-authz.md says: its own snippets, with other addresses."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from app.demo.envoy_parts import cluster

GUIDE = Path(__file__).parents[2] / "docs/guides/http-ext-authz.md"

# What `check.http` must name for the snippets.
NAMED_HEADERS = {
    "identity_header": "x-gatehouse-client",
    "source_header": "x-gatehouse-source",
    "destination_header": "x-gatehouse-destination",
    "upstream_headers": ("x-user",),
}
_FOLDERS = """
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
"""
_NGINX = (
    """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log warn;
events {{ worker_connections 256; }}
http {{
    access_log off; large_client_header_buffers 8 128k; proxy_buffers 8 128k; proxy_buffer_size 128k;
    proxy_busy_buffers_size 256k;
    """
    + _FOLDERS.strip()
    + """
    server {{
        listen 127.0.0.1:{port};
        {snippet}
    }}
    server {{
        listen 127.0.0.1:{backend};
        location / {{ add_header X-Seen-User $http_x_user; return 200 ok; }}
    }}
}}
"""
)


def _snippet(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def with_http_authorization(config: dict[str, Any], address: str, **cluster_fields: Any) -> dict[str, Any]:
    """An Envoy's configuration with the guide's filter before the router of its last listener."""
    manager = config["static_resources"]["listeners"][-1]["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"].insert(-1, yaml.safe_load(_snippet("yaml")))
    manager["route_config"]["response_headers_to_add"] = [
        {"header": {"key": "x-seen-user", "value": "%REQ(x-user)%"}},
        {"header": {"key": "x-seen-cookie", "value": "%REQ(cookie)%"}},
    ]
    config["static_resources"]["clusters"].append(cluster("gatehouse", address, **cluster_fields))
    return config


def find_nginx() -> str | None:
    """The nginx of this machine."""
    return shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/bin")


@asynccontextmanager
async def nginx(check_address: str, folder: Path) -> AsyncIterator[int]:
    """A started nginx that asks before each request; gives its port."""
    with socket.socket() as front, socket.socket() as back:
        for free in (front, back):
            free.bind(("127.0.0.1", 0))
        port, backend = front.getsockname()[1], back.getsockname()[1]
    snippet = (
        _snippet("nginx").replace("127.0.0.1:9192", check_address).replace("127.0.0.1:8080", f"127.0.0.1:{backend}")
    )
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, port=port, backend=backend, snippet=snippet))
    binary = find_nginx()
    assert binary is not None
    process = await asyncio.create_subprocess_exec(
        binary, "-c", str(config), "-p", str(folder), "-e", str(folder / "error.log"), stdin=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(10):
            while not await _answers(port):
                assert process.returncode is None, (folder / "error.log").read_text()
                await asyncio.sleep(0.05)
        yield port
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
