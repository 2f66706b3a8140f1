# Functions of .ci/run.

failed=()
asides=()

# stage NAME COMMAND…: runs it, says how long it took, and goes on if it fails.
stage() {
    local name=$1 began=$SECONDS
    shift
    echo "── $name"
    if (set -e; "$@"); then
        echo "── $name: passed, $((SECONDS - began)) s"
    else
        echo "── $name: FAILED, $((SECONDS - began)) s"
        failed+=("$name")
    fi
}

# aside NAME COMMAND…: a stage for `begin_asides`, which runs them one after the other.
aside() {
    local number=${#asides[@]}
    asides+=("$1")
    shift
    printf '%q ' "$@" >"$work/aside-$number"
}

begin_asides() {
    (
        renice -n 10 $BASHPID >/dev/null
        export PYTEST_PATIENCE=4 PYTEST_TIMEOUT=720 # the tests have the processor first
        for number in "${!asides[@]}"; do
            began=$SECONDS result=passed
            (set -e; eval "$(cat "$work/aside-$number")") >"$work/aside-$number.log" 2>&1 || result=FAILED
            echo "$result $((SECONDS - began))" >"$work/aside-$number.result"
        done
    ) &
    asides_pid=$!
}

await_asides() {
    local number result seconds
    wait "$asides_pid" || true
    for number in "${!asides[@]}"; do
        read -r result seconds <"$work/aside-$number.result" || result=FAILED
        echo "── ${asides[number]} (beside the tests)"
        cat "$work/aside-$number.log"
        echo "── ${asides[number]}: $result, ${seconds:-?} s"
        [[ $result == passed ]] || failed+=("${asides[number]}")
    done
}

finish() {
    if ((${#failed[@]})); then
        printf 'FAILED: %s\n' "${failed[@]}"
        exit 1
    fi
    echo "All stages passed in $SECONDS s."
}

# As a stranger's runner may have it: a new clone, an empty home, hardly any environment, no
# terminal, another language and time zone, and SIGINT ignored, as in all that a shell starts in the
# background. Only how coverage is counted comes from here: of the tests, which is enough. Before, one
# process that does not count compiles them; else each of those that do would, at twice the cost.
hostile() {
    git clone --quiet . "$work/clone"
    mkdir "$work/home"
    cd "$work/clone"
    env -i HOME="$work/home" PATH=/usr/bin:/bin TERM=dumb LANG=C LC_ALL=C TZ=America/St_Johns \
        COLUMNS=20 CI=true \
        sh -c 'make demo && { make test ARGS="--collect-only -qq -n 0" >/dev/null
            make test ARGS="--cov --cov-append --cov-report="; } && make acceptance' &
    wait $!
}

# The first Python that is new enough and can make environments; the Makefile looks as well.
python_of_this_machine() {
    local python
    for python in python3.12 python3.11 python3.13 python3; do
        if can_make_environments "$python"; then
            "$python" "$@"
            return
        fi
    done
    return 1
}

# Without root or a package mirror we go on: make says what is missing, and tests bring their servers.
make_ready() {
    if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
        echo "Nothing is installed: that needs root and apt-get."
        return
    fi
    local missing=()
    lacking make make
    lacking git git
    lacking redis-server redis-server
    lacking rabbitmq-server rabbitmq-server
    lacking node nodejs
    lacking chromium chromium
    lacking pgbouncer pgbouncer
    lacking buildah buildah
    lacking promtool prometheus
    lacking mmdebstrap mmdebstrap
    lacking systemd-analyze systemd
    can_make_environments /usr/bin/python3 || missing+=(python3 python3-venv)
    ((${#missing[@]})) || return 0
    echo "Installing ${missing[*]}"
    apt-get update -qq || true
    # One by one, if together they can't be had.
    apt-get install -qq --yes --no-install-recommends "${missing[@]}" >/dev/null ||
        for each in "${missing[@]}"; do
            apt-get install -qq --yes --no-install-recommends "$each" >/dev/null ||
                echo "Going on without $each" >&2
        done
}

lacking() {
    PATH=$PATH:/usr/sbin command -v "$1" >/dev/null || missing+=("$2")
}

can_make_environments() {
    "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}
