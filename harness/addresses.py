"""Which address of rank 0 all nodes reach: its host name, or one of its network's addresses.

On Debian and Ubuntu a node's own name commonly means 127.0.1.1 there, on some clusters a name that
is not known in a container: a store under that name would be waited for in vain.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from harness.ranks import Ranks, SharedFault

CONNECTION_SECONDS = 5.0
TOKEN_BYTES = 16
# The kernel's table of addresses; those of this machine are marked "host LOCAL".
TABLE = Path("/proc/net/fib_trie")


def find_address(ranks: Ranks) -> str:
    """The first address of rank 0 that every node reaches; called by all ranks together.

    Raises SharedFault where none is.
    """
    addresses = [ranks.hosts[0], *list_addresses(TABLE)] if ranks.first else []
    faults: dict[str, str] = {}
    for address in ranks.broadcast(addresses):
        missed = try_address(ranks, address)
        if not missed:
            return str(address)
        faults |= {fault: node for node, fault in missed.items()}
    tried = "; ".join(f"{fault} (from {node})" for fault, node in faults.items())
    raise SharedFault(
        f"not every node reaches rank 0's node {ranks.hosts[0]}: {tried}: let its name mean the "
        "address that the nodes share, in their /etc/hosts or DNS, and let no firewall between them"
    )


def list_addresses(table: Path) -> list[str]:
    """This machine's IPv4 addresses that others may reach, in the kernel's order."""
    try:
        lines = table.read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    found: dict[str, None] = {}
    for above, line in itertools.pairwise(lines):
        if line.strip() == "/32 host LOCAL":
            address = above.split()[-1]
            if not address.startswith("127."):
                found[address] = None
    return list(found)


def try_address(ranks: Ranks, address: str) -> dict[str, str]:
    """Let every node connect to rank 0 at an address; called by all ranks together.

    Returns, the same on every rank, by host why it could not; empty where all could.
    """
    fault = ""
    with contextlib.ExitStack() as stack:
        token, port = secrets.token_bytes(TOKEN_BYTES), 0
        if ranks.first:
            port = stack.enter_context(_serve(token))
        token, port = ranks.broadcast((token, port))
        if ranks.first_of_node:
            try:
                fault = _ask(address, port, token)
            except (OSError, UnicodeError) as error:
                fault = f"{address}: {getattr(error, 'strerror', None) or error}"
        faults = ranks.gather((ranks.hosts[ranks.rank], fault))  # it is served until then
    return {name: found for name, found in faults if found}


def _ask(address: str, port: int, token: bytes) -> str:
    with socket.create_connection((address, port), CONNECTION_SECONDS) as connection:
        if connection.recv(TOKEN_BYTES, socket.MSG_WAITALL) == token:
            return ""
    return f"{address}: somebody else answers there"


@contextlib.contextmanager
def _serve(token: bytes) -> Iterator[int]:
    """Answer who connects with a token, until the end; gives the port."""
    with socket.create_server(("", 0)) as server:
        server.settimeout(0.1)
        ended = threading.Event()

        def answer() -> None:
            while not ended.is_set():
                with contextlib.suppress(OSError):
                    connection, _ = server.accept()
                    with connection:
                        connection.sendall(token)

        thread = threading.Thread(target=answer, name="rank 0's address", daemon=True)
        thread.start()
        yield server.getsockname()[1]
        ended.set()
        thread.join()
