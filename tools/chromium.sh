# Sourced by test.sh: `chorus_chromium` sees to it that there is a Chromium with its driver, to look at the web page with.
# Without one, and without the right to install it, those tests are skipped with their reason.

chorus_chromium() {
    command -v chromedriver >/dev/null 2>&1 && return 0
    command -v apt-get >/dev/null 2>&1 || return 0
    as_root=
    if [ "$(id -u)" != 0 ]; then
        sudo -n true >/dev/null 2>&1 || return 0
        as_root="sudo -n"
    fi
    echo "Installing Chromium for the tests of the web page ..." >&2
    # Quiet, without questions, and never for long: a mirror that is away must not hold up every other test.
    log=$(
        export DEBIAN_FRONTEND=noninteractive
        timeout 120 $as_root apt-get update 2>&1 &&
            timeout 300 $as_root apt-get install -y --no-install-recommends chromium chromium-driver 2>&1
    ) || echo "Chromium was not installed: $(printf '%s\n' "$log" | tail -n 1)" >&2
}
