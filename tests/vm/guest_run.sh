# Runs the tests; still PID 1. ttyS1 is their output, ttyS2 takes the exit status.
BB=/run/busybox
for module in overlay bridge br_netfilter veth nf_tables nft_chain_nat nft_masq nft_nat nft_ct \
    nft_fib_inet dummy macvlan ipvlan 8021q sctp brd loop; do
    $BB modprobe "$module" 2>/dev/null
done
$BB ip link set lo up
$BB mount -t securityfs securityfs /sys/kernel/security
export HOME=/root TERM=dumb PYTHONDONTWRITEBYTECODE=1 LONGSHORE_TEST_PATIENCE=8
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
$BB stty -F /dev/ttyS1 raw -echo
cd "@DIRECTORY@" || exit
@COMMAND@ </dev/null >/dev/ttyS1 2>&1
echo $? >/dev/ttyS2
$BB sync
$BB poweroff -f
