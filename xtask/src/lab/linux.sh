# The scenario of `--linux`: an unmodified Linux guest moves to another network namespace, over a
# link of 50 Mbit/s with 20 ms each way and losses, and back.

for module in veth sch_netem tun; do
    insmod /lib/modules/$module.ko* || fail "the module $module does not load"
done
# The other host: the network of a process that only waits.
unshare -n sleep "$LIMIT_SECONDS" &
there=$!
tries=0
while [ "$(readlink /proc/$there/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || fail 'no network namespace'
    sleep 0.1
done
at_home() { "$@"; }
over_there() { nsenter -t "$there" -n "$@"; }
# connect WHERE DEVICE ADDRESS
connect() {
    $1 /sbin/ip link set lo up && $1 /sbin/ip addr add "$3/24" dev "$2" &&
        $1 /sbin/ip link set "$2" up &&
        $1 /sbin/tc qdisc add dev "$2" root netem $NETEM || fail "cannot set up the link $1"
}
/sbin/ip link add home type veth peer name away netns "$there" || fail 'no veth pair'
connect at_home home 10.0.0.1
connect over_there away 10.0.0.2
# plug WHERE: where the guest's network card is connected; nothing else is.
plug() {
    $1 /sbin/ip tuntap add dev tap0 mode tap && $1 /sbin/ip addr add 10.1.0.1/24 dev tap0 &&
        $1 /sbin/ip link set tap0 up || fail "no tap $1"
}
plug at_home
plug over_there
# On storage that both hosts have.
truncate -s 16M disk.raw
# reach LABEL WHERE: the guest answers there.
reach() {
    tries=0
    until $2 ping -c 1 -W 2 10.1.0.2 >/dev/null; do
        tries=$((tries + 1))
        [ "$tries" -lt 20 ] || break
    done
    value "pings.$1" "$tries"
}

# Adds the time to each line in which the guest says what time it has; a line may be cut by a move.
stamp() {
    while read -r line; do
        case $line in
            *' wall='*) echo "$line host=$(date +%s)" ;;
            *) echo "$line" ;;
        esac
    done
    printf %s "$line"
}
# console NAME: its serial port, from the file NAME.pipe to the file NAME.console.
console() {
    mkfifo "$1.pipe" || fail "no pipe for the console of $1"
    stamp <"$1.pipe" >"$1.console" &
    stamping=$!
}
ticks() { grep -ac ' wall=' "$1.console"; }
# wait_for_ticks NAME COUNT
wait_for_ticks() {
    tries=0
    until [ "$(ticks "$1")" -ge "$2" ]; do
        must_live "report $2 of the guest at $1"
        tries=$((tries + 1))
        [ "$tries" -lt 240 ] || fail "not $2 reports of the guest at $1 in 120 s"
        sleep 0.5
    done
}
# move LABEL FROM TO WHERE ADDRESS OPTIONS…
move() {
    label=$1 from=$2 to=$3 where=$4 address=$5:7000
    shift 5
    source_stamping=$stamping
    console "$to"
    $where me2 receive --name "$to" --listen "$address" --once --serial stdio --net net0=tap0 \
        </dev/null >"$to.pipe" 2>"$to.log" &
    vm=$!
    wait_for "address=$address" "$to.log" "address of $to"
    if ! migrate "$label" "$from" --verify full "$@"; then
        cat ./*.console | tr -d '\r' | text console
        fail "the move $label did not complete"
    fi
    progress 'it has moved'
    # The source's process ends, and with it its console.
    wait "$source_stamping"
    wait_for_ticks "$to" "$TICKS"
    reach "$label" "$where"
}

progress 'starting a VM'
console first
me2 run --name first --memory "$MEMORY" --cpus "$CPUS" --kernel /boot/vmlinuz --initrd /boot/guest \
    --disk path=disk.raw --net tap=tap0 --rng --balloon \
    --cmdline "$CMDLINE" --serial stdio </dev/null >first.pipe 2>first.log &
vm=$!
wait_for 'tick 1 ' first.console 'report of the guest'
(cd /proc/$vm/task && ls) | text source.threads
wait_for_ticks first "$TICKS"
reach before at_home
counts events.before
progress 'moving it over there'
move there first second over_there 10.0.0.2
counts events.hybrid
progress 'moving it back'
move back second third at_home 10.0.0.1
ioctls ioctls
value emulated_addresses \
    "$(grep -ao 'rip: *[0-9a-f]*' "$tracing/kvm/kvm_emulate_insn/hist" | sort -u | wc -l)"
value ticks.first "$(ticks first)"
value ticks.second "$(ticks second)"
value disk.count "$(dd if=disk.raw bs=512 skip=16384 count=1 2>/dev/null | sed -n 's|^count \([0-9]*\).*|\1|p')"
cat first.console second.console third.console | tr -d '\r' | text console
