#!/usr/bin/env bash
# The smallest case of the demonstration, inside the image: both benchmarks train once on four ranks and
# reach their targets, as any user, with everything but a folder of its own read-only.
set -euo pipefail
kit=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# The demonstration's system, with its data in a folder that can be written.
sed -e "s|\"data/demo/|\"$folder/data/|" \
    -e "s|make_data = \[\"demo\"\]|make_data = [\"demo --output $folder/data\"]|" \
    "$kit/systems/demo.toml" >"$folder/demo.toml"
# One run of each is no whole result, so the status says "not valid" (1); anything else is a fault.
status=0
"$kit/run_and_time.sh" --system "$folder/demo.toml" --runs 1 --results "$folder/results" || status=$?
[ "$status" -le 1 ] || { echo "error: the self-test ended with status $status" >&2; exit 1; }
for benchmark in resnet bert; do
    if ! grep -q '"key": "run_stop".*"status": "success"' "$folder/results/demo/$benchmark/result_0.txt"; then
        echo "error: $benchmark missed its target in the self-test" >&2
        exit 1
    fi
done
echo "self-test: both benchmarks reached their targets on four ranks"
