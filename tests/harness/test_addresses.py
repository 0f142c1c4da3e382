"""Rank 0's address: the first that every node reaches, and nothing that only answers like it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from harness import addresses
from harness.addresses import find_address, list_addresses, try_address
from harness.ranks import Ranks, SharedFault

TABLE = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     +-- 10.7.0.0/24 2 0 2
           |-- 10.7.0.0
              /24 link UNICAST
           |-- 10.7.0.3
              /32 host LOCAL
           |-- 127.0.0.1
              /32 host LOCAL
           |-- 192.168.9.1
              /32 host LOCAL
Local:
           |-- 10.7.0.3
              /32 host LOCAL
"""


def alone(host: str) -> Ranks:
    return Ranks(0, 1, 0, 1, 0, (host,), "single")


def test_addresses_are_those_of_the_kernels_table(tmp_path: Path) -> None:
    (tmp_path / "table").write_text(TABLE)
    assert list_addresses(tmp_path / "table") == ["10.7.0.3", "192.168.9.1"]
    assert list_addresses(tmp_path / "none") == []
    assert not any(address.startswith("127.") for address in list_addresses(addresses.TABLE))


def test_the_host_name_is_taken_where_it_is_reached() -> None:
    assert find_address(alone("localhost")) == "localhost"
    assert try_address(alone("localhost"), "localhost") == {}


def test_a_name_that_means_nothing_gives_way_to_an_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(addresses, "list_addresses", lambda table: ["127.0.0.1"])
    assert find_address(alone("no-such-host.invalid")) == "127.0.0.1"
    monkeypatch.setattr(addresses, "list_addresses", lambda table: [])
    with pytest.raises(SharedFault, match="not every node reaches rank 0's node") as fault:
        find_address(alone("no-such-host.invalid"))
    assert "no-such-host.invalid" in str(fault.value) and "/etc/hosts" in str(fault.value)


def test_another_that_answers_is_not_rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    class Connection:
        def recv(self, size: int, flags: int) -> bytes:
            return b"SSH-2.0-OpenSSH_"[:size]

        def __enter__(self) -> Connection:
            return self

        def __exit__(self, *fault: object) -> None: ...

    monkeypatch.setattr(socket, "create_connection", lambda *arguments: Connection())
    assert "somebody else answers" in try_address(alone("localhost"), "localhost")["localhost"]
