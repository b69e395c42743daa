"""Tables of test_every_flag.py: each flag of run, create, update and exec, and what inspect shows.

A row is the flag with its value, the place in inspect, what is there, and the test that shows its
effect, where it has one that is not the client's own or another row's.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Flag(NamedTuple):
    option: str
    place: str
    shown: Any
    effect: str = ""


MIB = 1 << 20
INSIDE = "test_run_options.py::test_inside"
REFUSED = "test_run_options.py::test_refused"
LIMIT = "test_limits.py::test_limit_is_set"
STDIN = "test_run.py::test_stdin_reaches_the_process_and_ends"
DISK = "test_limits.py::test_block_io_throttle"
HEALTH = "test_health.py::test_created_container_has_no_health_yet"
HOST = "HostConfig"
NET = "NetworkSettings.Networks.nonet"


def _rate(rate: int) -> list[dict[str, Any]]:
    return [{"Path": "/dev/null", "Rate": rate}]


# All given to one create.
CREATED = [
    Flag("--add-host=a:1.2.3.4", f"{HOST}.ExtraHosts", ["a:1.2.3.4"], INSIDE),
    Flag("--annotation=n=v", f"{HOST}.Annotations", {"n": "v"}, INSIDE),
    Flag("--attach=stderr", "Config.AttachStderr", True, STDIN),
    Flag("--cap-add=NET_ADMIN", f"{HOST}.CapAdd", ["CAP_NET_ADMIN"], INSIDE),
    Flag("--cap-drop=CHOWN", f"{HOST}.CapDrop", ["CAP_CHOWN"], INSIDE),
    Flag("--cgroup-parent=/t-parent", f"{HOST}.CgroupParent", "/t-parent",
         "test_every_flag.py::test_cgroup_parent"),
    Flag("--cgroupns=private", f"{HOST}.CgroupnsMode", "private", INSIDE),
    Flag("--cpu-period=50000", f"{HOST}.CpuPeriod", 50000, LIMIT),
    Flag("--cpu-quota=25000", f"{HOST}.CpuQuota", 25000, LIMIT),
    Flag("--cpu-shares=512", f"{HOST}.CpuShares", 512, LIMIT),
    Flag("--cpuset-cpus=0", f"{HOST}.CpusetCpus", "0", LIMIT),
    Flag("--cpuset-mems=0", f"{HOST}.CpusetMems", "0", LIMIT),
    Flag("--device=/dev/null:/dev/x:r", f"{HOST}.Devices",
         [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "r"}],
         INSIDE),
    Flag("--device-cgroup-rule=c 1:3 r", f"{HOST}.DeviceCgroupRules", ["c 1:3 r"],
         "test_run_options.py::test_device_cgroup_rule"),
    Flag("--device-read-bps=/dev/null:1mb", f"{HOST}.BlkioDeviceReadBps", _rate(MIB), DISK),
    Flag("--device-read-iops=/dev/null:10", f"{HOST}.BlkioDeviceReadIOps", _rate(10), DISK),
    Flag("--device-write-bps=/dev/null:2mb", f"{HOST}.BlkioDeviceWriteBps", _rate(2 * MIB), DISK),
    Flag("--device-write-iops=/dev/null:20", f"{HOST}.BlkioDeviceWriteIOps", _rate(20), DISK),
    Flag("--dns=9.9.9.9", f"{HOST}.Dns", ["9.9.9.9"], INSIDE),
    Flag("--dns-option=ndots:3", f"{HOST}.DnsOptions", ["ndots:3"], INSIDE),
    Flag("--dns-search=x.y", f"{HOST}.DnsSearch", ["x.y"], INSIDE),
    Flag("--domainname=dom", "Config.Domainname", "dom", INSIDE),
    Flag("--entrypoint=/bin/echo", "Config.Entrypoint", ["/bin/echo"],
         "test_every_flag.py::test_values_from_files"),
    Flag("--expose=80", "Config.ExposedPorts", {"80/tcp": {}, "81/tcp": {}},
         "test_run_options.py::test_links"),
    Flag("--gpus=all", f"{HOST}.DeviceRequests", [{
        "Driver": "", "Count": -1, "DeviceIDs": None, "Capabilities": [["gpu"]], "Options": {},
    }], REFUSED),
    Flag("--group-add=10", f"{HOST}.GroupAdd", ["10"], INSIDE),
    Flag("--health-cmd=true", "Config.Healthcheck.Test", ["CMD-SHELL", "true"], HEALTH),
    Flag("--health-interval=2s", "Config.Healthcheck.Interval", 2 * 10**9, HEALTH),
    Flag("--health-retries=4", "Config.Healthcheck.Retries", 4,
         "test_health.py::test_goes_on_after_a_crash_of_the_engine"),
    Flag("--health-start-interval=1s", "Config.Healthcheck.StartInterval", 10**9,
         "test_every_flag.py::test_health_start_period"),
    Flag("--health-start-period=3s", "Config.Healthcheck.StartPeriod", 3 * 10**9,
         "test_every_flag.py::test_health_start_period"),
    Flag("--health-timeout=5s", "Config.Healthcheck.Timeout", 5 * 10**9,
         "test_health.py::test_goes_on_after_a_crash_of_the_engine"),
    Flag("--hostname=box", "Config.Hostname", "box", INSIDE),
    Flag("--init", f"{HOST}.Init", True, "test_run_options.py::test_init_reaps_orphans"),
    Flag("--interactive", "Config.OpenStdin", True, STDIN),
    Flag("--ipc=shareable", f"{HOST}.IpcMode", "shareable",
         "test_run_options.py::test_container_modes"),
    Flag("--isolation=default", f"{HOST}.Isolation", "default"),
    Flag("--label=a=b", "Config.Labels.a", "b"),
    Flag("--log-driver=json-file", f"{HOST}.LogConfig.Type", "json-file",
         "test_logs.py::test_log_driver_none"),
    Flag("--log-opt=max-size=1m", f"{HOST}.LogConfig.Config", {"max-size": "1m"},
         "test_logs.py::test_rotation"),
    Flag("--memory=64m", f"{HOST}.Memory", 64 * MIB, "test_limits.py::test_memory_limit_kills"),
    Flag("--memory-reservation=32m", f"{HOST}.MemoryReservation", 32 * MIB, LIMIT),
    Flag("--memory-swap=96m", f"{HOST}.MemorySwap", 96 * MIB, LIMIT),
    Flag("--memory-swappiness=7", f"{HOST}.MemorySwappiness", 7, LIMIT),
    Flag("--mount=type=tmpfs,dst=/m", f"{HOST}.Mounts", [{"Type": "tmpfs", "Target": "/m"}],
         "test_mounts.py::test_mount_option"),
    Flag("--network=nonet", f"{HOST}.NetworkMode", "nonet", INSIDE),
    Flag("--network-alias=al", f"{NET}.Aliases", ["al"],
         "test_names.py::test_every_name_of_a_container"),
    Flag("--ip=10.9.9.9", f"{NET}.IPAMConfig.IPv4Address", "10.9.9.9",
         "test_networks.py::test_connect_and_disconnect_while_stopped"),
    Flag("--ip6=fd99::9", f"{NET}.IPAMConfig.IPv6Address", "fd99::9",
         "test_every_flag.py::test_addresses"),
    Flag("--link-local-ip=169.254.9.9", f"{NET}.IPAMConfig.LinkLocalIPs", ["169.254.9.9"]),
    Flag("--mac-address=02:42:0a:09:09:09", f"{NET}.MacAddress", "02:42:0a:09:09:09", INSIDE),
    Flag("--oom-kill-disable", f"{HOST}.OomKillDisable", True, LIMIT),
    Flag("--oom-score-adj=321", f"{HOST}.OomScoreAdj", 321, INSIDE),
    Flag("--pid=host", f"{HOST}.PidMode", "host", INSIDE),
    Flag("--pids-limit=50", f"{HOST}.PidsLimit", 50,
         "test_limits.py::test_pids_limit_stops_a_fork"),
    Flag("--platform=linux/amd64", "Platform", "linux", INSIDE),
    Flag("--privileged", f"{HOST}.Privileged", True, INSIDE),
    Flag("--publish=127.0.0.1::81", f"{HOST}.PortBindings",
         {"81/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]},
         "test_network.py::test_publish_all"),
    Flag("--publish-all", f"{HOST}.PublishAllPorts", True, "test_network.py::test_publish_all"),
    Flag("--read-only", f"{HOST}.ReadonlyRootfs", True, INSIDE),
    Flag("--restart=on-failure:3", f"{HOST}.RestartPolicy",
         {"Name": "on-failure", "MaximumRetryCount": 3}, "test_lifecycle.py::test_restart_policy"),
    Flag("--runtime=runc", f"{HOST}.Runtime", "runc", REFUSED),
    # The second because of --pid=host, and as Docker shows it.
    Flag("--security-opt=no-new-privileges", f"{HOST}.SecurityOpt",
         ["no-new-privileges", "label=disable"], INSIDE),
    Flag("--shm-size=8m", f"{HOST}.ShmSize", 8 * MIB, INSIDE),
    Flag("--stop-signal=SIGINT", "Config.StopSignal", "SIGINT",
         "test_every_flag.py::test_stop_signal_and_timeout"),
    Flag("--stop-timeout=7", "Config.StopTimeout", 7,
         "test_every_flag.py::test_stop_signal_and_timeout"),
    Flag("--sysctl=kernel.msgmax=4242", f"{HOST}.Sysctls", {"kernel.msgmax": "4242"}, INSIDE),
    Flag("--tmpfs=/t:size=1m", f"{HOST}.Tmpfs", {"/t": "size=1m"}, INSIDE),
    Flag("--tty", "Config.Tty", True, "test_terminals.py::test_own_detach_keys"),
    Flag("--ulimit=nofile=100:200", f"{HOST}.Ulimits",
         [{"Name": "nofile", "Hard": 200, "Soft": 100}], INSIDE),
    Flag("--user=1000:1001", "Config.User", "1000:1001", INSIDE),
    Flag("--userns=host", f"{HOST}.UsernsMode", "host", INSIDE),
    Flag("--volume=/tmp:/host:ro", f"{HOST}.Binds", ["/tmp:/host:ro"],
         "test_mounts.py::test_bind"),
    Flag("--volume-driver=local", f"{HOST}.VolumeDriver", "local",
         "test_volume_plugins.py::test_anonymous_volume_of_a_driver"),
    Flag("--workdir=/made", "Config.WorkingDir", "/made", INSIDE),
]  # fmt: skip

# Each in a create of its own, because another one above is against it.
ALONE = [
    Flag("--cpus=0.5", f"{HOST}.NanoCpus", 500_000_000, LIMIT),
    Flag("--no-healthcheck", "Config.Healthcheck", {"Test": ["NONE"]}),
    Flag("--rm", f"{HOST}.AutoRemove", True, "test_run.py::test_detached_and_rm"),
    Flag("--uts=host", f"{HOST}.UTSMode", "host", INSIDE),
]

# The client's own, or with a test of its own, or with nothing in Linux.
ELSEWHERE = {
    "--blkio-weight": "test_inspect_comparison.py::test_same_answer",
    "--blkio-weight-device": "test_inspect_comparison.py::test_same_answer",
    "--cidfile": "test_run.py::test_cidfile",
    "--cpu-count": "test_every_flag.py::test_refused",
    "--cpu-percent": "test_every_flag.py::test_refused",
    "--cpu-rt-period": "test_inspect_comparison.py::test_same_answer",
    "--cpu-rt-runtime": "test_inspect_comparison.py::test_same_answer",
    "--detach": "test_run.py::test_detached",
    "--detach-keys": "test_terminals.py::test_own_detach_keys",
    "--disable-content-trust": "the client's",
    "--env": "test_every_flag.py::test_values_from_files",
    "--env-file": "test_every_flag.py::test_values_from_files",
    "--help": "the client's",
    "--io-maxbandwidth": "test_every_flag.py::test_refused",
    "--io-maxiops": "test_every_flag.py::test_refused",
    "--kernel-memory": "test_inspect_comparison.py::test_same_answer",
    "--label-file": "test_every_flag.py::test_values_from_files",
    "--link": "test_run_options.py::test_links",
    "--name": "test_bad_input.py::test_docker_run_of_such_a_command",
    "--pull": "test_every_flag.py::test_pull",
    "--quiet": "test_every_flag.py::test_pull",
    "--sig-proxy": "test_run.py::test_stop_signal_from_the_client",
    "--storage-opt": REFUSED,
    "--use-api-socket": "the client's: a mount of its socket, and a copy of its configuration",
    "--volumes-from": "test_mounts.py::test_volumes_from",
}

# All given to one update.
UPDATED = [
    Flag("--blkio-weight=300", "", None, "test_inspect_comparison.py::test_same_answer"),
    Flag("--cpu-period=60000", f"{HOST}.CpuPeriod", 60000),
    Flag("--cpu-quota=30000", f"{HOST}.CpuQuota", 30000),
    Flag("--cpu-rt-period=0", f"{HOST}.CpuRealtimePeriod", 0),
    Flag("--cpu-rt-runtime=0", f"{HOST}.CpuRealtimeRuntime", 0),
    Flag("--cpu-shares=300", f"{HOST}.CpuShares", 300, "test_limits.py::test_updates"),
    Flag("--cpuset-cpus=0", f"{HOST}.CpusetCpus", "0", "test_limits.py::test_updates"),
    Flag("--cpuset-mems=0", f"{HOST}.CpusetMems", "0"),
    Flag("--memory=96m", f"{HOST}.Memory", 96 * MIB, "test_limits.py::test_updates"),
    Flag("--memory-reservation=48m", f"{HOST}.MemoryReservation", 48 * MIB),
    Flag("--memory-swap=128m", f"{HOST}.MemorySwap", 128 * MIB, "test_limits.py::test_updates"),
    Flag("--pids-limit=60", f"{HOST}.PidsLimit", 60, "test_limits.py::test_updates"),
    Flag("--restart=on-failure:5", f"{HOST}.RestartPolicy",
         {"Name": "on-failure", "MaximumRetryCount": 5},
         "test_restart.py::test_policy_can_be_changed"),
]  # fmt: skip
UPDATE_ELSEWHERE = {"--cpus": "test_limits.py::test_updates"}

EXEC = {
    "--detach": "test_every_flag.py::test_exec",
    "--detach-keys": "test_terminals.py::test_own_detach_keys",
    "--env": "test_every_flag.py::test_exec",
    "--env-file": "test_every_flag.py::test_exec",
    "--interactive": "test_exec.py::test_stdin",
    "--privileged": "test_exec.py::test_privileged",
    "--tty": "test_every_flag.py::test_exec",
    "--user": "test_exec.py::test_options",
    "--workdir": "test_exec.py::test_options",
}
