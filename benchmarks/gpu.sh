#!/usr/bin/env bash
# Builds, tests and measures everything on a GPU machine without a network, in one call.
#
# It needs there: nvcc, Python with torch, torchvision, scikit-image, scipy, tqdm, pytest, pytest-xdist and hypothesis,
# and nanobind, scikit-build-core, cmake and ninja for the build. Packages that are missing (captum, monai, nibabel,
# nilearn) come as wheels in a folder .whl beside the sources. Results go to $OUT, or to benchmarks/results.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
out=${OUT:-benchmarks/results}
site=$(mktemp -d)
mkdir -p "$out"

step() {
    echo "== $* ($(date -u +%H:%M:%S))"
    "$@"
}

shopt -s nullglob
wheels=(.whl/*.whl)
if ((${#wheels[@]})); then
    step "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" "${wheels[@]}"
fi
# Nothing is fetched, and the versions that are there are taken as they are.
step "$python" -m pip install -q --no-index --no-deps --no-build-isolation --target "$site" .

# The folder of the sources has the package without what was built: it must not come first.
export PYTHONPATH="$site:benchmarks" PYTHONSAFEPATH=1 KRYPTON_REQUIRE_CUDA=1
step "$python" -m krypton_engine info
# --confcutdir: nor by the sources' own conftest.py, which is there for the examples in docstrings.
mapfile -t tests < <(grep -l 'mark\.gpu' tests/*/test_*.py) # others need a browser, and more
step "$python" -m pytest --confcutdir=tests -q -n 8 "${tests[@]}" -m gpu -k "not leak_nothing"
step "$python" -m pytest --confcutdir=tests -q "${tests[@]}" -m gpu -k leak_nothing # alone: it asks for the free memory of the device
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
        step compute-sanitizer --tool "$tool" --error-exitcode 1 \
            "$python" -m pytest --confcutdir=tests -q tests/executors/test_cuda.py -m gpu -k "like_captum or shrunk or half or recorded"
    done
fi
step "$python" benchmarks/gpu.py --out "$out/gpu.json"
step "$python" benchmarks/gpu.py --tf32 --out "$out/gpu-tf32.json"
step "$python" benchmarks/gpu.py --autocast bfloat16 --out "$out/gpu-bfloat16.json"
