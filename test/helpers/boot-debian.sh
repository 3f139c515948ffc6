#!/bin/sh
# boot-debian.sh ROOT GROUP: boots the systemd of the Debian in ROOT in namespaces of its own, in the control group GROUP (of cgroup v2).
# Its end is this process's end. /proc/sys and /sys are read-only: that systemd must not change this machine.
set -eu
root=$1
mkdir "$2"
echo $$ >"$2/cgroup.procs"
exec unshare --mount --uts --ipc --net --cgroup --pid --fork --kill-child --propagation private sh -euc '
  cd "$1"
  mount --bind . .
  cd "$1"
  mount -t proc proc proc
  mount --bind proc/sys proc/sys
  mount -o remount,bind,ro proc/sys
  mount -t sysfs -o ro sysfs sys
  mount -t cgroup2 cgroup2 sys/fs/cgroup
  mount -t tmpfs -o mode=755 tmpfs run
  mount -t tmpfs -o mode=755 tmpfs dev
  for name in null zero full random urandom tty; do
    touch "dev/$name"
    mount --bind "/dev/$name" "dev/$name"
  done
  mkdir dev/shm dev/pts
  mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
  ln -s pts/ptmx dev/ptmx
  mount -t tmpfs tmpfs dev/shm
  ln -s /proc/self/fd dev/fd
  hostname debian
  mkdir -p host
  pivot_root . host
  cd /
  umount -l host
  exec env -i container=weir PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd
' sh "$root"
