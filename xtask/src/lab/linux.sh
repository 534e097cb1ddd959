# The scenario of `--linux`: an unmodified Linux guest with a database on its disk moves to another
# host over a link of 50 Mbit/s with 20 ms each way and losses, and back, while a client in a third
# place writes. Hosts and clients are network namespaces:
#
#    here ── link (netem) ── there
#      └──── lan ─ clients ─ lan ───┘      the guest's card is on the lan wherever the guest is

for module in veth sch_netem tun llc stp bridge loop; do
    insmod /lib/modules/$module.ko* || fail "the module $module does not load"
done
# namespace: that of a process that only waits; its number is in $process.
namespace() {
    unshare -n sleep "$LIMIT_SECONDS" &
    process=$!
    tries=0
    while [ "$(readlink /proc/$process/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 100 ] || fail 'no network namespace'
        sleep 0.1
    done
}
# As `me2 check` asks for it.
for buffers in rmem_max wmem_max; do
    echo 4194304 >/proc/sys/net/core/$buffers || fail "the kernel's $buffers cannot be set"
done
namespace
there_process=$process
namespace
clients_process=$process
# in_PLACE: before a program's name, it runs there.
in_here=
in_there="nsenter -t $there_process -n"
in_clients="nsenter -t $clients_process -n"
here() { "$@"; }
there() { $in_there "$@"; }
clients() { $in_clients "$@"; }
ip() { /sbin/ip "$@"; }

# shape PARAMETERS…: the link, in both directions.
shape() {
    here /sbin/tc qdisc replace dev link0 root netem "$@" &&
        there /sbin/tc qdisc replace dev link0 root netem "$@" || fail "the link cannot be made $*"
}
ip link add link0 type veth peer name link0 netns "$there_process" || fail 'no veth pair'
# host NAME ADDRESS PROCESS: its end of the link, and a bridge with its end of the lan and the guest's card.
host() {
    $1 /sbin/ip addr add "$2/24" dev link0 && $1 /sbin/ip link set link0 up &&
        $1 /sbin/ip link set lo up || fail "no link of $1"
    ip link add "$1" netns "$clients_process" type veth peer name lan0 netns "$3" || fail "no lan of $1"
    $1 /sbin/ip link add bridge0 type bridge && $1 /sbin/ip tuntap add dev tap0 mode tap || fail "no bridge of $1"
    for port in lan0 tap0; do
        $1 /sbin/ip link set "$port" master bridge0 up || fail "no port of $1"
    done
    $1 /sbin/ip link set bridge0 up && clients /sbin/ip link set "$1" master bridge0 up ||
        fail "no lan of $1"
}
clients /sbin/ip link add bridge0 type bridge || fail 'no bridge of the clients'
host here 10.0.0.1 $$
host there 10.0.0.2 "$there_process"
clients /sbin/ip addr add 10.1.0.1/24 dev bridge0 && clients /sbin/ip link set bridge0 up || fail 'no lan'
shape $NETEM
# On storage that both hosts have.
truncate -s 32M disk.raw
/sbin/mke2fs -q -t ext4 disk.raw >mke2fs.log 2>&1 || fail 'no file system for the disk'
database=10.1.0.2:6379

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
# more_ticks NAME COUNT: beyond those that there are.
more_ticks() {
    wanted=$(($(ticks "$1") + $2))
    tries=0
    until [ "$(ticks "$1")" -ge "$wanted" ]; do
        must_live "report $wanted of the guest at $1"
        tries=$((tries + 1))
        [ "$tries" -lt 240 ] || fail "not $wanted reports of the guest at $1 in 120 s"
        sleep 0.5
    done
}
written() { cat written 2>/dev/null || echo 0; }
# more_writes COUNT WHEN
more_writes() {
    wanted=$(($(written) + $1))
    tries=0
    until [ "$(written)" -ge "$wanted" ]; do
        must_live "write $wanted"
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || fail "not $1 writes in 60 s $2"
        sleep 0.2
    done
}
# receive NAME WHERE ADDRESS
receive() {
    eval "place=\$in_$2"
    $place me2 receive --name "$1" --listen "$3:7000" --once --serial stdio --net net0=tap0 \
        </dev/null >"$1.pipe" 2>"$1.log" &
    receiver=$!
    wait_for "address=$3" "$1.log" "address of $1"
    address=$3:7000
}
# move LABEL FROM TO WHERE ADDRESS OPTIONS…
move() {
    label=$1 from=$2 to=$3 where=$4 address=$5
    shift 5
    source_stamping=$stamping
    console "$to"
    receive "$to" "$where" "$address"
    source=$vm
    migrate "$label" "$from" "$@" || {
        cat ./*.console | tr -d '\r' | text console
        fail "the move $label did not complete"
    }
    vm=$receiver
    progress 'it has moved'
    # The source's process ends, and with it its console.
    wait "$source" "$source_stamping"
    more_ticks "$to" "$TICKS"
    more_writes 20 "after the move $label"
    value "writes.$label" "$(written)"
}

progress 'starting a VM'
console first
me2 run --name first --memory "$MEMORY" --cpus "$CPUS" --kernel /boot/vmlinuz --initrd /boot/guest \
    --disk path=disk.raw --net tap=tap0 --rng --balloon \
    --cmdline "$CMDLINE" --serial stdio </dev/null >first.pipe 2>first.log &
vm=$!
wait_for 'tick 1 ' first.console 'report of the guest'
(cd /proc/$vm/task && ls) | text source.threads
$in_clients checker write "$database" written enough >checker.out 2>checker.log &
checker=$!
more_writes 20 'before any move'
more_ticks first "$TICKS"
counts events.before

progress 'moving it to a receiver that is killed'
mkfifo doomed.pipe && cat doomed.pipe >doomed.console &
receive doomed there 10.0.0.2
doomed=$receiver
(
    wait_for 'phase precopy' first.log 'pre-copy to a receiver that is killed'
    kill -9 "$doomed"
) &
migrate killed first
more_ticks first 2
more_writes 20 'after the receiver was killed'
value ticks.first "$(ticks first)"
value writes.killed "$(written)"

progress 'moving it over there'
move there first second there 10.0.0.2 --verify full
counts events.hybrid
value ticks.second "$(ticks second)"

# Not with all memory compared: for that the guest would stand still until all of it is there.
progress 'moving it back, with the link cut behind the handover'
(
    wait_for 'phase postcopy' second.log 'post-copy'
    shape loss 100%
    sleep "$CUT_SECONDS"
    shape $NETEM
    progress 'the link is mended'
) &
cut=$!
move back second third here 10.0.0.1 --mode postcopy
wait "$cut"
value cut_seconds "$CUT_SECONDS"
ioctls ioctls
value emulated_addresses \
    "$(grep -ao 'rip: *[0-9a-f]*' "$tracing/kvm/kvm_emulate_insn/hist" | sort -u | wc -l)"

progress 'reading back what was acknowledged'
touch enough
wait "$checker"
value database "$(cat checker.out)"
acknowledged=$(written)
clients checker shutdown "$database" 2>shutdown.log || fail 'the database cannot be shut down'
wait "$vm"
value power_off "$?"
wait "$stamping"

progress 'reading the disk'
mkdir disk && mount -t ext4 -o loop disk.raw disk || fail 'the disk cannot be read'
value disk.count "$(cat disk/count)"
[ "$(sha256sum <disk/cold)" = "$(cat disk/cold.hash)" ] && value disk.file right
redis-server --dir "$PWD/disk/database" --save '' --appendonly yes >redis.log 2>&1 &
value disk.database "$(checker verify 127.0.0.1:6379 "$acknowledged" 2>&1)"
cat first.console second.console third.console | tr -d '\r' | text console
