#!/bin/busybox sh
# /init of the lab's machine: has a scenario move a VM between me2 processes, and tells what happened
# over the second serial port, line by line:
#
#   progress SECONDS TEXT     for the person who waits
#   value NAME TEXT           one result
#   begin NAME / end NAME     around the lines of one text
#
# Judging it is the host's business. /lab.sh has the settings, /scenario.sh what is done.

/bin/busybox --install -s /bin
export PATH=/bin HOME=/tmp ME2_CONFIG_DIR=/tmp/config ME2_RUNTIME_DIR=/tmp/run
cd /tmp
. /lab.sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
stty -F /dev/ttyS1 raw -echo
exec 3>/dev/ttyS1

progress() { echo "progress $(cut -d' ' -f1 /proc/uptime) $*" >&3; }
value() { echo "value $*" >&3; }
text() {
    echo "begin $1" >&3
    cat >&3
    echo >&3
    echo "end $1" >&3
}
finish() {
    for log in /tmp/*.log /tmp/*.console; do
        [ -e "$log" ] && tr -d '\r' <"$log" | text "log.$(basename "$log" .log)"
    done
    dmesg | tail -n 40 | text log.kernel
    progress 'switching off'
    # Setting it again waits until the port has sent everything.
    stty -F /dev/ttyS1 raw -echo
    poweroff -f
}
fail() {
    value failed "$*"
    finish
}

# Whatever hangs, and whoever has lost interest: this machine ends by itself.
(sleep "$LIMIT_SECONDS"; poweroff -f) &

# The process in which the VM is, or will be, if a scenario says so: nothing is waited for without it.
vm=
must_live() {
    [ -z "$vm" ] || kill -0 "$vm" 2>/dev/null || fail "the VM's process has ended before there was $1"
}
# wait_for PATTERN FILE WHAT
wait_for() {
    tries=0
    until grep -aq "$1" "$2"; do
        must_live "the $3"
        tries=$((tries + 1))
        [ "$tries" -lt 1800 ] || fail "no $3 in 180 s"
        sleep 0.1
    done
}

tracing=/sys/kernel/tracing/events
# Events that this kernel has, as GROUP/NAME.
events() { (cd "$tracing" && ls -d kvm/*/hist kvmmmu/*/hist 2>/dev/null) | sed 's|/hist$||'; }
# Lines EVENT THREAD COUNT for every event, with EVENT - 0 for those that did not fire.
counts() {
    for event in $(events); do
        sed -n -e "s|.*common_pid: *\([0-9]*\).*hitcount: *\([0-9]*\).*|$event \1 \2|p" \
            -e "s|^ *Hits: 0$|$event - 0|p" "$tracing/$event/hist"
    done | text "$1"
}
# Lines CODE COUNT for every ioctl of all processes.
ioctls() {
    sed -n 's|.*cmd: *\([0-9a-f]*\).*hitcount: *\([0-9]*\).*|\1 \2|p' \
        "$tracing/syscalls/sys_enter_ioctl/hist" | text "$1"
}

# migrate LABEL FROM OPTIONS…: to $address.
migrate() {
    label=$1 from=$2
    shift 2
    timeout $((MOVE_SECONDS + 30)) me2 hybrid-migrate --vm "$from" --to "$address" --timeout "$MOVE_SECONDS"s \
        --output json "$@" >"$label.json" 2>"$label.log"
    status=$?
    value "$label.exit" "$status"
    text "$label.report" <"$label.json"
    return "$status"
}

progress 'the kernel is up'
value kernel "$(uname -r)"
mount -t tracefs tracefs /sys/kernel/tracing || fail 'no tracefs in this kernel'
ip link set lo up || fail 'no loopback'
for module in irqbypass kvm kvm-amd; do
    insmod /lib/modules/$module.ko* || fail "the module $module does not load"
done
[ -e /dev/kvm ] || fail 'no /dev/kvm: kvm_amd sees no SVM'
value npt "$(cat /sys/module/kvm_amd/parameters/npt)"
value huge_pages "$(sed 's/.*\[\(.*\)\].*/\1/' /sys/kernel/mm/transparent_hugepage/enabled)"
[ -e /sys/kernel/btf/kvm ] && value btf_of_kvm yes
for event in "$tracing"/kvm/*/trigger "$tracing"/kvmmmu/*/trigger; do
    echo 'hist:keys=common_pid' >"$event"
done
echo 'hist:keys=common_pid,rip.hex' >"$tracing/kvm/kvm_emulate_insn/trigger"
echo 'hist:keys=cmd.hex' >"$tracing/syscalls/sys_enter_ioctl/trigger"

me2 cert create >/dev/null 2>cert.log || fail 'me2 makes no identity'
. /scenario.sh
finish
