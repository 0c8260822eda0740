"""One Gatehouse per state directory and per port."""

import socket
from pathlib import Path

import pytest

from app.errors import AppError
from app.settings import Listener
from app.supervisor.guards import PortGuard, lock_state_directory


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_second_start_on_the_state_directory_names_the_first(tmp_path: Path) -> None:
    """The sentence has the directory and the process."""
    with (
        lock_state_directory(tmp_path / "state"),
        pytest.raises(AppError, match=r"in use by another Gatehouse \(process \d+\)"),
        lock_state_directory(tmp_path / "state"),
    ):
        pytest.fail("two processes hold one state directory")


def test_the_state_directory_is_for_its_user_only_and_is_free_again_afterwards(tmp_path: Path) -> None:
    """Mode 0700; the lock ends with its holder."""
    for _ in range(2):
        with lock_state_directory(tmp_path / "state"):
            assert 0o700 == (tmp_path / "state").stat().st_mode & 0o777


def test_a_state_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """The sentence says which and why."""
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(AppError, match="cannot be used: Not a directory"),
        lock_state_directory(tmp_path / "file" / "x"),
    ):
        pytest.fail("locked a directory inside a file")


@pytest.mark.parametrize("reuse_port", [False, True], ids=["alone", "sharing"])
def test_a_port_that_somebody_listens_on_is_refused(reuse_port: bool) -> None:
    """Also when the other one would share it, as a gRPC server does by default."""
    with socket.socket() as other, PortGuard() as guard:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(reuse_port))
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(AppError, match=rf"127\.0\.0\.1:{port} \(listen\.check\) is in use by another process"):
            guard.take("check", Listener(port=port))


def test_a_port_that_another_guard_holds_is_refused() -> None:
    """Two that start at the same moment cannot both have it."""
    port = _free_port()
    with PortGuard() as first, PortGuard() as second:
        first.take("api", Listener(port=port))
        with pytest.raises(AppError, match="in use by another process"):
            second.take("api", Listener(port=port))


def test_children_can_listen_on_a_held_port_shared_or_alone() -> None:
    """A gRPC server shares the port, our HTTP listeners do not; both must get past our own guard."""
    with PortGuard() as guard:
        port = guard.take("check", Listener(port=0))
        for option in (socket.SO_REUSEPORT, socket.SO_REUSEADDR):
            with socket.socket() as child:
                child.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                child.setsockopt(socket.SOL_SOCKET, option, 1)
                child.bind(("127.0.0.1", port))
                child.listen()


def test_an_address_of_another_machine_is_refused() -> None:
    """The sentence names the setting."""
    with (
        PortGuard() as guard,
        pytest.raises(AppError, match=r"not an address of this machine; set listen\.api\.address"),
    ):
        guard.take("api", Listener(address="192.0.2.1", port=_free_port()))
