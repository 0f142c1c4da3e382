#!/usr/bin/env bash
# Train both benchmarks, check the logs, score them: ./run_and_time.sh --help
# Without arguments: the demonstration, on this machine alone, in a few minutes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
python=$(scripts/environment)
exec "$python" -m harness.campaign "$@"
