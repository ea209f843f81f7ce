#!/bin/sh
# Install what the tests need (once) and run every check: ./test.sh [options of pytest]
# TEST_WORKERS test files run at once (2). TEST_SCREENSHOTS=FOLDER keeps a picture of every page. With CI=true a
# test that is skipped without a known reason fails the run (tests/support/skips.py).
set -eu
ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$ROOT/tools/venv.sh"
. "$ROOT/tools/chromium.sh"
chorus_venv dev
chorus_chromium
cd "$ROOT"
failed=
check() {
    echo "== $*"
    "$PY" "$@" || failed="$failed
   $*"
}
check -m ruff check .
check -m ruff format --check .
check -m pyright --pythonpath "$PY"
check proto/generate.py --check
if [ -n "$failed" ]; then
    echo "== these checks FAILED, their messages are above:$failed"
fi
echo "== -m pytest"
status=0
"$PY" -m pytest -n "${TEST_WORKERS:-2}" --dist loadfile "$@" || status=$?
[ -z "$failed" ] || exit 1
exit "$status"
