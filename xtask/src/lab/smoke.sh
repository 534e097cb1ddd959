# The scenario of `--smoke`: the built-in guest moves twice, over loopback.

number() { sed -n "s|.*\"$1\": *\([0-9]*\).*|\1|p"; }
operations() { me2 status --vm "$1" --output json 2>/dev/null | number operations; }

# receive NAME
receive() {
    me2 receive --name "$1" --listen 127.0.0.1:0 --once >"$1.log" 2>&1 &
    wait_for 'address=127.0.0.1:' "$1.log" "address of $1"
    address=$(grep -ao '127\.0\.0\.1:[1-9][0-9]*' "$1.log" | head -n 1)
}

# move LABEL FROM TO OPTIONS…
move() {
    label=$1 from=$2 to=$3
    shift 3
    receive "$to"
    value "$label.before" "$(operations "$from")"
    migrate "$label" "$from" "$@"
}

# goes_on LABEL NAME: the guest has done more at NAME than before the move.
goes_on() {
    before=$(operations "$2")
    tries=0
    while
        now=$(operations "$2")
        [ "${now:-0}" -le "${before:-0}" ]
    do
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || fail "the guest does not go on at $2"
        sleep 0.1
    done
    me2 status --vm "$2" --output json | text "$1.status"
}

progress 'starting a VM'
me2 run --name first --memory "$MEMORY" --cpus "$CPUS" --cmdline "$CMDLINE" >first.log 2>&1 &
first=$!
wait_for 'me2-guest cpu=.* ops=[1-9]' first.log 'report of the guest'
(cd /proc/$first/task && ls) | text source.threads

progress 'moving it, hybrid'
counts events.before
move hybrid first second --mode hybrid --verify full
counts events.hybrid
value emulated_addresses \
    "$(grep -ao 'rip: *[0-9a-f]*' "$tracing/kvm/kvm_emulate_insn/hist" | sort -u | wc -l)"
goes_on hybrid second

progress 'moving it on, post-copy alone'
move postcopy second third --mode postcopy
ioctls ioctls
goes_on postcopy third
