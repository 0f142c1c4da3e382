"""Imports everything the kit imports: an image that lacks something is never finished.

python container/imports.py cpu|cuda; prints what was found. For cuda that includes NVIDIA's apex
with the extensions of apex.toml, and the providers of operations that the configurations of real
systems name.
"""

from __future__ import annotations

import importlib
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KIT = Path(__file__).resolve().parent.parent
# Distribution, then the module of it that the kit imports.
NEEDED = {
    "torch": "torch.distributed",
    "nvidia-dali-cuda130": "nvidia.dali",
    "mpi4py": "mpi4py.MPI",
    "mlperf-logging": "mlperf_logging.mllog",
    "numba": "numba",
    "safetensors": "safetensors.torch",
    "matplotlib": "matplotlib.figure",
    "tokenizers": "tokenizers",
    "transformers": "transformers",
}
# Provider, then the library that it computes with: needed where a configuration names the provider.
LIBRARIES = {"te": "transformer_engine", "flash_attn": "flash_attn"}


def find_version(distribution: str, module: str) -> str:
    """Give a distribution's version; a base image may carry one of another name, or without any."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        top = importlib.import_module(module.split(".", maxsplit=1)[0])
        return f"{getattr(top, '__version__', 'without version')} of the base image"


def check_imports(device: str) -> list[str]:
    """Import all; returns what is missing, a sentence each."""
    faults = []
    for distribution, module in NEEDED.items():
        try:
            importlib.import_module(module)
        except Exception as error:  # noqa: BLE001  whatever it is, the image lacks this module
            faults.append(f"{module} ({distribution}) cannot be imported: {error}")
            continue
        print(f"{distribution} {find_version(distribution, module)}")
    mapped = Path("/proc/self/maps").read_text(encoding="utf-8")
    print(f"MPI in use: {', '.join(find_mpi(mapped)) or 'none'}")
    if shutil.which("mpirun", path=str(Path(sys.executable).parent)) is None:
        faults.append("the environment has no mpirun: the lock must hold openmpi")
    if device == "cuda" and not faults:
        import torch

        if torch.version.cuda is None:
            faults.append(f"torch {torch.__version__} is built without CUDA")
        elif not torch.distributed.is_nccl_available():
            faults.append(f"torch {torch.__version__} is built without NCCL")
    return faults


def find_mpi(mapped: str) -> list[str]:
    """Name the MPI libraries in /proc/self/maps' text: with two, torch and mpi4py differ."""
    return sorted(set(re.findall(r"/\S*/libmpi\.so\S*", mapped)))


def list_providers(kit: Path) -> list[tuple[str, str, str]]:
    """Name every operation and provider of the configurations for real systems, with its file."""
    found = []
    for file in sorted(kit.glob("*/configs/*.toml")):
        if file.stem == "demo":
            continue
        table = tomllib.loads(file.read_text(encoding="utf-8"))
        for operation, provider in table["operations"].items():
            found.append((str(file.relative_to(kit)), operation, provider))
    return found


def check_providers(kit: Path) -> list[str]:
    """Import what the configurations compute with; returns what is missing, a sentence each."""
    faults = []
    for file, operation, provider in list_providers(kit):
        fault = check_provider(operation, provider)
        if fault is not None:
            faults.append(f"{file}: {fault}")
        elif provider in LIBRARIES:
            library = LIBRARIES[provider]
            print(f"{library} {find_version(library, library)}: {operation} in {file}")
    return faults


def check_provider(operation: str, provider: str) -> str | None:
    """Import one provider's implementation; returns what hinders it."""
    from harness.ops.table import resolve

    try:
        resolve(operation, provider)
    except Exception as error:  # noqa: BLE001  a library built for another torch fails in any way
        said = str(error)
        start = f"operation {operation}: "
        return said if said.startswith(start) else f"{start}provider {provider!r} fails: {said}"
    return None


def check_apex() -> list[str]:
    """Import NVIDIA's apex, and all of our operations that it computes."""
    from container.find_apex import find_faults, read_pin
    from container.find_apex import find_version as find_apex_version
    from harness.ops.table import TABLE

    pin = read_pin()
    faults = [f"apex: {fault}" for fault in find_faults(pin)]
    if not faults:
        print(f"apex {find_apex_version()} with {', '.join(pin.extensions)}")
        rows = [operation for operation, row in TABLE.items() if "apex" in row]
        faults = [fault for operation in rows if (fault := check_provider(operation, "apex"))]
    return faults


def main() -> int:
    """Say what is missing; status 1 if anything is."""
    device = sys.argv[1]
    sys.path.insert(0, str(KIT))  # this file is run as a script of its own folder
    faults = check_imports(device)
    if device == "cuda" and not faults:
        faults = [*check_apex(), *check_providers(KIT)]
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
