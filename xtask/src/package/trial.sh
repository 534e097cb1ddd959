# In the clean system: me2 is installed, used and removed. Each step is told, and the first that fails ends it.
set -eEu
cd /trial
trap 'echo "FAILED at line $LINENO: $BASH_COMMAND"; told; echo failed >verdict' ERR

told() {
    journalctl --no-pager --quiet -o cat -n 40 -u "me2-receive@*" || true
    tail -n 20 /trial/*.err || true
}
step() { echo "package: $*"; }
must_fail() { if "$@"; then echo "it must fail: $*"; return 1; fi; }
as_me2() { runuser -u me2 -- "$@"; }
is() { [ "$1" = "$2" ] || { echo "'$1' is not '$2'"; return 1; }; }
main_pid() { systemctl show -P MainPID "$1"; }
# The only entry of a report's document with this name.
field() { grep -m 1 "\"$1\":" "$2" | tr -d ' ,"' | cut -d : -f 2; }

# What a udev rule does where there is udev; the package's is read below.
devices() {
    chgrp kvm /dev/kvm /dev/userfaultfd
    chmod 660 /dev/kvm /dev/userfaultfd
}

find / -xdev \( -path /trial -o -path /proc -o -path /sys -o -path /run -o -path /tmp \) -prune -o -print | sort >before

step 'installed'
dpkg -i me2.deb >dpkg.out 2>dpkg.err
id me2
grep -q userfaultfd /lib/udev/rules.d/60-me2.rules
devices

step "$(me2 --version), manual pages, completions"
for page in me2 me2-receive me2-hybrid-migrate; do man -w $page >/dev/null; done
man me2-receive 2>man.err | grep -q -- --listen
bash -c '. /usr/share/bash-completion/bash_completion; _completion_loader me2; complete -p me2' >complete.out
test -s /usr/share/doc/me2/copyright

step 'the unit, as systemd sees it'
systemd-analyze verify /lib/systemd/system/me2-receive@.service 2>verify.err
test ! -s verify.err
systemd-analyze security --no-pager --threshold=20 me2-receive@web.service | tail -n 1

step 'identities of the service and of a source'
as_me2 me2 cert create --config-dir /etc/me2/identity >/dev/null
export HOME=/root
me2 cert create >/dev/null
me2 cert trust "$(me2 cert show --config-dir /etc/me2/identity)" here >/dev/null
as_me2 me2 cert trust --config-dir /etc/me2/identity "$(me2 cert show)" source >/dev/null
as_me2 me2 cert trust --config-dir /etc/me2/identity "$(me2 cert show --config-dir /etc/me2/identity)" here >/dev/null

step 'without a configuration it does not start'
must_fail systemctl start me2-receive@web 2>nothing.err
systemctl reset-failed me2-receive@web

step 'two ports for two VMs'
echo 'ME2_LISTEN=127.0.0.1:7300' >/etc/me2/receive/web.conf
printf '%s\n' 'ME2_LISTEN=127.0.0.1:7301' 'ME2_OPTIONS=--max-memory 256M' >/etc/me2/receive/other.conf
systemctl enable --now --quiet me2-receive@web me2-receive@other
# No waiting: it notifies when it listens.
is "$(systemctl show -P StatusText me2-receive@web)" 'Waiting for a VM at 127.0.0.1:7300'
me2 list

step 'what its process still has'
pid=$(main_pid me2-receive@web)
grep -E '^(Uid|CapEff|NoNewPrivs|Seccomp):' /proc/$pid/status
is "$(awk '/^Uid:/ { print $2 }' /proc/$pid/status)" "$(id -u me2)"
is "$(awk '/^Cap(Inh|Prm|Eff|Amb)/ { print $2 }' /proc/$pid/status | sort -u)" 0000000000000000
is "$(awk '/^NoNewPrivs:/ { print $2 }' /proc/$pid/status)" 1
is "$(awk '/^Seccomp:/ { print $2 }' /proc/$pid/status)" 2
for path in /usr/x /etc/me2/x /var/x; do must_fail nsenter -m -t $pid touch $path 2>touch.err; done
nsenter -m -t $pid touch /var/lib/me2/x
rm /var/lib/me2/x
# A device that the unit does not name: root outside may open it, nobody in the unit's group.
mknod /tmp/kmsg c 1 11
: </tmp/kmsg
group=/sys/fs/cgroup$(systemctl show -P ControlGroup me2-receive@web)
must_fail bash -c "echo \$\$ >'$group/cgroup.procs' && echo joined && : </tmp/kmsg" >device.out 2>device.err
is "$(cat device.out)" joined

step 'a VM comes from outside'
export ME2_RUNTIME_DIR=/run/me2-source
me2 run --name web --memory 128M --serial none 2>run.err &
source=$!
# Until it can be asked.
until me2 status --vm web >/dev/null 2>status.err; do kill -0 $source; done
me2 hybrid-migrate --vm web --to 127.0.0.1:7300 --verify full --output json >first.json 2>first.err
wait $source
unset ME2_RUNTIME_DIR
is "$(field status first.json)" completed
is "$(field mismatched_pages first.json)" 0
is "$(systemctl show -P StatusText me2-receive@web)" 'The VM is here'
me2 status --vm web

step 'and from one unit to the other, by the probes'
must_fail dpkg -r me2 >remove.out 2>remove.err
grep 'still running' remove.err
me2 hybrid-migrate --vm web --to 127.0.0.1:7301 --verify full --output json >second.json 2>second.err
is "$(field status second.json)" completed
is "$(field mismatched_pages second.json)" 0
is "$(field attached second.json)" true
echo "probes: $(field probe second.json), touched pages: $(field touched_pages second.json)"

step 'the unit that it left is done, and is not started again'
# Its process tells the last word, and ends.
while [ "$(systemctl show -P ActiveState me2-receive@web)" != inactive ]; do
    is "$(systemctl show -P Result me2-receive@web)" success
done
is "$(systemctl show -P Result,NRestarts me2-receive@web | tr '\n' ' ')" 'success 0 '
is "$(systemctl is-active me2-receive@other)" active
me2 list

step 'an update leaves the VM alone'
pid=$(main_pid me2-receive@other)
dpkg -i me2.deb >dpkg.out 2>dpkg.err
is "$(main_pid me2-receive@other)" "$pid"

step 'stopped, disabled, removed'
systemctl disable --now --quiet me2-receive@web me2-receive@other
is "$(systemctl show -P Result me2-receive@other)" success
dpkg -r me2 >remove.out 2>remove.err
test -e /etc/me2/identity
dpkg --purge me2 >remove.out 2>remove.err
find / -xdev \( -path /trial -o -path /proc -o -path /sys -o -path /run -o -path /tmp \) -prune -o -print | sort >after
# The lists of users, the system's own logs and caches change in any system.
comm -13 before after | grep -vE '^/(etc/(passwd|group|shadow|gshadow|\.pwd)|var/(cache|log|lib/(dpkg|systemd))/|root/\.config)' >left || true
is "$(cat left)" ''
test ! -e /run/me2
is "$(getent passwd me2 | cut -d : -f 7)" /usr/sbin/nologin

echo passed >verdict
step 'passed'
