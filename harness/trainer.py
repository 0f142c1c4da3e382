"""The frame of a trainer's process: one rank's end is every rank's end.

Before the ranks have found each other, and for what they have agreed on, rank 0 says the
sentence and gives the status. A fault of one rank alone ends the whole job at once, since the
others would wait for it in a collective.

Where all ranks leave together, the others leave with status 0 and rank 0 last: mpirun of Open MPI
5.0 ends a job at the first other status, and where several nodes report one at the same moment it
may then wait for a lock of its own for ever (measured on four hosts: 6 of 173 jobs whose ranks all
left with 1; none of 300 that ended this way).
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch.distributed as dist

from harness.affinity import Binding, bind_rank
from harness.caches import check_cleared, clear_caches
from harness.commands import (
    GOOD,
    INTERRUPTED,
    NOT_GOOD,
    UNUSABLE,
    InputError,
    Parser,
    describe_missing_library,
    describe_os_error,
    prepare_streams,
)
from harness.graphs import release_graphs
from harness.private_folders import choose_cache_folders
from harness.process_group import (
    end_all_ranks,
    finalize_mpi,
    find_silent_ranks,
    get_collective_limit,
)
from harness.ranks import Launcher, Ranks, SharedFault, read_launcher
from harness.systems import System

OTHERS_WAIT_SECONDS = 3.0
PASSING_ON_SECONDS = 0.5
LAST_SECONDS = 0.3
LOST = re.compile(r"Connection (closed|reset) by peer")
WAITED = re.compile(r"Timed out waiting (\d+)ms")
# What gloo says of the collectives that were under way beside the one that waited to its end.
ABANDONED = re.compile(r"Application timeout caused pair closure")


def parse_trainer_arguments(
    benchmark: str, description: str | None, arguments: Sequence[str]
) -> argparse.Namespace:
    """Parse the command line of `python -m resnet.train` or `python -m bert.train`."""
    parser = Parser(prog=f"python -m {benchmark}.train", description=description)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    timed = commands.add_parser("run", help="the timed run, on every rank")
    timed.add_argument("--system", required=True, type=Path, help="systems/NAME.toml")
    timed.add_argument("--log", required=True, type=Path, help="the log file to write")
    measured = commands.add_parser("probe", help="the rate of the step on synthetic data")
    measured.add_argument("--system", type=Path, help="systems/NAME.toml: on every rank of it, "
                          "with what they exchange")  # fmt: skip
    measured.add_argument("--config", type=Path, help="a configuration (default: the system's)")
    measured.add_argument("--steps", type=int, default=20)
    measured.add_argument("--device", choices=("cpu", "cuda"), default=None)
    measured.add_argument("--json", action="store_true")
    measured.add_argument(
        "--profile", type=Path, metavar="DIR", help="write a trace and a table by kind of work"
    )
    options = parser.parse_args(arguments)
    if options.command == "probe":
        if options.system is None and options.config is None:
            measured.error("give --config (one rank) or --system (all ranks of it)")
        if options.system is not None and options.device is not None:
            measured.error("--device: with --system the system file says which")
        if options.system is not None and options.profile is not None:
            measured.error("--profile is of one rank: give --config without --system")
    return options


def run_trainer(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Run a trainer's main on this rank and leave with its status, ending all ranks on a fault."""
    prepare_streams()
    try:
        # Before anything compiles: Triton, torch and the driver ask for their folder at first use.
        os.environ.update(choose_cache_folders(os.environ, Path(tempfile.gettempdir())))
        _end_together(main(sys.argv[1:]))
    except SystemExit:
        raise  # argparse has said what it had to, the same on every rank
    except (InputError, OSError) as error:
        sentence = describe_os_error(error) if isinstance(error, OSError) else str(error)
        _leave(f"error: {sentence}", UNUSABLE, shared=isinstance(error, SharedFault))
    except ModuleNotFoundError as error:
        missing = describe_missing_library(error)
        if missing is None:
            traceback.print_exc()
        _leave(missing and f"error: {missing}", UNUSABLE if missing else NOT_GOOD, shared=False)
    except KeyboardInterrupt:
        _leave("interrupted", INTERRUPTED, shared=False)
    except BaseException as error:  # noqa: BLE001  the other ranks must not wait for this one
        explained = _explain_collective(str(error)) if isinstance(error, RuntimeError) else None
        if explained is not None:
            _leave(explained, NOT_GOOD, shared=False)
        traceback.print_exc()
        _leave(None, NOT_GOOD, shared=False)


def _explain_collective(fault: str) -> str | None:
    """Say why a collective failed, after the rank that knows better has had time to; or None."""
    gave_up: float | None = None
    if waited := WAITED.search(fault):
        gave_up = int(waited[1]) / 1000
    elif ABANDONED.search(fault):
        gave_up = get_collective_limit()
    elif not LOST.search(fault):
        return None
    # A rank that gives up closes its connections, which others may notice first.
    silence = find_silent_ranks(gave_up, OTHERS_WAIT_SECONDS)
    if silence is None:
        return "error: lost the connection to another rank, which ended"
    names = ", ".join(silence.ranks) or "no one: all ranks failed in different collectives"
    return (
        f"error: gave up after {silence.seconds:g} s ('collective_timeout_seconds') without an "
        f"answer from {names}: hung, or cut off"
    )


def _read_launcher() -> Launcher:
    """What the launcher says of this rank; alone where that cannot be read."""
    try:
        return read_launcher(os.environ)
    except InputError:
        return Launcher("unreadable", 0, 1)


def _end_together(status: int) -> NoReturn:
    """End this rank, the others ending with the same status: rank 0 gives it, and is the last."""
    launcher = _read_launcher()
    if launcher.rank != 0:
        _end(GOOD)
    _end(status, LAST_SECONDS if launcher.world_size > 1 and status != GOOD else 0.0)


def _end(status: int, wait_seconds: float = 0.0) -> NoReturn:
    """End this rank by itself, some time after it has left MPI and the process group."""
    joined = dist.is_initialized()
    if joined:
        release_graphs()
        dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    if joined:
        # A thread of the process group may still hold the tensor of the last collective (the
        # group lives on while a model refers to it). Were the interpreter torn down under it,
        # giving that tensor back would abort the process: a good run would end with signal 6.
        finalize_mpi()
        if wait_seconds:
            time.sleep(wait_seconds)
        os._exit(status)
    if wait_seconds:
        finalize_mpi()
        time.sleep(wait_seconds)
    raise SystemExit(status)


def _leave(sentence: str | None, status: int, shared: bool) -> NoReturn:
    launcher = _read_launcher()
    if sentence is not None and launcher.rank != 0 and not shared:
        # Mostly all ranks find the same fault: rank 0 says it at once and the job ends. Another
        # rank speaks only if it has not ended by then.
        time.sleep(OTHERS_WAIT_SECONDS)
        sentence = f"{sentence} (rank {launcher.rank})"
    if sentence is not None and (launcher.rank == 0 or not shared):
        print(sentence, file=sys.stderr)
    # Before MPI is up the launcher ends the others for this rank's status.
    if not shared and launcher.world_size != 1 and "mpi4py.MPI" in sys.modules:
        sys.stdout.flush()
        sys.stderr.flush()
        # The launcher may end the job before it has read, and passed on, what was written last.
        time.sleep(PASSING_ON_SECONDS)
        end_all_ranks(launcher.world_size, status)
    if shared:
        _end_together(status)
    _end(status)


def look_before(ranks: Ranks, look: Callable[[], Any]) -> Any:
    """Look at something on every rank before the clock starts; one rank's fault stops all.

    look: reads metadata only and raises InputError where something is missing.
    Returns what `look` returned on this rank. Raises SharedFault.
    """
    found, fault = None, None
    try:
        found = look()
    except InputError as error:
        fault = str(error)
    except OSError as error:
        fault = describe_os_error(error)
    ranks.agree(fault)
    return found


def bind_to_cores(system: System, ranks: Ranks) -> Binding:
    """Bind this rank to its cores; rank 0 says why where that was asked for and is not done."""
    binding = bind_rank(system.nodes, ranks, os.environ)
    if ranks.first and binding.method != system.nodes.binding:
        print(f"note: no rank is bound to cores: {binding.reason}", file=sys.stderr)
    return binding


def clear_node_caches(system: System, ranks: Ranks, files: list[Path]) -> dict[str, Any]:
    """Clear the data's pages on every node, one rank each; returns what was done by host.

    Raises SharedFault where a node cannot do it: the run then does not start.
    """
    mine = ranks.first if system.nodes.one_machine else ranks.first_of_node
    campaign = system.campaign

    def clear() -> dict[str, Any]:
        record = clear_caches(campaign.cache_clear, files, campaign.cache_clear_command)
        if campaign.profile != "demo":  # its small files are read by several runs at a time
            check_cleared(record)
        return record

    record = look_before(ranks, lambda: clear() if mine else None)
    records = ranks.gather((ranks.hosts[ranks.rank], record))
    return {"hosts": {host: done for host, done in records if done is not None}}
