#!/usr/bin/env bash
# Builds the extension with sanitizers in a temporary folder and runs the tests of the kernels against it: with
# AddressSanitizer and UndefinedBehaviorSanitizer all of them, then 10,000 calls of each kernel, which must leak nothing;
# or with ThreadSanitizer those in which threads call the kernels at once. Needs GCC on Linux and a Python with numpy,
# msgspec, pybind11, pytest and OpenCV; CMake is fetched with pip where the computer has none. The checkout is not
# changed.
#   [PYTHON=python3] [CXX=g++] [SANITIZER=address|thread] bash tests/kernels/run_sanitized.sh [options of pytest]
set -euo pipefail

sanitizer=${SANITIZER:-address}
fixed_addresses=()
case $sanitizer in
  address) flags=address,undefined library=libasan.so chosen="not torch" ;;
  thread)
    flags=thread library=libtsan.so chosen="threads"
    # ThreadSanitizer does not start where the system spreads addresses more than it expects.
    if setarch "$(uname -m)" -R true 2> /dev/null; then fixed_addresses=(setarch "$(uname -m)" -R); fi
    ;;
  *) echo "SANITIZER=$sanitizer; wanted address or thread" >&2; exit 2 ;;
esac

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
  -DLITE_INFER_SANITIZE=$flags -DPython_EXECUTABLE="$python" -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" \
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
export PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
# Python itself is not instrumented: the runtime library must be there first, and libstdc++ with it, or exceptions
# cannot be intercepted.
preload="$("$compiler" -print-file-name=$library) $("$compiler" -print-file-name=libstdc++.so)"
# Leaks at the end are Python's own affair: it frees little when it ends. What one call leaks, leak_check.py asks.
sanitized() {
  LD_PRELOAD="$preload" PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=1:leak_check_at_exit=0:allocator_may_return_null=1 \
    UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1 \
    "${fixed_addresses[@]}" "$python" "$@"
}
sanitized -c "
import pathlib, runtime._kernels as kernels
found = pathlib.Path(kernels.__file__).parent.parent
assert found == pathlib.Path.cwd(), f'tested would be {found}; uninstall the editable lite-infer of this Python first'
"
# torch is not asked: loading it under a sanitizer takes longer than all tests.
# capture=sys: the report of a sanitizer goes past Python to the real standard error.
sanitized -m pytest tests/kernels -q --capture=sys -p no:cacheprovider -k "$chosen" "$@"
if [ "$sanitizer" = address ]; then
  PYTHONPATH=.:tests sanitized tests/kernels/leak_check.py
fi
