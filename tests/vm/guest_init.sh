#!/busybox sh
# PID 1 of the virtual machine: the host's files read-only below a tmpfs, with a kernel of our own.
# The placeholders are filled in by image.py.
BB=/busybox
fail() {
    echo "vm: $*"
    $BB poweroff -f
}
$BB mount -t devtmpfs dev /dev
for module in @MODULES@; do
    $BB insmod "/modules/$module" || fail "insmod $module"
done
$BB mount -t virtiofs -o ro host /lower || fail "virtiofs"
$BB mount -t tmpfs tmpfs /layer
$BB mkdir /layer/upper /layer/work
$BB mount -t overlay overlay -o lowerdir=/lower,upperdir=/layer/upper,workdir=/layer/work /root ||
    fail "overlay"
cd /root || fail "no root"
$BB mount -t proc proc proc
$BB mount -t sysfs sysfs sys
$BB mount -t devtmpfs dev dev
$BB mkdir -p dev/pts dev/shm dev/mqueue lib/modules
$BB mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts dev/pts
for directory in dev/shm tmp run var/lib; do
    $BB mount -t tmpfs -o mode=1777 tmpfs "$directory"
done
$BB mount -t mqueue mqueue dev/mqueue
$BB mount -t cgroup2 -o nsdelegate cgroup2 sys/fs/cgroup || fail "cgroup2"
$BB mount -t tmpfs tmpfs lib/modules
$BB mkdir "lib/modules/$($BB uname -r)"
$BB mount -o bind "/lower@KERNEL_MODULES@" "lib/modules/$($BB uname -r)"
[ -e sbin/apparmor_parser ] || $BB cp "/lower@APPARMOR_PARSER@" sbin/
if [ ! -d ".@DIRECTORY@" ]; then  # a checkout below /tmp
    $BB mkdir -p ".@DIRECTORY@"
    $BB mount -o bind "/lower@DIRECTORY@" ".@DIRECTORY@"
fi
$BB cp /busybox /guest_run.sh run/
exec $BB switch_root /root /run/busybox sh /run/guest_run.sh
