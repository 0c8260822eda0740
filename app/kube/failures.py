"""What can go wrong with an API server, and what it means for whoever asked."""

from __future__ import annotations

import json

from app.errors import AppError, ErrorCode

NOT_INSTALLED = (
    "the Kubernetes client is not installed; install gatehouse[kube], or take tokens and inventory from elsewhere"
)
GONE = 410
NOT_FOUND = 404
_UNAUTHORIZED = 401
_FORBIDDEN = 403
_MAX_SHOWN = 300

# What the operator can do about a refusal of our own credentials; the caller can do nothing about it.
_ADVICE = {
    _UNAUTHORIZED: "it does not accept Gatehouse's own credentials; check token file, kubeconfig or client certificate",
    _FORBIDDEN: "it forbids this to Gatehouse's service account; apply the ClusterRole of docs/guides/kubernetes.md",
}


class ApiServerError(Exception):
    """The API server gave no answer (`status` 0), or refused with an HTTP status."""

    def __init__(self, message: str, *, status: int = 0, retry_after_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_seconds = retry_after_seconds

    @property
    def problem(self) -> str:
        """One line for the operator, with what to do where we know."""
        text = str(self)
        advice = _ADVICE.get(self.status)
        return f"{advice} ({text})" if advice else text

    def as_app_error(self) -> AppError:
        """The error that leaves the room: always to be tried again, with the diagnosis inside."""
        return AppError(
            ErrorCode.UNAVAILABLE,
            "the Kubernetes API server cannot be asked at the moment; try again",
            diagnosis=self.problem,
        )


def failure_of_status(status: int, body: bytes, retry_after: str = "") -> ApiServerError:
    """The failure that a response with an error status is; its body is a `Status` object or anything else."""
    message, seconds = "", _seconds(retry_after)
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        message = value["message"] if isinstance(value.get("message"), str) else ""
        details = value.get("details")
        if not seconds and isinstance(details, dict):
            seconds = _seconds(details.get("retryAfterSeconds"))
    shown = "".join(character if character.isprintable() else " " for character in message[:_MAX_SHOWN])
    return ApiServerError(f"HTTP {status}{': ' if shown else ''}{shown}", status=status, retry_after_seconds=seconds)


def _seconds(value: object) -> float:
    """A number of seconds, or 0 for whatever is none (an HTTP date too: nobody of them sends one)."""
    try:
        seconds = float(value) if isinstance(value, str | int | float) else 0.0
    except ValueError:
        return 0.0
    return seconds if 0 <= seconds < 3_600 else 0.0
