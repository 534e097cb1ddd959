# bash -c boot.sh boot BASE FOLDER CGROUP: becomes systemd in a copy of the system BASE that goes to FOLDER/upper, in
# namespaces of its own. Devices are nodes of its own too: their owners are changed inside.
set -e
PATH=$PATH:/usr/sbin:/sbin
export base=$1 folder=$2
mkdir "$3"
echo $$ >"$3/cgroup.procs"
exec unshare --mount --pid --cgroup --ipc --uts --net --fork --kill-child=KILL -- /bin/bash -ec '
mount --make-rprivate /
root=$folder/root
mount -t overlay -o "lowerdir=$base,upperdir=$folder/upper,workdir=$folder/work" overlay "$root"
cd "$root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
mount -t tmpfs -o mode=755 tmpfs run
for device in null zero full random urandom tty kvm userfaultfd net/tun; do
    mkdir -p "dev/$(dirname $device)"
    mknod -m 666 "dev/$device" c $((16#$(stat -c %t /dev/$device))) $((16#$(stat -c %T /dev/$device)))
done
ln -s /proc/self/fd dev/fd
mkdir dev/shm dev/pts run/before
mount -t tmpfs tmpfs dev/shm
ip link set lo up
pivot_root . run/before
umount -l /run/before
exec env -i container=me2-trial PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --log-target=console
'
