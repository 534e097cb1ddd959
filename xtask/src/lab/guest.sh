#!/bin/busybox sh
# /init of the Linux guest that the lab moves: serves a database, counts, and tells with each count
# whether files are as they were written, how long it runs and what time it has. When the database is
# shut down, so is the guest.

/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs devtmpfs /dev
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /tmp
for module in /lib/modules/*; do insmod "$module" || echo "no $module"; done
# What goes wrong in this kernel is to be seen, and nothing else.
dmesg -n 5

fill() { dd if="$1" of="$2" bs=64k count="$3" conv=notrunc iflag=fullblock 2>/dev/null; }
hash() { sha256sum <"$1"; }
# virtio's number of each kind of device: 1 network card, 2 disk, 4 random numbers, 5 balloon.
devices() { cat /sys/bus/virtio/devices/*/device | sort | tr '\n' ' '; }
drivers() { ls -d /sys/bus/virtio/devices/*/driver | wc -l; }

echo "cpus $(grep -c ^processor /proc/cpuinfo)"
echo "devices $(devices)drivers $(drivers) rng $(cat /sys/class/misc/hw_random/rng_current)"
ip link set lo up
ip addr add 10.1.0.2/24 dev eth0 && ip link set eth0 up
mount -t ext4 /dev/vda /data || echo 'the disk has no file system'
fill /dev/hwrng /data/cold 8
cold=$(hash /data/cold)
fill /dev/urandom /tmp/hot 8
hot=$(hash /tmp/hot)
sync
# Every write is on the disk before it is acknowledged.
mkdir /data/database
redis-server --bind 10.1.0.2 --protected-mode no --dir /data/database --save '' \
    --appendonly yes --appendfsync always >/tmp/database.log 2>&1 &
database=$!
count=0
while kill -0 "$database" 2>/dev/null; do
    count=$((count + 1))
    files=right
    # From the disk itself, not from what is remembered of it.
    echo 1 >/proc/sys/vm/drop_caches
    [ "$(hash /data/cold)" = "$cold" ] || files=wrong
    [ "$(hash /tmp/hot)" = "$hot" ] || files=wrong
    fill /dev/urandom /tmp/hot 8
    hot=$(hash /tmp/hot)
    # Whoever looks at the disk afterwards finds what was reported at least.
    echo "$count" >/data/count && sync /data/count
    echo "tick $count files=$files up=$(cut -d' ' -f1 /proc/uptime) wall=$(date +%s)"
    sleep 1
done
echo "$cold" >/data/cold.hash
tail -n 3 /tmp/database.log
umount /data || echo 'the disk is in use'
poweroff -f
