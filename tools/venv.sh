# Sourced by start.sh and test.sh: `chorus_venv base|dev` makes ROOT/.venv ready and sets PY to its Python.
# POSIX sh, so that macOS's own shell runs it.

find_python() {
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python; do
        if command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            echo "$candidate"
            return 0
        fi
    done
    echo "Chorus needs Python 3.11 or newer; install it (https://www.python.org/downloads/), or name one: PYTHON=/path/to/python3 $0" >&2
    return 2
}

chorus_venv() {
    kind=$1
    venv=$ROOT/.venv
    PY=$venv/bin/python
    stamp=$venv/chorus-installed
    if [ -e "$venv" ] && [ ! -w "$venv" ]; then
        # Another user's environment: it can be used when it is complete, and must not be made anew.
        if "$PY" -c '' >/dev/null 2>&1 && "$PY" "$ROOT/tools/install_stamp.py" "$kind" "$stamp"; then
            return 0
        fi
        echo "$venv belongs to another user and cannot be used as it is; make a clone of your own, or ask them" >&2
        exit 2
    fi
    if ! "$PY" -c '' >/dev/null 2>&1; then
        python=$(find_python) || exit 2
        echo "Making $venv ..." >&2
        rm -rf "$venv"
        if ! "$python" -m venv "$venv"; then
            echo "$python cannot make virtual environments; on Debian and Ubuntu: sudo apt install python3-venv" >&2
            rm -rf "$venv"
            exit 2
        fi
    fi
    if "$PY" "$ROOT/tools/install_stamp.py" "$kind" "$stamp"; then
        return 0
    fi
    echo "Installing Chorus into $venv (once; needs the internet) ..." >&2
    rm -f "$stamp"
    # The pip that comes with Python may be years old, and search for many minutes for versions that go together.
    "$PY" -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25' || exit 1
    what=$ROOT
    [ "$kind" = dev ] && what="$ROOT[dev]"
    if ! "$PY" -m pip install --quiet --disable-pip-version-check -e "$what"; then
        echo "The installation failed; the reason is above. Run $0 again once it is mended." >&2
        exit 1
    fi
    if [ "$kind" = dev ]; then
        # The last generation of the OpenAI client, which people still have; a folder of its own, beside the newest.
        "$PY" -m pip install --quiet --disable-pip-version-check --target "$venv/old-openai" --upgrade \
            --no-deps 'openai==1.40.0' 'httpx==0.27.2' sniffio httpcore h11 distro anyio certifi tqdm || exit 1
    fi
    "$PY" "$ROOT/tools/install_stamp.py" "$kind" "$stamp" --write
}
