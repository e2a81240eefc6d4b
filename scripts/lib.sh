# shellcheck shell=sh
# What the scripts share. Sourced, never run; the sourcing script has set ROOT (the checkout) and `set -eu`.

# shellcheck disable=SC2034 # used by the scripts that source this
STATE_DIR="${XDG_STATE_HOME:-/var/lib}/remote-env"
if [ -z "${XDG_STATE_HOME:-}" ] && [ "$(id -u)" -ne 0 ]; then
    STATE_DIR="${HOME:?}/.local/state/remote-env"
fi
VENV="$ROOT/.venv"

say() { printf '%s\n' "==> $*" >&2; }
warn() { printf '%s\n' "warning: $*" >&2; }
die() {
    printf '%s\n' "error: $*" >&2
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }
is_root() { [ "$(id -u)" -eq 0 ]; }
has_apt() { have apt-get && [ -r /etc/debian_version ]; }

# A Python of at least 3.10: its path on stdout, or failure.
find_python() {
    for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11 python3.10 python3; do
        if have "$candidate" && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}

# apt_install PACKAGE…: installs Debian packages without a question, or says in one sentence what to do instead.
apt_install() {
    has_apt || die "please install: $*"
    is_root || die "please install as root: apt-get install $*"
    say "installing $* with apt-get"
    apt_log="$(mktemp)"
    for attempt in cached updated; do
        # Package lists that are missing or old are the usual cause of a failure: refresh them once, only then.
        if [ "$attempt" = updated ]; then
            apt-get update -q >>"$apt_log" 2>&1 </dev/null || true
        fi
        if DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
            -o DPkg::Lock::Timeout=600 "$@" >>"$apt_log" 2>&1 </dev/null; then
            rm -f "$apt_log"
            return 0
        fi
    done
    tail -n 20 "$apt_log" >&2
    rm -f "$apt_log"
    die "apt-get could not install: $*"
}

# The address of the engine that everything here speaks to.
engine_host() { printf '%s\n' "${DOCKER_HOST:-unix:///var/run/docker.sock}"; }

# engine_info HOST [FIELD]: what the engine at HOST says of itself; fails with a reason on stderr where none answers.
engine_info() {
    info_python="$(find_python)" || die "Python 3.10 or newer is needed (set PYTHON to its path)"
    "$info_python" "$ROOT/scripts/engine_info.py" "$@"
}

# Makes sure that .venv holds the project with everything its tests need; does nothing when it is there already.
ensure_venv() {
    extras=dev
    # Without a C compiler the init is compiled by Zig, which comes from PyPI as a wheel.
    have cc || extras="dev,zig"
    venv_python="$(find_python)" || die "Python 3.10 or newer is needed (set PYTHON to its path)"
    stamp="$extras $(cksum <"$ROOT/pyproject.toml") $ROOT"
    if [ -x "$VENV/bin/python" ] && [ "$(cat "$VENV/.stamp" 2>/dev/null)" = "$stamp" ]; then
        return 0
    fi
    # An existing .venv is updated in place; it is made anew only when its Python no longer runs.
    if ! "$VENV/bin/python" -c 'import pip, sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
        say "making .venv with $venv_python"
        rm -rf "$VENV"
        if ! "$venv_python" -m venv "$VENV"; then
            rm -rf "$VENV"
            apt_install python3-venv
            "$venv_python" -m venv "$VENV"
        fi
    fi
    say "installing remote-env and its tools into .venv"
    rm -f "$VENV/.stamp"
    # An editable install builds no init, so it needs no compiler either.
    REMOTE_ENV_INIT_ARCHS=host "$VENV/bin/python" -m pip install -qq --disable-pip-version-check --editable "${ROOT}[$extras]"
    printf '%s\n' "$stamp" >"$VENV/.stamp"
}
