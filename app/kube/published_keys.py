"""The keys with which a cluster signs its tokens, from its API server (`/openid/v1/jwks`)."""

from __future__ import annotations

from app.kube.access import ApiServer
from app.kube.failures import ApiServerError

JWKS = "/openid/v1/jwks"
# The API server answers 406 to who asks for plain JSON; what stands before it may know nothing else.
_ACCEPT = "application/jwk-set+json, application/json"


class PublishedKeys:
    """Implements `app.tokens.jwks_source.JwksSource`."""

    def __init__(self, api: ApiServer, *, max_bytes: int) -> None:
        self._api = api
        self._max_bytes = max_bytes

    async def fetch(self) -> bytes:
        """The current bytes.

        Raises:
            AppError: `UNAVAILABLE` when they cannot be had in time and within bounds.
        """
        try:
            return await self._api.get(JWKS, max_bytes=self._max_bytes, accept=_ACCEPT)
        except ApiServerError as failure:
            raise failure.as_app_error() from failure
