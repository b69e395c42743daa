"""Questions of test_inspect_comparison.py: every field of Config and HostConfig, good and bad."""

from __future__ import annotations

from typing import Any

from tests.comparison import BASE, Question

MIB = 1 << 20


def hosts(**fields: Any) -> list[Question]:
    """One question for each field of HostConfig, with one value or a list of several."""
    return [
        Question(f"{name}={value}", host={name: value})
        for name, values in fields.items()
        for value in values
    ]


def configs(**fields: Any) -> list[Question]:
    return [
        Question(f"{name}={value}", config={name: value})
        for name, values in fields.items()
        for value in values
    ]


def started(**fields: Any) -> list[Question]:
    return [
        Question(f"start {name}={value}", host={name: value}, start=True)
        for name, values in fields.items()
        for value in values
    ]


def updates(before: dict[str, Any], *bodies: dict[str, Any]) -> list[Question]:
    return [Question(f"update {before} {body}", host=before, update=body) for body in bodies]


def logs(**drivers: list[dict[str, str]]) -> list[Question]:
    return [
        Question(f"log {driver} {options}", host={"LogConfig": {"Type": driver, "Config": options}})
        for driver, sets in drivers.items()
        for options in sets
    ]


QUESTIONS: list[Question] = [
    Question(BASE),
    Question("running", start=True),
    Question("stopped", start=True, stop=True),
    *configs(
        Hostname=["box"],
        Domainname=["example.com"],
        User=["1000:1000", "nobody"],
        AttachStdin=[True],
        AttachStdout=[True],
        ExposedPorts=[{}, {"80/tcp": {}, "90/udp": {}}],
        Tty=[True],
        OpenStdin=[True],
        StdinOnce=[True],
        Env=[[], ["A=b", "C"], ["=x"], [""]],
        Cmd=[[], None, ["a", "b"], "one"],
        Healthcheck=[
            {"Test": ["CMD", "true"], "Interval": 5000000000, "Retries": 2},
            {"Test": ["NONE"]},
            {"Test": ["CMD", "true"], "Interval": 1},
            {"Test": ["CMD", "true"], "Timeout": 1},
            {"Test": ["CMD", "true"], "Retries": -1},
            {"Test": ["CMD", "true"], "StartPeriod": 1},
            {"Test": ["CMD", "true"], "StartInterval": 1},
        ],
        Image=["no/such:image"],
        Volumes=[{}, {"/data": {}}],
        WorkingDir=["/made/", "rel"],
        Entrypoint=[[""], ["/bin/echo"], [], "word"],
        NetworkDisabled=[True],
        MacAddress=["02:42:ac:11:00:99", "bogus"],
        OnBuild=[["RUN x"]],
        Labels=[{"a": "b"}, None],
        StopSignal=["SIGINT", "9", "BOGUS", "0"],
        StopTimeout=[5, -1],
        Shell=[["/bin/sh", "-c"]],
    ),
    *hosts(
        Annotations=[{"a": "b"}, {"": "x"}],
        AutoRemove=[True],
        Binds=[["/tmp:/x:ro"], ["/tmp:/x:rshared,z"], ["rel/x:/y"], ["/tmp"], ["/a:/b:bad"], [":"]],
        BlkioWeight=[300, 5, 2000],
        BlkioWeightDevice=[[{"Path": "/dev/null", "Weight": 300}]],
        BlkioDeviceReadBps=[[{"Path": "/dev/null", "Rate": 1000}]],
        CapAdd=[["NET_ADMIN"], ["CAP_SYS_TIME", "all"], ["BOGUS"]],
        CapDrop=[["ALL"], ["BOGUS"]],
        Cgroup=["x"],
        CgroupParent=["/xx"],
        CgroupnsMode=["host", "private", "bogus"],
        ConsoleSize=[[24, 80]],
        ContainerIDFile=["/x"],
        CpuCount=[1],
        CpuPercent=[10],
        CpuPeriod=[50000, 10, 2000000],
        CpuQuota=[50000, 10, -1],
        CpuRealtimePeriod=[1000000],
        CpuShares=[512, -1],
        CpusetCpus=["0", "77", "x", "0-", "1-0"],
        CpusetMems=["0", "9", "x"],
        DeviceCgroupRules=[["c 1:3 rwm"]],
        DeviceRequests=[[{"Driver": "", "Count": -1, "Capabilities": [["gpu"]], "Options": {}}]],
        Devices=[[{"PathOnHost": "/dev/null", "PathInContainer": "/dev/x"}]],
        Dns=[["8.8.8.8"]],
        DnsOptions=[["ndots:1"]],
        DnsSearch=[["example.com"]],
        ExtraHosts=[["a:1.2.3.4", "b:host-gateway"], ["a"], ["a:b"], ["a:[::1]"]],
        GroupAdd=[["10", "audio"]],
        IOMaximumBandwidth=[1],
        IOMaximumIOps=[1],
        Init=[True, False],
        IpcMode=["host", "none", "private", "shareable", "container:nonesuch", "bogus"],
        Isolation=["default", "hyperv"],
        KernelMemory=[6 * MIB],
        KernelMemoryTCP=[6 * MIB],
        Links=[["nonesuch:x"], ["a:b:c"], [""]],
        MaskedPaths=[[], ["/proc/x"]],
        Memory=[64 * MIB, 1000, -1],
        MemoryReservation=[32 * MIB, 1000],
        MemorySwap=[64 * MIB, -1],
        MemorySwappiness=[10, 101, -1],
        Mounts=[
            [{"Type": "bind", "Source": "/tmp", "Target": "/x", "ReadOnly": True}],
            [{"Type": "bind", "Source": "/nonesuch/x", "Target": "/x"}],
            [{"Type": "bind", "Source": "rel", "Target": "/x"}],
            [{"Type": "volume", "Target": "/x"}],
            [{"Type": "volume", "Target": "/x", "ReadOnly": True}],
            [{"Type": "tmpfs", "Target": "/x", "TmpfsOptions": {"SizeBytes": MIB, "Mode": 448}}],
            [{"Type": "tmpfs", "Target": "/x", "TmpfsOptions": {"Options": [["bogus"]]}}],
            [{"Type": "tmpfs", "Source": "y", "Target": "/x"}],
            [{"Type": "bogus", "Target": "/x"}],
            [{"Type": "bind", "Source": "/tmp", "Target": ""}],
            [{"Type": "bind", "Source": "/tmp", "Target": "/"}],
            [{"Type": "bind", "Source": "/tmp", "Target": "/x", "VolumeOptions": {}}],
            [
                {"Type": "bind", "Source": "/tmp", "Target": "/x"},
                {"Type": "bind", "Source": "/tmp", "Target": "/x"},
            ],
        ],
        NanoCpus=[1500000000, 99000000000, -1],
        NetworkMode=["none", "host", "container:nonesuch", "nonesuch", "container:"],
        OomKillDisable=[True, False],
        OomScoreAdj=[500, 1001],
        PidMode=["host", "container:nonesuch", "container:", "bogus"],
        PidsLimit=[100, 0, -1],
        PortBindings=[
            {},
            {"80/tcp": [{"HostPort": ""}]},
            {"81/udp": [{"HostIp": "127.0.0.1", "HostPort": "8181"}]},
            {"x/tcp": []},
            {"80/tcp": [{"HostPort": "x"}]},
            {"80/tcp": None},
        ],
        Privileged=[True],
        PublishAllPorts=[True],
        ReadonlyPaths=[[], ["/proc/x"]],
        ReadonlyRootfs=[True],
        RestartPolicy=[
            {"Name": "always"},
            {"Name": "on-failure", "MaximumRetryCount": 3},
            {"Name": "on-failure", "MaximumRetryCount": -1},
            {"Name": "always", "MaximumRetryCount": 3},
            {"Name": "no", "MaximumRetryCount": -3},
            {"Name": "bogus"},
        ],
        Runtime=["runc", "bogus"],
        SecurityOpt=[
            ["no-new-privileges"],
            ["no-new-privileges:false"],
            ["no-new-privileges=x"],
            ["seccomp=unconfined"],
            ["apparmor=unconfined"],
            ["label=disable"],
            ["label=type:x"],
            ["writable-cgroups=true"],
            ["bogus"],
            ["a=b"],
        ],
        ShmSize=[128 * MIB, -1],
        StorageOpt=[{"size": "10G"}, {"bogus": "1"}],
        Sysctls=[{"net.ipv4.ip_forward": "1"}, {"net.ipv4.conf.eth0.x": "1"}],
        Tmpfs=[{"/x": "size=1m,exec"}, {"rel": ""}, {"/": ""}],
        UTSMode=["host", "bogus"],
        Ulimits=[[{"Name": "nofile", "Soft": 100, "Hard": 200}]],
        UsernsMode=["host", "bogus"],
        VolumeDriver=["local"],
        VolumesFrom=[["nonesuch"], ["nonesuch:bogus"], [""]],
    ),
    Question("uts host and hostname", host={"UTSMode": "host"}, config={"Hostname": "x"}),
    Question(
        "host network and ports", host={"NetworkMode": "host", "PortBindings": {"80/tcp": []}}
    ),
    Question("network host, links", host={"NetworkMode": "host", "Links": ["a:b"]}),
    Question("rm and restart", host={"AutoRemove": True, "RestartPolicy": {"Name": "always"}}),
    Question("nano and quota", host={"NanoCpus": 10**9, "CpuQuota": 1000}),
    Question("nano and period", host={"NanoCpus": 10**9, "CpuPeriod": 1000}),
    Question("swap below memory", host={"Memory": 64 * MIB, "MemorySwap": 32 * MIB}),
    Question("reservation above", host={"Memory": 64 * MIB, "MemoryReservation": 128 * MIB}),
    Question("oom and memory", host={"Memory": 64 * MIB, "OomKillDisable": True}),
    Question("rt", host={"CpuRealtimePeriod": 1000, "CpuRealtimeRuntime": 5000}),
    Question("seccomp, privileged", host={"Privileged": True, "SecurityOpt": ["seccomp=builtin"]}),
    Question("volume driver", host={"VolumeDriver": "bogus", "Binds": ["x:/y"]}),
    Question("no platform", query="platform=bogus"),
    Question("other platform", query="platform=linux/s390x"),
    Question("this platform", query="platform=linux"),
    Question("bad name", query="name=-bad"),
    Question(
        "ip on the default network",
        networking={"EndpointsConfig": {"bridge": {"IPAMConfig": {"IPv4Address": "10.0.0.9"}}}},
    ),
    Question(
        "alias on the default network",
        networking={"EndpointsConfig": {"default": {"Aliases": ["x"]}}},
    ),
    Question(
        "mac of an endpoint",
        networking={"EndpointsConfig": {"bridge": {"MacAddress": "02:42:ac:11:00:98"}}},
    ),
    *started(
        Memory=[64 * MIB],
        Privileged=[True],
        NetworkMode=["none", "host", "container:nonesuch"],
        IpcMode=["host", "none", "shareable", "container:"],
        PidMode=["host"],
        Init=[True],
        ReadonlyRootfs=[True],
        CpuShares=[1],
        DeviceRequests=[[{"Count": 1, "Capabilities": [["gpu"]]}]],
        Devices=[
            [{"PathOnHost": "/dev/nope", "PathInContainer": "/dev/nope"}],
            [{"PathOnHost": "/etc/hosts", "PathInContainer": "/dev/x"}],
            [{"PathOnHost": "/etc", "PathInContainer": "/dev/x"}],
        ],
        DeviceCgroupRules=[["bogus"], ["c 1:x rwm"]],
        BlkioDeviceReadBps=[[{"Path": "/dev/nope", "Rate": 1}]],
        Dns=[["bogus"]],
        GroupAdd=[["nogrp"]],
        SecurityOpt=[["apparmor=foo"], ['seccomp={"defaultAction":"NOPE"}']],
        Sysctls=[{"foo.bar": "1"}, {"kernel.hostname": "x"}],
        Tmpfs=[{"/x": "bogusopt"}],
        Ulimits=[
            [{"Name": "nofile", "Soft": 200, "Hard": 100}],
            [{"Name": "bogus", "Soft": 1, "Hard": 1}],
        ],
    ),
    *updates(
        {},
        {"Memory": 64 * MIB},
        {"Memory": 64 * MIB, "MemorySwap": 128 * MIB},
        {"Memory": 1000},
        {"CpusetCpus": "77"},
        {"CpusetCpus": "0"},
        {"PidsLimit": 10},
        {"PidsLimit": -1},
        {"CpuShares": 300},
        {"BlkioWeight": 300},
        {"NanoCpus": 500000000},
        {"RestartPolicy": {"Name": "always"}},
        {"RestartPolicy": {"Name": "bogus"}},
    ),
    *logs(
        none=[{}, {"a": "b"}],
        local=[{}, {"max-size": "1m"}, {"a": "b"}],
        syslog=[
            {"a": "b"},
            {"syslog-address": "bogus://x"},
            {"syslog-facility": "bogus"},
            {"syslog-format": "bogus"},
            {"syslog-address": "unix:///nonesuch"},
            {"syslog-address": "udp://127.0.0.1:5514", "tag": "x", "cache-disabled": "true"},
        ],
        journald=[{}, {"a": "b"}],
        fluentd=[{}, {"a": "b"}, {"fluentd-address": "x://y"}],
        gelf=[
            {},
            {"gelf-address": "bogus"},
            {"gelf-address": "udp://127.0.0.1:12201"},
            {"gelf-address": "udp://127.0.0.1:12201", "a": "b"},
            {"gelf-address": "udp://127.0.0.1:12201", "gelf-compression-type": "x"},
            {"gelf-address": "udp://127.0.0.1:12201", "gelf-compression-level": "x"},
            {"gelf-address": "tcp://127.0.0.1:12201", "gelf-compression-level": "1"},
        ],
        bogus=[{}],
        **{
            "json-file": [
                {"max-size": "1m", "max-file": "3", "compress": "true"},
                {"max-file": "3"},
                {"a": "b"},
                {"mode": "x"},
                {"mode": "non-blocking", "max-buffer-size": "4m"},
                {"max-buffer-size": "1m"},
                {"mode": "non-blocking", "max-buffer-size": "x"},
            ]
        },
    ),
    *(
        Question(
            f"start log {driver} {options}",
            host={"LogConfig": {"Type": driver, "Config": options}},
            start=True,
        )
        for driver, options in (
            ("json-file", {"max-size": "x"}),
            ("json-file", {"max-size": "-1"}),
            ("json-file", {"max-file": "0"}),
            ("json-file", {"max-file": "x"}),
            ("json-file", {"compress": "x"}),
            ("json-file", {"compress": "true"}),
            ("json-file", {"tag": "{{.Bogus}}"}),
            ("json-file", {"tag": "{{"}),
            ("local", {"max-size": "x"}),
            ("syslog", {}),
            ("syslog", {"syslog-address": "tcp://127.0.0.1:1"}),
            ("journald", {}),
            ("fluentd", {}),
            ("gelf", {"gelf-address": "tcp://127.0.0.1:1"}),
        )
    ),
    *updates({"Memory": 64 * MIB}, {"Memory": 200 * MIB}, {"Memory": 32 * MIB}),
    *updates({"CpuQuota": 50000}, {"NanoCpus": 500000000}),
    *updates({"NanoCpus": 500000000}, {"CpuQuota": 50000}, {"CpuPeriod": 50000}),
    *updates({"AutoRemove": True}, {"RestartPolicy": {"Name": "always"}}),
    *updates({"PidsLimit": 10}, {"PidsLimit": 0}),
    *(
        Question(f"v{version} {host}", host=host, version=version)
        for version in ("1.24", "1.43", "1.44")
        for host in (
            {"Binds": ["/tmp:/x:ro"]},
            {"Mounts": [{"Type": "bind", "Source": "/tmp", "Target": "/x", "ReadOnly": True}]},
            {
                "Mounts": [
                    {
                        "Type": "bind",
                        "Source": "/tmp",
                        "Target": "/x",
                        "ReadOnly": True,
                        "BindOptions": {"Propagation": "rprivate", "NonRecursive": True},
                    }
                ]
            },
            {
                "Mounts": [
                    {
                        "Type": "bind",
                        "Source": "/tmp",
                        "Target": "/x",
                        "ReadOnly": True,
                        "BindOptions": {"ReadOnlyForceRecursive": True},
                    }
                ]
            },
            {"Annotations": {"a": "b"}},
            {"ConsoleSize": [24, 80]},
            {"CgroupnsMode": "private"},
            {"Sysctls": {"net.ipv4.conf.eth0.forwarding": "1"}},
            {"VolumeDriver": "local", "Binds": ["/tmp:/x"]},
        )
    ),
    *(
        Question(f"v{version} {config}", config=config, version=version)
        for version in ("1.24", "1.43")
        for config in (
            {"MacAddress": "02:42:ac:11:00:97"},
            {"Healthcheck": {"Test": ["CMD", "true"], "StartInterval": 1000000000}},
        )
    ),
    *(
        Question(f"endpoint {mode} {endpoints}", {"NetworkMode": mode}, {}, endpoints)
        for mode, endpoints in (
            ("bridge", {"EndpointsConfig": {"bridge": {"Links": ["nonesuch:x"]}}}),
            ("bridge", {"EndpointsConfig": {"bridge": {"MacAddress": "x"}}}),
            ("bridge", {"EndpointsConfig": {"bridge": {"GwPriority": 5}}}),
            ("bridge", {"EndpointsConfig": {"bridge": {"DriverOpts": {"a": "b"}}}}),
            ("bridge", {"EndpointsConfig": {"nonesuch": {"Aliases": ["x"]}}}),
            ("nonesuch", {"EndpointsConfig": {"nonesuch": {"Aliases": ["x", "y"]}}}),
            ("nonesuch", {"EndpointsConfig": {"nonesuch": {"Aliases": [""]}}}),
            ("host", {"EndpointsConfig": {"host": {"Aliases": ["x"]}}}),
            ("none", {"EndpointsConfig": {"none": {"Aliases": ["x"]}}}),
            ("none", {"EndpointsConfig": {"bridge": {}}}),
            ("host", {"EndpointsConfig": {"host": {"IPAMConfig": {"IPv4Address": "1.2.3.4"}}}}),
            ("container:x", {"EndpointsConfig": {"bridge": {"Aliases": ["x"]}}}),
        )
    ),
    *started(
        StorageOpt=[{"size": "1G"}],
        BlkioWeightDevice=[[{"Path": "/dev/null", "Weight": 300}]],
        BlkioDeviceWriteBps=[[{"Path": "/nope", "Rate": 1000}]],
        BlkioDeviceReadIOps=[[{"Path": "/nope", "Rate": 1000}]],
        BlkioDeviceWriteIOps=[[{"Path": "/nope", "Rate": 1000}]],
    ),
    *hosts(
        BlkioDeviceWriteBps=[[{"Path": "/dev/null", "Rate": 1000}]],
        BlkioDeviceReadIOps=[[{"Path": "/dev/null", "Rate": 1000}]],
        BlkioDeviceWriteIOps=[[{"Path": "/dev/null", "Rate": 1000}]],
        CpuRealtimeRuntime=[1000],
    ),
]
