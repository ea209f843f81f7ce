#!/bin/sh
# Stop what runs on a state folder: ./stop.sh [--force] [--state-dir DIR]
# Asks each process to finish its requests; --force ends them at once.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
state=${CHORUS_STATE_DIR:-$HOME/.chorus}
force=
while [ $# -gt 0 ]; do
    case $1 in
        --force) force=1 ;;
        --state-dir)
            [ $# -ge 2 ] || { echo "stop.sh: --state-dir needs a folder" >&2; exit 2; }
            shift
            state=$1
            ;;
        --state-dir=*) state=${1#--state-dir=} ;;
        *)
            echo "stop.sh: unknown option $1; use: ./stop.sh [--force] [--state-dir DIR]" >&2
            exit 2
            ;;
    esac
    shift
done

is_chorus() { # a pid file may outlive its process, and the number may be somebody else's by now
    case $1 in ''|*[!0-9]*) return 1 ;; esac
    words=$(ps -ww -p "$1" -o args= 2>/dev/null) || return 1
    case "$words " in
        *ython*" -m chorus_cli "*) return 0 ;;
        *ython*"/chorus up "*|*ython*"/chorus coordinator "*|*ython*"/chorus http "*|*ython*"/chorus agent "*) return 0 ;;
    esac
    program=${words%% *}
    case ${program##*/} in *ython*) ;; *) return 1 ;; esac
    words=${words#"$program"}
    while :; do # Python's own options
        case $words in
            " -"*) words=${words#" "}; words=" ${words#* }" ;;
            *) break ;;
        esac
    done
    for part in server client http_wrapper; do # a bare checkout
        case "$words " in
            " $part "*|" $part/ "*|" ./$part "*|" ./$part/ "*|" $root/$part "*|" $root/$part/ "*) return 0 ;;
        esac
    done
    return 1
}

found=
status=0
# The face first, so that nothing new comes in; agents before the coordinator that they say goodbye to.
for file in "$state"/run/up.pid "$state"/run/http.pid "$state"/run/agent-*.pid "$state"/run/coordinator.pid; do
    [ -f "$file" ] || continue
    pid=$(cat "$file")
    name=$(basename "$file" .pid)
    if ! is_chorus "$pid"; then
        rm -f "$file"
        continue
    fi
    found=1
    if [ -n "$force" ]; then
        kill -9 "$pid" 2>/dev/null || true
        rm -f "$file"
        echo "$name (pid $pid) ended"
        continue
    fi
    kill "$pid" 2>/dev/null || true
    waited=0
    while is_chorus "$pid" && [ "$waited" -lt 75 ]; do
        sleep 1
        waited=$((waited + 1))
    done
    if is_chorus "$pid"; then
        echo "$name (pid $pid) still runs after $waited s; end it with: ./stop.sh --force" >&2
        status=1
    else
        echo "$name (pid $pid) stopped"
    fi
done
[ -n "$found" ] || echo "nothing runs on $state"
exit "$status"
