#!/usr/bin/env bash
# Train both benchmarks, check the logs, score them: ./run_and_time.sh --help
# Without arguments: the demonstration, on this machine alone, in a few minutes.
# Where the system file names a container, this machine needs a Python 3.11 and nothing else (or 3.10
# with tomli); without a container, .venv is made from the lock.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
export PYTHONDONTWRITEBYTECODE=1
python=$(scripts/environment bare)
runtime=$("$python" -m harness.campaign --print-runtime "$@")
[ "$runtime" != none ] || python=$(scripts/environment)
exec "$python" -m harness.campaign "$@"
