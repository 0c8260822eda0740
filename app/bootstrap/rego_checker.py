"""Builds what evaluates Rego: the checker of the authority process."""

from __future__ import annotations

from app.authority.policies.check_rego import RegoChecker
from app.rego.check_modules import ChildChecker, OpaChecker
from app.settings import Settings


def rego_checker(settings: Settings) -> RegoChecker:
    """Who checks modules before they are stored: `opa check` where it is configured, else rego-cpp."""
    rego, limits = settings.rego, settings.limits.rego
    return ChildChecker(limits, user=rego.user) if rego.opa_program is None else OpaChecker(rego.opa_program, limits)
