"""Runs the setup.py of apex's sources, but builds the named extensions alone, as a wheel.

python apex_setup.py FOLDER VERSION NAME... in the folder of the sources. Their setup.py has flags
for groups: the one for amp_C asks for a dozen more. VERSION is added to theirs, always the same.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import setuptools


def main() -> None:
    """Build the wheel into FOLDER; a name that setup.py does not offer is an error."""
    folder, version, *names = sys.argv[1:]
    original = setuptools.setup

    def setup(**arguments: Any) -> None:
        offered = {extension.name: extension for extension in arguments["ext_modules"]}
        if missing := [name for name in names if name not in offered]:
            sys.exit(f"error: apex's setup.py offers no extension {', '.join(missing)}")
        arguments["ext_modules"] = [offered[name] for name in names]
        arguments["version"] = f"{arguments['version']}+{version}"
        original(**arguments)

    setuptools.setup = setup
    sys.argv = ["setup.py", "bdist_wheel", "--dist-dir", folder]
    sys.path.insert(0, str(Path.cwd()))
    runpy.run_path("setup.py", run_name="__main__")


if __name__ == "__main__":
    main()
