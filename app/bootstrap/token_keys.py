"""Keys of end users' tokens: followed by the authority, used by the workers; built from settings."""

from __future__ import annotations

from app.authority.policies.follow_token_keys import TokenKeys
from app.authority.policies.token_key_memory import StoredTokenKeys
from app.authority.store import Store
from app.settings import Settings
from app.telemetry import metrics
from app.tokens.fetch_token_keys import HttpTokenKeyFetcher


def build_token_keys(settings: Settings, store: Store) -> TokenKeys:
    """What follows the keys that RequestAuthentications name."""
    hosts = {host.host: host.ca_file for host in settings.tokens.key_hosts}
    limits = settings.limits.tokens
    return TokenKeys(HttpTokenKeyFetcher(limits, hosts), StoredTokenKeys(store), limits, observer=_Metrics())


class _Metrics:
    """Implements `TokenKeyObserver` with metrics."""

    def keys_seen(self, place: str, *, age_seconds: float, error: str) -> None:
        """The age of what is known of a place, and how the attempt ended."""
        metrics.TOKEN_KEYS_AGE.labels(place).set(age_seconds)
        metrics.TOKEN_KEY_FETCHES.labels("failed" if error else "ok").inc()
