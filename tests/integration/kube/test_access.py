"""How an API server is reached, and what is not believed on the way."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.errors import AppError, ErrorCode
from app.kube import access as access_module
from app.kube.access import ApiServer, ApiServerAccess
from app.kube.failures import ApiServerError
from app.kube.pod_watch import PODS
from app.kube.published_keys import PublishedKeys
from app.limits import KubernetesLimits
from tests.support.kube_api import OUR_TOKEN, KubeApi, client_of, pod
from tests.support.pki import TestAuthority

LIMITS = KubernetesLimits()


async def problem_of(access: ApiServerAccess, path: str = PODS) -> str:
    client = await ApiServer.open(access, LIMITS)
    try:
        with pytest.raises(ApiServerError) as caught:
            await client.get(path)
        return caught.value.problem
    finally:
        await client.close()


def kubeconfig(folder: Path, api: KubeApi, **cluster: Any) -> Path:
    """Two contexts; the current one leads nowhere."""
    value = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "nowhere",
        "clusters": [
            {"name": "nowhere", "cluster": {"server": "https://127.0.0.1:9"}},
            {"name": "here", "cluster": {"server": api.url, "certificate-authority": str(api.ca_file)} | cluster},
        ],
        "users": [{"name": "us", "user": {"token": OUR_TOKEN}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": "us"}} for name in ("nowhere", "here")],
    }
    file = folder / "kubeconfig"
    file.write_text(yaml.safe_dump(value))
    return file


async def test_a_kubeconfig_with_a_context(api: KubeApi, tmp_path: Path) -> None:
    """Also with the roots inside of it, as installers write them."""
    api.put(pod("cart-1"))
    inside = {"certificate-authority-data": base64.b64encode(api.ca_file.read_bytes()).decode()}
    for cluster in ({}, inside):
        client = await ApiServer.open(
            ApiServerAccess(kubeconfig=kubeconfig(tmp_path, api, **cluster), context="here"), LIMITS
        )
        assert "PodList" == json.loads(await client.get(PODS))["kind"]
        await client.close()


async def test_inside_of_a_cluster(api: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the environment and the folder that kubelet gives a pod."""
    from kubernetes.aio.config import incluster_config

    (tmp_path / "token").write_text(OUR_TOKEN)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(api.ca_file))
    assert "Service host/port is not set" in await problem_of(ApiServerAccess(in_cluster=True))
    host, port = api.url.removeprefix("https://").split(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    api.tokens = {OUR_TOKEN, f"bearer {OUR_TOKEN}"}

    client = await ApiServer.open(ApiServerAccess(in_cluster=True), LIMITS)
    assert "PodList" == json.loads(await client.get(PODS))["kind"]
    await client.close()


async def test_a_token_file_that_is_replaced_is_read_again(api: KubeApi, tmp_path: Path) -> None:
    """Kubelet renews projected tokens in place."""
    async with client_of(api, tmp_path) as client:
        await client.get(PODS)
        api.tokens = {"renewed"}
        (tmp_path / "token").write_text("renewed\n")
        await client.get(PODS)


async def test_refused_credentials_are_read_again_from_the_start(
    api: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kubeconfig may have been replaced as a whole."""
    monkeypatch.setattr(access_module, "_RELOAD_SECONDS", -1.0)
    file = kubeconfig(tmp_path, api)
    client = await ApiServer.open(ApiServerAccess(kubeconfig=file, context="here"), LIMITS)
    await client.get(PODS)
    api.tokens = {"another"}
    file.write_text(file.read_text().replace(OUR_TOKEN, "another"))
    with pytest.raises(ApiServerError):
        await client.get(PODS)
    await client.get(PODS)
    await client.close()


async def test_a_server_that_the_roots_do_not_know_gets_no_token(api: KubeApi, tmp_path: Path) -> None:
    """Neither by another root nor by a kubeconfig that says not to look."""
    other = TestAuthority(tmp_path / "other", name="other root")
    (tmp_path / "token").write_text(OUR_TOKEN)
    access = ApiServerAccess(server=api.url, ca_file=other.bundle, token_file=tmp_path / "token")
    careless = kubeconfig(tmp_path, api, **{"insecure-skip-tls-verify": True, "certificate-authority": None})

    assert "TLS" in await problem_of(access)
    assert "insecure-skip-tls-verify" in await problem_of(ApiServerAccess(kubeconfig=careless, context="here"))
    assert [] == api.requests


@pytest.mark.parametrize("server", ["http://10.0.0.1:6443", "http://example.org", "ftp://127.0.0.1", "https://"])
async def test_an_address_on_which_anybody_could_listen_in_is_refused(server: str) -> None:
    """Plain HTTP is for loopback only."""
    assert "must be https" in await problem_of(ApiServerAccess(server=server))


async def test_what_cannot_be_read_is_said_with_its_name(tmp_path: Path) -> None:
    """Nothing of this ends the process: a mounted file may come later."""
    missing = tmp_path / "missing"

    assert "missing" in await problem_of(ApiServerAccess(kubeconfig=missing))
    assert "missing" in await problem_of(ApiServerAccess(server="https://127.0.0.1:9", token_file=missing))
    assert "cannot be read" in await problem_of(ApiServerAccess(kubeconfig=_text(tmp_path, "a: [")))
    assert "cannot be read" in await problem_of(ApiServerAccess(kubeconfig=_text(tmp_path, "just text")))
    assert "Cannot connect" in await problem_of(ApiServerAccess(server="http://127.0.0.1:9"))


def _text(folder: Path, text: str) -> Path:
    file = folder / "file"
    file.write_text(text)
    return file


async def test_no_redirect_is_followed(api: KubeApi, tmp_path: Path) -> None:
    """A token goes to the server that was configured and to no other."""
    api.fail_next(PODS, 302)
    async with client_of(api, tmp_path) as client:
        with pytest.raises(ApiServerError) as caught:
            await client.get(PODS)

    assert (302, 1) == (caught.value.status, len(api.requests))


async def test_an_answer_that_is_too_long_is_no_answer(api: KubeApi, tmp_path: Path) -> None:
    """Keys, too: the bound of a key set holds."""
    api.jwks = b"x" * 1_000
    async with client_of(api, tmp_path) as client:
        assert api.jwks == await PublishedKeys(client, max_bytes=1_000).fetch()
        with pytest.raises(AppError) as caught:
            await PublishedKeys(client, max_bytes=999).fetch()

    assert (ErrorCode.UNAVAILABLE, True) == (caught.value.code, "longer than 999" in caught.value.diagnosis)


async def test_without_the_client_library_the_operator_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra: most of Gatehouse needs no Kubernetes."""
    monkeypatch.setitem(sys.modules, "kubernetes.aio.config", None)
    with pytest.raises(AppError) as caught:
        await ApiServer.open(ApiServerAccess(in_cluster=True), LIMITS)

    assert (ErrorCode.FAILED_PRECONDITION, True) == (caught.value.code, "gatehouse[kube]" in caught.value.detail)
