"""The two engines as a worker knows them: who is asked for a Provider document, and what follows the snapshot."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping

from app.decision.ports import ProviderAnswer, ProviderQuestion
from app.decision.state import DecisionState
from app.errors import AppError
from app.limits import RegoLimits
from app.policy.document import PROVIDER, REGO_MODULE
from app.policy.provider import Provider, RegoEngine, RegoSpec
from app.policy.rego_module import ModuleSelection, RegoModule
from app.rego.decide_by_rule import decide_by_rule
from app.rego.embedded import EmbeddedEngine, SelectedModules
from app.rego.opa_address import OpaAddress
from app.rego.opa_decisions import OpaDecisions


class EmbeddedProvider:
    """Answers for providers with the embedded engine, over the RegoModules of the snapshot."""

    def __init__(self, limits: RegoLimits, *, user: str) -> None:
        self._limits = limits
        self._modules: Mapping[str, RegoModule] = {}
        self.engine = EmbeddedEngine(lambda: self._modules, limits, user=user)

    async def ask(self, question: ProviderQuestion) -> ProviderAnswer:
        """As `PolicyProvider`."""
        assert question.provider.rego is not None
        return await decide_by_rule(
            SelectedModules(self.engine, _selection(question.provider.rego)), question, self._limits
        )

    def follow(self, state: DecisionState) -> None:
        """Take over the modules, and have what providers select loaded before it is asked for."""
        self._modules = state.values.of(REGO_MODULE)
        wanted: dict[ModuleSelection, list[str]] = {}
        for spec in _specs(state, RegoEngine.EMBEDDED):
            wanted.setdefault(_selection(spec), []).append(spec.path)
        if wanted:
            self.engine.prepare(wanted)
        else:
            self.engine.rest()

    async def close(self) -> None:
        """End the child."""
        await self.engine.close()


class OpaProvider:
    """Answers for providers with the OPA servers that they name."""

    def __init__(
        self,
        limits: RegoLimits,
        *,
        token: str = "",
        token_for: frozenset[OpaAddress] = frozenset(),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`token` goes to the servers of `token_for` and to no other: who writes a Provider chooses only the server."""
        self._limits = limits
        self._token = token
        self._token_for = token_for
        self._tls = tls
        self._servers: dict[OpaAddress, OpaDecisions] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def ask(self, question: ProviderQuestion) -> ProviderAnswer:
        """As `PolicyProvider`."""
        assert question.provider.rego is not None
        try:
            server = self._server(question.provider.rego)
        except AppError as error:
            return ProviderAnswer(False, hint=error.detail)
        return await decide_by_rule(server, question, self._limits)

    def follow(self, state: DecisionState) -> None:
        """Close connections to servers that no provider names any more."""
        named = {_address(spec) for spec in _specs(state, RegoEngine.OPA)}
        for address in self._servers.keys() - named:
            task = asyncio.get_running_loop().create_task(self._servers.pop(address).close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close every connection."""
        for server in self._servers.values():
            await server.close()
        self._servers.clear()

    def _server(self, spec: RegoSpec) -> OpaDecisions:
        address = _address(spec)
        server = self._servers.get(address)
        if server is None:
            if address.is_tls and self._tls is None:
                self._tls = ssl.create_default_context()  # once: it reads the system's roots while nobody is answered
            is_listed = address in self._token_for
            server = self._servers[address] = OpaDecisions(
                address,
                self._limits,
                token=self._token if is_listed else "",
                is_token_withheld=bool(self._token) and not is_listed,
                tls=self._tls,
            )
        return server


def _selection(spec: RegoSpec) -> ModuleSelection:
    return ModuleSelection(names=spec.modules, labels=spec.labels)


def _address(spec: RegoSpec) -> OpaAddress:
    return OpaAddress(socket_path=spec.unix_socket) if spec.unix_socket else OpaAddress.parse(spec.url)


def _specs(state: DecisionState, engine: RegoEngine) -> list[RegoSpec]:
    providers: Mapping[str, Provider] = state.values.of(PROVIDER)
    specs = [providers[key].rego for key in sorted(providers)]
    return [spec for spec in specs if spec is not None and spec.engine is engine]
