#!/usr/bin/env bash
# Builds, tests and measures on a GPU machine without a network, in 12 minutes on an H200's.
#
#   benchmarks/gpu.sh                     everything, what matters most first
#   benchmarks/gpu.sh install tests       some steps: install, tests, trained, precisions, sanitizers
#
# It needs there: nvcc, Python with torch, torchvision, scikit-image, scipy, tqdm, pytest, pytest-xdist and hypothesis,
# and nanobind, scikit-build-core, cmake and ninja for the build. Packages that are missing (captum, monai, nibabel,
# nilearn) come as wheels in a folder .whl beside the sources. Results go to $OUT, or to benchmarks/results.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
out=${OUT:-benchmarks/results}
site=build/gpu # ignored by git, and kept between calls
mkdir -p "$out" "$site"

# The folder of the sources has the package without what was built: it must not come first.
export PYTHONPATH="$PWD/$site:benchmarks" PYTHONSAFEPATH=1 KRYPTON_REQUIRE_CUDA=1
# --confcutdir: nor by the sources' own conftest.py, which is there for the examples in docstrings.
pytest=("$python" -m pytest --confcutdir=tests -q)

step() {
    echo "== $* ($(date -u +%H:%M:%S))"
    "$@"
}

install() {
    shopt -s nullglob
    local wheels=(.whl/*.whl)
    # Nothing is fetched, and the versions that are there are taken as they are.
    local pip=("$python" -m pip install -q --no-index --no-deps --target "$site" --upgrade)
    if ((${#wheels[@]})); then
        step "${pip[@]}" --no-compile "${wheels[@]}"
    fi
    step "${pip[@]}" --no-build-isolation .
    step "$python" -m krypton_engine info
}

tests() {
    local files
    mapfile -t files < <(grep -l 'mark\.gpu' tests/*/test_*.py) # others need a browser, and more
    step "${pytest[@]}" -n 8 "${files[@]}" -m gpu -k "not leak_nothing"
    step "${pytest[@]}" "${files[@]}" -m gpu -k leak_nothing # alone: it asks for the free memory of the device
}

# The figures that count: networks that were trained, 20 images that nothing was tuned by.
trained() {
    local name weights
    for name in vgg16-brain-mri resnet18 inception_v3; do
        weights=()
        if [[ $name != vgg16-brain-mri ]]; then
            weights=(--weights "$site/$name.pt")
            [[ -e $site/$name.pt ]] || step "$python" benchmarks/brain.py "$name" "$site/$name.pt" --device cuda
        fi
        step "$python" benchmarks/approximate.py "$name" "${weights[@]}" --device cuda --precision bfloat16 \
            --samples 0 --held-out 20 --out "$out/gpu-$name.json"
    done
}

precisions() {
    step "$python" benchmarks/gpu.py --minutes 3 --out "$out/gpu.json"
}

sanitizers() {
    local tool
    for tool in memcheck racecheck; do
        step compute-sanitizer --tool "$tool" --error-exitcode 1 \
            "${pytest[@]}" tests/executors/test_cuda.py -m gpu -k "like_captum or shrunk or half or recorded"
    done
}

steps=("$@")
((${#steps[@]})) || steps=(install tests trained precisions sanitizers)
for name in "${steps[@]}"; do
    "$name"
done
