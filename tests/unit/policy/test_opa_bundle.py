"""Bundles for OPA: the same content is the same bytes, and roots do not overlap."""

from __future__ import annotations

import io
import json
import tarfile
from typing import Any

import pytest

from app.errors import AppError, ErrorCode
from app.limits import PolicyLimits
from app.policy.document import parse_document
from app.policy.opa_bundle import OpaBundle, modules_bundle, policies_bundle
from tests.support.administration import policy
from tests.support.rego import module, module_document

LIB = module("lib", "package shop.lib\n", {"admins": ["ann"]})
AUTHZ = module("authz", "package shop.authz\n\nallow := true\n")


def _files(bundle: OpaBundle) -> dict[str, Any]:
    with tarfile.open(fileobj=io.BytesIO(bundle.archive), mode="r:gz") as tar:
        return {member.name: _content(tar, member) for member in tar}


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Any:
    extracted = tar.extractfile(member)
    assert extracted is not None
    text = extracted.read().decode()
    return text if member.name.endswith(".rego") else json.loads(text)


def test_modules_their_data_and_a_manifest() -> None:
    """The modules as written, their data at their packages, the packages as roots."""
    bundle = modules_bundle([AUTHZ, LIB], max_bytes=10_000)

    assert {
        "/.manifest": {"revision": bundle.etag[:16], "roots": ["shop/authz", "shop/lib"], "rego_version": 1},
        "/data.json": {"shop": {"lib": {"admins": ["ann"]}}},
        "/shop/authz.rego": AUTHZ.rego,
        "/shop/lib.rego": LIB.rego,
    } == _files(bundle)


def test_the_same_content_is_the_same_bytes() -> None:
    """Whatever the order, on every replica; other content has another revision and tag."""
    one, same = (modules_bundle(modules, max_bytes=10_000) for modules in ([AUTHZ, LIB], [LIB, AUTHZ]))
    other = modules_bundle([AUTHZ], max_bytes=10_000)

    assert one == same
    assert one.etag != other.etag


def test_policies_as_data_under_a_root_of_ours() -> None:
    """Every document but the modules, which are in the other bundle."""
    documents = [parse_document(value, PolicyLimits()) for value in (policy(), module_document("authz", AUTHZ.rego))]
    files = _files(policies_bundle(documents, max_bytes=10_000))

    assert {"gatehouse": {"policies": {"AuthorizationPolicy": {"shop": {"cart": policy()}}}}} == files["/data.json"]
    assert ["gatehouse"] == files["/.manifest"]["roots"]


def test_a_bundle_is_bounded() -> None:
    """Before it is packed."""
    with pytest.raises(AppError) as caught:
        modules_bundle([AUTHZ], max_bytes=20)

    assert ErrorCode.TOO_LARGE == caught.value.code
