#!/bin/sh
# Install Chorus beside this file (once) and start it: ./start.sh [options of `chorus up`], or ./start.sh COMMAND ...
set -eu
ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$ROOT/tools/venv.sh"
chorus_venv base
case ${1:-} in
    [a-z]*) ;;
    *) set -- up "$@" ;;
esac
exec "$PY" -P -m chorus_cli "$@"
