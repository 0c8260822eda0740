"""The only reader of environment and configuration file.

Every setting has a default that works on a fresh machine, so the first run needs no configuration. A YAML file
(`--config FILE` or `GATEHOUSE_CONFIG`) changes settings; environment variables change them on top:
`limits: {certificate: {max_ttl_seconds: 3600}}` is `GATEHOUSE_LIMITS__CERTIFICATE__MAX_TTL_SECONDS=3600`.
An unknown key is refused in both, naming the nearest known one. Secrets have a `_file` twin each.
What each bound is for stands in `app.limits`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
)

from app.errors import AppError, ErrorCode
from app.settings.checks import contradictions
from app.settings.keys import check_keys, parse_environment, read_config_file
from app.settings.model import Settings

DEFAULT_CONFIG_VARIABLE = "GATEHOUSE_CONFIG"
_MASK = "**********"


def load_settings(config_file: Path | None = None, environ: Mapping[str, str] | None = None, **given: Any) -> Settings:
    """The settings of the file, the environment and `given` (the command line), each on top of the one before.

    Raises:
        AppError: `INVALID` with one sentence that names the setting, what is wrong and what would be right.
    """
    environ = os.environ if environ is None else environ
    if config_file is None and environ.get(DEFAULT_CONFIG_VARIABLE):
        config_file = Path(environ[DEFAULT_CONFIG_VARIABLE])
    from_file = read_config_file(config_file) if config_file is not None else {}
    check_keys(Settings, from_file, where=str(config_file))
    variables = parse_environment(Settings, environ)

    class _Loaded(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - it reads the process's environment
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            environment = EnvSettingsSource(settings_cls)
            environment.env_vars = variables
            return init_settings, environment, InitSettingsSource(settings_cls, init_kwargs=from_file)

    try:
        settings = _Loaded(**{key: value for key, value in given.items() if value is not None})
    except ValidationError as error:
        raise AppError(ErrorCode.INVALID, _sentence(error)) from None
    except ValueError as error:  # a list or a map in the environment that is not JSON
        raise AppError(ErrorCode.INVALID, f"settings: {error}".replace("\n", " ")) from None
    for sentence in contradictions(settings):
        raise AppError(ErrorCode.INVALID, f"settings: {sentence}")
    return settings


def reveal(settings: Settings) -> dict[str, Any]:
    """Every setting as JSON values, secrets in the clear: for handing them to a child process, and nothing else.

    `load_settings(environ={}, **reveal(settings))` gives the same settings.
    """
    values: dict[str, Any] = settings.model_dump(mode="json")
    for section, name in (("database", "url"), ("keys", "passphrase"), ("link", "token")):
        secret = getattr(getattr(settings, section), name)
        values[section][name] = None if secret is None else secret.get_secret_value()
    pin = settings.keys.pkcs11.pin
    values["keys"]["pkcs11"]["pin"] = None if pin is None else pin.get_secret_value()
    return values


def describe(settings: Settings) -> dict[str, Any]:
    """Every setting with its value in force, as JSON values, secrets masked: what `gatehouse config print` shows."""
    shown: dict[str, Any] = settings.model_dump(mode="json")
    if "://" in settings.database_url and "@" in settings.database_url:
        shown["database"]["url"] = _MASK
    return shown


def _sentence(error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_input=False)
    first = problems[0]
    path = ".".join(str(part) for part in first["loc"])
    message = str(first["msg"]).removeprefix("Value error, ")
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"settings: {path + ': ' if path else ''}{message}{more}".replace("\n", " ")
