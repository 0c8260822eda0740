"""Pushing modules to an OPA server by its client, with the repairs of that client off."""

from __future__ import annotations

import pytest

from app.errors import AppError, ErrorCode
from app.rego.opa_address import OpaAddress
from app.rego.opa_administration import OpaAdministration
from tests.support.opa_stand_in import OpaStandIn, serve
from tests.support.rego import LIMITS, module

AUTHZ = module("authz", "package shop.authz\n\nallow := true\n", {"keys": [1]})


async def test_modules_and_data_become_what_the_set_has() -> None:
    """As written; what we put there before and is gone is removed; what others put there stays."""
    stand_in = OpaStandIn({}, policies={"gatehouse/shop/old.rego": "package old", "theirs.rego": "package theirs"})
    async with serve(stand_in), OpaAdministration(OpaAddress.parse(f"http://127.0.0.1:{stand_in.port}"), LIMITS) as opa:
        await opa.push([AUTHZ])
        assert await opa.is_healthy()

    assert {"theirs.rego": "package theirs", "gatehouse/shop/authz.rego": AUTHZ.rego} == stand_in.policies
    assert {"shop/authz": {"keys": [1]}} == stand_in.data


async def test_a_refused_module_is_refused_once_and_not_rewritten() -> None:
    """The client would try again with newer syntax; a module is what its author wrote."""
    stand_in = OpaStandIn({})
    bad = module("bad", "package bad\n\nallow { true } # syntax error\n")
    async with serve(stand_in), OpaAdministration(OpaAddress.parse(f"http://127.0.0.1:{stand_in.port}"), LIMITS) as opa:
        with pytest.raises(AppError) as caught:
            await opa.push([bad])

    assert ErrorCode.INVALID == caught.value.code
    assert [("PUT", "/v1/policies/gatehouse/shop/bad.rego")] == [each for each in stand_in.asked if each[0] == "PUT"]


async def test_a_server_that_is_away_is_unavailable_at_once() -> None:
    """Without the pauses of retries."""
    async with OpaAdministration(OpaAddress.parse("http://127.0.0.1:9"), LIMITS) as opa:
        assert not await opa.is_healthy()
        with pytest.raises(AppError) as caught:
            await opa.push([AUTHZ])

    assert ErrorCode.UNAVAILABLE == caught.value.code


def test_a_socket_is_not_for_pushing() -> None:
    """The client speaks TCP only; such an OPA pulls."""
    with pytest.raises(AppError, match="pull our bundle"):
        OpaAdministration(OpaAddress.parse("unix:///run/opa.sock"), LIMITS)


def test_a_token_does_not_travel_in_the_clear() -> None:
    """Plain HTTP with a token is for this host."""
    with pytest.raises(AppError, match="https") as caught:
        OpaAdministration(OpaAddress.parse("http://opa.shop:8181"), LIMITS, token="t")

    assert ErrorCode.INVALID == caught.value.code
