#!/bin/busybox sh
# /init of the Linux guest that the lab moves: counts, and tells with each count whether files and its
# disk are as they were written, how long it runs and what time it has.

/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs devtmpfs /dev
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /tmp
for module in /lib/modules/*; do insmod "$module" || echo "no $module"; done
# What goes wrong in this kernel is to be seen, and nothing else.
dmesg -n 5

fill() { dd if=/dev/urandom of="$1" bs=64k count="$2" conv=notrunc 2>/dev/null; }
hash() { sha256sum <"$1"; }
# Of the disk itself, not of what is remembered of it.
hash_disk() {
    echo 3 >/proc/sys/vm/drop_caches
    dd if=/dev/vda bs=64k count=16 2>/dev/null | sha256sum
}
# Behind what is hashed: whoever looks at the disk from outside finds what was reported at least.
note_on_disk() { echo "count $1" | dd of=/dev/vda bs=512 seek=16384 conv=notrunc,sync,fsync 2>/dev/null; }
# virtio's number of each kind of device: 1 network card, 2 disk, 4 random numbers, 5 balloon.
devices() { cat /sys/bus/virtio/devices/*/device | sort | tr '\n' ' '; }
drivers() { ls /sys/bus/virtio/devices/*/driver -d | wc -l; }

echo "cpus $(grep -c ^processor /proc/cpuinfo)"
echo "devices $(devices)drivers $(drivers) rng $(cat /sys/class/misc/hw_random/rng_current)"
ip addr add 10.1.0.2/24 dev eth0 && ip link set eth0 up
dd if=/dev/hwrng of=/dev/vda bs=64k count=16 conv=notrunc,fsync iflag=fullblock 2>/dev/null
disk=$(hash_disk)
fill /tmp/cold 32
cold=$(hash /tmp/cold)
fill /tmp/hot 4
hot=$(hash /tmp/hot)
count=0
while :; do
    count=$((count + 1))
    files=right
    [ "$(hash /tmp/cold)" = "$cold" ] || files=wrong
    [ "$(hash /tmp/hot)" = "$hot" ] || files=wrong
    [ "$(hash_disk)" = "$disk" ] || files=wrong
    note_on_disk "$count"
    fill /tmp/hot 4
    hot=$(hash /tmp/hot)
    echo "tick $count files=$files up=$(cut -d' ' -f1 /proc/uptime) wall=$(date +%s)"
    sleep 0.2
done
