#!/usr/bin/env bash
# Builds the extension with AddressSanitizer and UndefinedBehaviorSanitizer in a temporary folder and runs the tests of
# the kernels against it. Needs GCC on Linux and a Python with numpy, msgspec, pybind11, pytest and OpenCV; CMake is
# fetched with pip where the computer has none. The checkout is not changed.
#   [PYTHON=python3] [CXX=g++] bash tests/kernels/run_sanitized.sh [options of pytest]
set -euo pipefail

python=${PYTHON:-python3}
compiler=${CXX:-g++}
case $python in
  */*) python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python") ;; # not resolved: a link may be an environment
  *) python=$(command -v "$python") ;;
esac
repository=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if ! command -v cmake > /dev/null || ! { command -v ninja || command -v make; } > /dev/null; then
  "$python" -m pip install -q --target "$work/tools" cmake ninja
  export PATH="$work/tools/bin:$PATH" PYTHONPATH="$work/tools"
fi
if command -v ninja > /dev/null; then
  export CMAKE_GENERATOR=Ninja
fi
cmake -S "$repository/cpp_ext" -B "$work/build" -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_BUILD_TYPE=Debug \
  -DLITE_INFER_SANITIZE=ON -DPython_EXECUTABLE="$python" -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" \
  > "$work/configure.log" || { cat "$work/configure.log"; exit 1; }
cmake --build "$work/build"

# A package that consists of links to the checkout and of the extension just built.
mkdir "$work/tree" "$work/tree/runtime"
for entry in "$repository"/runtime/*; do
  case $(basename "$entry") in
    _kernels.pyi) ln -s "$entry" "$work/tree/runtime/" ;;
    _kernels* | __pycache__) ;;
    *) ln -s "$entry" "$work/tree/runtime/" ;;
  esac
done
ln -s "$repository/tests" "$repository/pyproject.toml" "$work/tree/"
cmake --install "$work/build" --prefix "$work/tree" > /dev/null
unset PYTHONPATH  # where CMake came from pip

cd "$work/tree"
export PYTHONDONTWRITEBYTECODE=1
# Python itself is not instrumented: the runtime library must be there first, and libstdc++ with it, or exceptions
# cannot be intercepted. Leaks are Python's own affair: it frees little when it ends.
preload="$("$compiler" -print-file-name=libasan.so) $("$compiler" -print-file-name=libstdc++.so)"
sanitized() {
  LD_PRELOAD="$preload" PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
    UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 "$python" "$@"
}
sanitized -c "
import pathlib, runtime._kernels as kernels
found = pathlib.Path(kernels.__file__).parent.parent
assert found == pathlib.Path.cwd(), f'tested would be {found}; uninstall the editable lite-infer of this Python first'
"
# torch is not asked: loading it under a sanitizer takes longer than all tests.
# capture=sys: the report of a sanitizer goes past Python to the real standard error.
sanitized -m pytest tests/kernels -q --capture=sys -p no:cacheprovider -k "not torch" "$@"
