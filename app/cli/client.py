"""The API as the command line calls it: JSON in and out, problems as errors, bounded waiting, no surprises.

No proxy and no credentials from the environment, no redirects: the token goes to the context's URL and nowhere
else.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from app.cli.context import Context, choose_context
from app.cli.failures import CommandError, UsageError, warn
from app.errors import AppError, ErrorCode, FieldError

if TYPE_CHECKING:
    import httpx2

_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 60.0  # above the server's own budget, so that it is the server who says why
_MAX_PAGES = 10_000
_PASSING = frozenset({ErrorCode.UNAVAILABLE, ErrorCode.OVERLOADED, ErrorCode.TIMEOUT})
_AGAIN_SECONDS = 2.0
_LOOPBACK = ("http://127.", "http://localhost", "http://[::1]")


class ApiClient:
    """A connection to one Gatehouse."""

    def __init__(self, context: Context, *, transport: httpx2.BaseTransport | None = None) -> None:
        import httpx2

        if context.token and context.url.startswith("http://") and not context.url.startswith(_LOOPBACK):
            raise UsageError(
                f"{context.url} is not encrypted and not on this host, so the token is not sent there",
                next_step="use an https:// URL in the context",
            )
        headers = {"accept": "application/json"}
        if context.token:
            headers["authorization"] = f"Bearer {context.token}"
        self._context = context
        self._http = httpx2.Client(
            base_url=context.url,
            headers=headers,
            timeout=httpx2.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS),
            trust_env=False,
            follow_redirects=False,
            verify=_trust(context),
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, path: str, **query: Any) -> Any:
        """GET as JSON."""
        return self.call("GET", path, query=query)[0]

    def get_patiently(self, path: str, **query: Any) -> Any:
        """GET as JSON, asked again for as long as Gatehouse is away: for commands that wait for hours anyway."""
        is_told = False
        while True:
            try:
                return self.get(path, **query)
            except AppError as error:
                if error.code not in _PASSING:
                    raise
                if not is_told:
                    warn(f"{error.detail}; waiting on")
                is_told = True
                time.sleep(_AGAIN_SECONDS)

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        if_match: str | None = None,
    ) -> tuple[Any, Mapping[str, str]]:
        """One call: the JSON of the answer, and its headers.

        Raises:
            AppError: what the server said, or `UNAVAILABLE` when it cannot be reached.
        """
        headers = {"if-match": if_match} if if_match is not None else {}
        parameters = {name: value for name, value in (query or {}).items() if value not in (None, "")}
        arguments: dict[str, Any] = {} if body is None else {"json": body}
        response = self._request(method, path, params=parameters, headers=headers, **arguments)
        return self._json(response), response.headers

    def fetch(self, path: str, **query: Any) -> tuple[bytes, Mapping[str, str]]:
        """GET what is not JSON: the bytes of the answer, and its headers.

        Raises:
            AppError: what the server said, or `UNAVAILABLE` when it cannot be reached.
        """
        parameters = {name: value for name, value in query.items() if value not in (None, "")}
        response = self._request("GET", path, params=parameters, headers={"accept": "*/*"})
        return response.content, response.headers

    def _request(self, method: str, path: str, **arguments: Any) -> httpx2.Response:
        import httpx2

        try:
            response = self._http.request(method, path, **arguments)
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            raise CommandError(
                ErrorCode.UNAVAILABLE,
                f"Gatehouse at {self._context.url} does not answer: {str(error) or type(error).__name__}",
                next_step="check that it runs (`gatehouse serve`) and that the context names its address",
            ) from error
        if response.is_success:
            return response
        raise _problem(response)

    def text(self, path: str) -> str:
        """GET of what is no JSON, such as PEM.

        Raises:
            AppError: what the server said, or `UNAVAILABLE` when it cannot be reached.
        """
        return self._request("GET", path).text

    def pages(self, path: str, **query: Any) -> Iterator[Any]:
        """All items of a list, page by page."""
        token = ""
        for _ in range(_MAX_PAGES):
            page = self.get(path, pageToken=token, **query)
            yield from page["items"]
            token = page["nextPageToken"]
            if not token:
                return

    def _json(self, response: httpx2.Response) -> Any:
        try:
            return response.json()
        except ValueError:
            raise CommandError(
                ErrorCode.UNAVAILABLE,
                f"{self._context.url} answers, but not as Gatehouse does",
                next_step="check the address of the context",
            ) from None


def connect(name: str = "") -> ApiClient:
    """A client for the context in force."""
    return ApiClient(choose_context(os.environ, name))


def _trust(context: Context) -> ssl.SSLContext | bool:
    if not context.ca_file:
        return True
    try:
        return ssl.create_default_context(cafile=os.path.expanduser(context.ca_file))  # noqa: PTH111
    except OSError as error:
        raise UsageError(f"the CA file {context.ca_file} of the context cannot be used: {error}") from error


def _problem(response: httpx2.Response) -> AppError:
    try:
        problem = response.json()
        code = ErrorCode(problem["code"])
        errors = tuple(
            FieldError(str(item.get("parameter") or item.get("pointer", "")), str(item.get("message", "")))
            for item in problem.get("errors", [])
        )
        detail = str(problem["detail"])
    except (ValueError, KeyError, TypeError, AttributeError):
        detail = f"the server answered {response.status_code}, and not as Gatehouse does"
        return AppError(ErrorCode.UNAVAILABLE, detail)
    if code is ErrorCode.INTERNAL:
        detail += f" ({problem.get('instance', '')})"
    return AppError(code, detail, errors=errors)
