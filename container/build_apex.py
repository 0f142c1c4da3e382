"""Gives a cuda image NVIDIA's apex: the base's where it serves, else the pinned commit, built here.

python container/build_apex.py find ENVIRONMENT   status 0: it serves; 1: must be built; 2: refused
python container/build_apex.py build ENVIRONMENT  builds apex.toml's commit and installs it there

The environment's own Python calls both. Where apex then serves they write, for the manifest,
ENVIRONMENT/manifest/apex.json: whose it is, and what was built. Environment variables:
APEX_SOURCE: a git repository that holds the commit; "pinned" is the one of apex.toml.
APEX_ARCHITECTURES: the GPUs that nvcc compiles for.
MAX_JOBS: how many files are compiled at a time; "auto" is by cores and memory.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from container.find_apex import Pin, read_pin

HERE = Path(__file__).resolve().parent
# A100, H100 and H200, B200. Not read from TORCH_CUDA_ARCH_LIST, which NVIDIA's images set to all
# that torch knows.
ARCHITECTURES = "8.0 9.0 10.0"
GIBIBYTES_PER_JOB = 3  # one nvcc took 2.3
# torch's own headers ask for the second, bnp's for the third.
HEADERS = ("cuda_runtime.h", "cusparse.h", "cudnn.h")
ASK_TORCH = (
    "import json, torch; from torch.utils.cpp_extension import CUDA_HOME; "
    "print(json.dumps([torch.__version__, torch.version.cuda, CUDA_HOME]))"
)


def fail(sentence: str) -> NoReturn:
    """Say what is wrong and leave with status 2."""
    print(f"error: {sentence}", file=sys.stderr)
    raise SystemExit(2)


def look() -> dict[str, Any]:
    """Look at the environment's apex, in a process of its own: what was installed since is seen."""
    found = json.loads(ask([sys.executable, str(HERE / "find_apex.py")]))
    assert isinstance(found, dict)
    if found["stranger"]:
        fail(found["stranger"])
    return found


def ask(command: list[str]) -> str:
    """Run a command and give the last line that it prints."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()[-1]


def record(environment: Path, **what: Any) -> None:
    """Write whose apex the environment has, for the image's manifest."""
    folder = environment / "manifest"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "apex.json").write_text(json.dumps(what, indent=1) + "\n", encoding="utf-8")


def is_inside(found: dict[str, Any], environment: Path) -> bool:
    """Tell an apex of the environment's own from one of the base, seen through it."""
    return Path(found["folder"]).resolve().is_relative_to(environment.resolve())


def find(environment: Path) -> int:
    """Take the apex that is there, if it serves; else say what it lacks."""
    pin, found = read_pin(), look()
    if not found["faults"] and is_inside(found, environment):
        print(f"apex {found['version']} is in {environment} already")
        return 0
    if not found["faults"]:
        names = list(pin.extensions)
        print(f"apex {found['version']} of the base image serves, with {', '.join(names)}")
        record(environment, origin="base image", version=found["version"], extensions=names)
        return 0
    print(f"the base image's apex does not serve: {'; '.join(found['faults'])}")
    if found["folder"] is not None:
        print(f"one built into {environment} will hide that in {found['folder']}")
    return 1


def check_compilers() -> dict[str, str]:
    """Find torch, git, nvcc and a C++ compiler; returns versions and the toolkit's folder."""
    torch, cuda, home = json.loads(ask([sys.executable, "-c", ASK_TORCH]))
    if cuda is None:
        fail(
            f"torch {torch} is built without CUDA, so apex cannot be built: take another base image"
        )
    if shutil.which("git") is None:
        fail("building apex needs git, which the base image lacks: install it there")
    if home is None or not Path(home, "bin", "nvcc").exists():
        fail(
            "building apex needs nvcc, which the base image lacks: install the CUDA toolkit "
            f"{cuda} there (CUDA_HOME names its folder), or take a base image that has apex"
        )
    nvcc = [str(Path(home, "bin", "nvcc")), "--version"]
    done = subprocess.run(nvcc, capture_output=True, text=True, check=True)
    release = re.search(r"release (\d+\.\d+)", done.stdout)
    found = release.group(1) if release else "unknown"
    if found != cuda:  # apex's own setup.py refuses any other, too, but after a page of output
        fail(
            f"nvcc in {home} is of CUDA {found}, torch {torch} of CUDA {cuda}, but apex must be "
            f"compiled by the same: install the CUDA toolkit {cuda} and name it in CUDA_HOME"
        )
    check_headers(home)
    return {"torch": torch, "nvcc": found, "home": home}


def check_headers(home: str) -> None:
    """Let the C++ compiler look for what a toolkit without its libraries lacks."""
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    if shutil.which(compiler[0]) is None:
        fail(
            f"building apex needs a C++ compiler, and there is no {compiler[0]}: install g++ in "
            "the base image"
        )
    for header in HEADERS:
        done = subprocess.run(
            [*compiler, "-E", "-x", "c++", "-I", str(Path(home, "include")), "-o", os.devnull, "-"],
            input=f"#include <{header}>\n",
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            fail(
                f"building apex needs {header}, which {compiler[0]} does not find, nor in {home}: "
                "install the whole CUDA toolkit and cuDNN's headers, or name their folders in CPATH"
            )


def check_out(pin: Pin, source: str, folder: Path) -> None:
    """Bring the pinned commit, and no other, from a git repository into a new folder."""
    variables = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    if Path(source).exists():
        # git refuses another user's repository, as a bound one mostly is; its content is verified
        settings = folder.with_suffix(".gitconfig")
        settings.write_text("[safe]\n\tdirectory = *\n", encoding="utf-8")
        variables["GIT_CONFIG_GLOBAL"] = str(settings)
        source = str(Path(source).resolve())

    def git(*arguments: str) -> str:
        command = ["git", "-c", "advice.detachedHead=false", "-C", str(folder), *arguments]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            fail(
                f"apex's commit {pin.commit} cannot be had from {source} ({said}): name a git "
                "repository that holds it in APEX_SOURCE"
            )
        return done.stdout.strip()

    folder.mkdir()
    git("init", "--quiet")
    git("fetch", "--quiet", "--depth", "1", source, pin.commit)
    git("checkout", "--quiet", "--detach", pin.commit)
    if (head := git("rev-parse", "HEAD")) != pin.commit:
        fail(f"{source} gave apex's commit {head}, not {pin.commit}")


def count_jobs() -> int:
    """Choose how many files are compiled at a time: by cores, and by the memory that is free."""
    if (given := os.environ.get("MAX_JOBS", "auto")) != "auto":
        if not re.fullmatch(r"[1-9]\d*", given):
            fail(f"MAX_JOBS must be auto or a whole number, not '{given}'")
        return int(given)
    free = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"))
    jobs = int(free.group(1)) // (GIBIBYTES_PER_JOB << 20) if free else 1
    return max(1, min(jobs, len(os.sched_getaffinity(0))))


def choose_architectures() -> str:
    """Choose the GPUs that are compiled for, as torch spells them."""
    chosen = os.environ.get("APEX_ARCHITECTURES", ARCHITECTURES)
    if not re.fullmatch(r"\d+\.\d+[af]?(\+PTX)?([ ;]\d+\.\d+[af]?(\+PTX)?)*", chosen):
        fail(f"APEX_ARCHITECTURES must be like '{ARCHITECTURES}', not '{chosen}'")
    return chosen.replace(";", " ")


def build_wheel(pin: Pin, sources: Path, folder: Path, architectures: str, home: str) -> Path:
    """Compile the pinned extensions against the torch that is there; their output is shown."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith("APEX_")}
    variables |= {row.variable: "1" for row in pin.extensions.values()}
    variables |= {"TORCH_CUDA_ARCH_LIST": architectures, "MAX_JOBS": str(count_jobs())}
    variables |= {"CUDA_HOME": home, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, str(HERE / "apex_setup.py"), str(folder), pin.commit[:12]]
    done = subprocess.run([*command, *pin.extensions], cwd=sources, env=variables, check=False)
    wheels = list(folder.glob("apex-*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        fail(
            f"apex {pin.commit[:12]} was not built (the reason stands above); nothing is installed"
        )
    return wheels[0]


def install(wheel: Path, environment: Path) -> dict[str, Any]:
    """Install the wheel; remove it again where what is then imported is not it, or not whole."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    # The base's apex, seen through the environment, is neither enough nor to be touched.
    options = ["--no-deps", "--no-index", "--no-cache-dir", "--ignore-installed", "-q"]
    subprocess.run([*pip, "install", *options, str(wheel)], check=True)
    found = look()
    faults = found["faults"]
    if not faults and not is_inside(found, environment):
        faults = [
            f"{found['folder']} hides it: PYTHONPATH must not name a folder with another apex"
        ]
    if faults:
        subprocess.run([*pip, "uninstall", "-q", "-y", "apex"], check=True)
        fail(f"the apex that was built does not serve, and is removed: {'; '.join(faults)}")
    return found


def build(environment: Path) -> int:
    """Build, install and record apex."""
    started, pin = time.monotonic(), read_pin()
    architectures = choose_architectures()
    versions = check_compilers()
    source = os.environ.get("APEX_SOURCE", "pinned")
    source = pin.repository if source == "pinned" else source
    names = list(pin.extensions)
    with tempfile.TemporaryDirectory(prefix="apex-") as temporary:
        sources, wheels = Path(temporary, "apex"), Path(temporary, "wheels")
        print(f"apex: commit {pin.commit} from {source}", flush=True)
        check_out(pin, source, sources)
        print(f"apex: compiling {', '.join(names)} for {architectures} with {count_jobs()} jobs: "
              "minutes, by cores and architectures", flush=True)  # fmt: skip
        wheel = build_wheel(pin, sources, wheels, architectures, versions["home"])
        found = install(wheel, environment)
    what = {"repository": pin.repository, "commit": pin.commit, "architectures": architectures}
    what |= {"torch": versions["torch"], "nvcc": versions["nvcc"]}
    record(environment, origin="built", version=found["version"], extensions=names, **what)
    minutes = (time.monotonic() - started) / 60
    print(f"apex {found['version']} is in {environment} (built in {minutes:.0f} min)")
    return 0


def main() -> int:
    """Find or build, as asked."""
    match sys.argv[1:]:
        case ["find", folder]:
            return find(Path(folder))
        case ["build", folder]:
            return build(Path(folder))
    fail("usage: build_apex.py find|build ENVIRONMENT")


if __name__ == "__main__":
    raise SystemExit(main())
