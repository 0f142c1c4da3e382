#!/usr/bin/env bash
# The install steps of Dockerfile and Singularity.def, the same for both.
#   install.sh packages    an environment with the locked packages that the base image lacks, and DALI
#   install.sh finish      rights, manifest and bill of materials of the environment and the sources
# DEVICE=cuda (the base brings torch for CUDA) or DEVICE=cpu (torch is installed too); BASE_IMAGE names the
# base in the manifest. The base's own packages are seen through the environment and left as they are.
# A cuda image whose base has no apex that serves gets one: container/build_apex.py tells of APEX_SOURCE,
# APEX_ARCHITECTURES and MAX_JOBS.
set -euo pipefail
kit=/opt/lp-mlperf-kit
environment=/opt/lp-mlperf-environment
step=${1:-}
device=${DEVICE:-cuda}

fail() { printf 'error: %s\n' "$*" >&2; exit 2; }

install_into() { # $1: an environment without pip; the rest: pip's arguments
    local target=$1
    shift
    # NVIDIA's images constrain pip to their own versions: the lock decides, and checks by hash.
    env -u PIP_CONSTRAINT python3 -m pip --python "$target/bin/python" --disable-pip-version-check --no-cache-dir install -qq "$@"
}

torch_version() { "$1" -c 'import torch; print(torch.__version__)' 2>/dev/null || true; }

install_packages() {
    python3 -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' ||
        fail "the base image $BASE_IMAGE has no Python 3.10 to 3.13: take another base"
    local base_torch
    base_torch=$(torch_version python3)
    if [ "$device" = cuda ] && [ -z "$base_torch" ]; then
        fail "the base image $BASE_IMAGE has no torch: take NVIDIA's PyTorch image, or DEVICE=cpu for the demonstration alone"
    fi
    python3 -m venv --without-pip --system-site-packages "$environment"
    python3 "$kit/container/requirements.py" "$kit/container/requirements.lock" >"$environment/requirements.lock"
    install_into "$environment" --no-deps --require-hashes -r "$environment/requirements.lock"
    [ -n "$base_torch" ] || install_into "$environment" -r "$kit/container/torch.txt"
    if [ -n "$base_torch" ] && [ "$(torch_version "$environment/bin/python")" != "$base_torch" ]; then
        fail "the base image's torch $base_torch is hidden by another: the lock must not hold torch"
    fi
    if [ "$device" = cuda ]; then provide_apex; fi
}

provide_apex() { # the base's, if it has all that the kit calls; else the pinned commit, built here
    local python=$environment/bin/python status=0 tools
    "$python" "$kit/container/build_apex.py" find "$environment" || status=$?
    if [ "$status" -eq 1 ]; then
        status=0
        tools=$(mktemp -d)
        make_tools "$tools"
        PATH=$tools/bin:$PATH "$python" "$kit/container/build_apex.py" build "$environment" || status=$?
        rm -rf "$tools"
    fi
    [ "$status" -eq 0 ] || exit "$status"
}

make_tools() { # $1: an environment of what an image is made with and does not keep
    python3 -m venv --without-pip "$1"
    install_into "$1" --no-deps --require-hashes -r "$kit/container/requirements-image.lock"
}

write_bill_of_materials() {
    local tools
    tools=$(mktemp -d)
    make_tools "$tools"
    "$tools/bin/cyclonedx-py" environment --output-reproducible --of JSON \
        -o "$environment/manifest/sbom.json" "$environment/bin/python"
    rm -rf "$tools"
}

finish() {
    export PYTHONDONTWRITEBYTECODE=1
    find "$kit" -name __pycache__ -prune -exec rm -rf {} +
    printf '%s\n' "$environment/bin/python" >"$kit/.environment"
    chown -R 0:0 "$kit"
    chmod -R u=rwX,go=rX "$kit" # git keeps the owner's rights alone, and the two recipes copy the rest differently
    mkdir -p "$environment/manifest"
    # As the recipes set it: a base's torch that is linked to the base's MPI takes the kit's.
    (cd "$kit" && LD_LIBRARY_PATH=$environment/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} \
        "$environment/bin/python" container/imports.py "$device")
    write_bill_of_materials
    "$environment/bin/python" "$kit/container/manifest.py" "$kit" "$environment/manifest"
    chmod -R a-w "$kit" "$environment"
    chmod -R a+rX "$kit" "$environment"
}

case $device in cpu | cuda) ;; *) fail "DEVICE must be cpu or cuda, not '$device'" ;; esac
case $step in
packages) install_packages ;;
finish) finish ;;
*) fail "usage: install.sh packages|finish" ;;
esac
