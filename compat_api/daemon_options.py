"""longshored: the table of dockerd's options, on the command line and in daemon.json.

Each has a flag, the kind of its value, and the key that names it in the file, which for lists is
another word. ``unsupported`` says why this engine does not do it: such an option is an error
unless it is given its harmless value. daemon_config.py reads by this table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

TEXT, FLAG, NUMBER, SIZE = "string", "bool", "int", "bytes"
LIST, MAP = "list", "map"
RUNTIMES, ULIMITS, POOLS, NETWORK_OPTIONS = "runtime", "ulimit", "pool-options", "mapmap"

# Kinds that are given several times on the command line.
REPEATED = frozenset((LIST, MAP, RUNTIMES, ULIMITS, POOLS, NETWORK_OPTIONS))


@dataclass(frozen=True, slots=True)
class Option:
    flag: str
    kind: str
    help: str
    key: str = ""  # in the file; empty: the flag's name
    short: str = ""
    default: Any = None
    unsupported: str = ""
    harmless: tuple[Any, ...] = (
        None,
        False,
        "",
        0,
    )  # values of an unsupported option that are fine

    @property
    def name(self) -> str:
        return self.key or self.flag


NO_SWARM = "this engine has no swarm mode"
NO_CONTAINERD = "this engine does not use containerd"
NO_REALTIME = "set it for each container"
USE_ENVIRONMENT = "set HTTP_PROXY, HTTPS_PROXY and NO_PROXY in the engine's environment"

OPTIONS = (
    Option("add-runtime", RUNTIMES, "Register an additional OCI compatible runtime", "runtimes"),
    Option(
        "allow-direct-routing",
        FLAG,
        "Allow remote access to published ports on container IP addresses",
        unsupported="container addresses are never reachable from outside but by published ports",
    ),
    Option(
        "authorization-plugin",
        LIST,
        "Authorization plugins to load",
        "authorization-plugins",
        unsupported="this engine has no plugins",
    ),
    Option("bip", TEXT, "IPv4 address for the default bridge"),
    Option("bip6", TEXT, "IPv6 address for the default bridge"),
    Option("bridge", TEXT, "Attach containers to a network bridge", short="b"),
    Option(
        "cdi-spec-dir",
        LIST,
        "CDI specification directories to use",
        "cdi-spec-dirs",
        unsupported="this engine does not do CDI",
    ),
    Option("cgroup-parent", TEXT, "Set parent cgroup for all containers"),
    Option("config-file", TEXT, "Daemon configuration file"),
    Option("containerd", TEXT, "containerd grpc address", unsupported=NO_CONTAINERD),
    Option("containerd-namespace", TEXT, "Containerd namespace", unsupported=NO_CONTAINERD),
    Option(
        "containerd-plugins-namespace",
        TEXT,
        "Containerd namespace for plugins",
        unsupported=NO_CONTAINERD,
    ),
    Option("cpu-rt-period", NUMBER, "CPU real-time period", unsupported=NO_REALTIME),
    Option("cpu-rt-runtime", NUMBER, "CPU real-time runtime", unsupported=NO_REALTIME),
    Option("cri-containerd", FLAG, "start containerd with cri", unsupported=NO_CONTAINERD),
    Option("data-root", TEXT, "Root directory of persistent state"),
    Option("debug", FLAG, "Enable debug mode", short="D", default=False),
    Option("default-address-pool", POOLS, "Default address pools", "default-address-pools"),
    Option("default-cgroupns-mode", TEXT, 'Default cgroup namespace mode ("host" | "private")'),
    Option("default-gateway", TEXT, "Default gateway IPv4 address for the default bridge network"),
    Option(
        "default-gateway-v6", TEXT, "Default gateway IPv6 address for the default bridge network"
    ),
    Option("default-ipc-mode", TEXT, 'Default IPC mode ("shareable" | "private")'),
    Option(
        "default-network-opt", NETWORK_OPTIONS, "Default network options", "default-network-opts"
    ),
    Option("default-runtime", TEXT, "Default OCI runtime for containers"),
    Option("default-shm-size", SIZE, "Default shm size for containers"),
    Option("default-ulimit", ULIMITS, "Default ulimits for containers", "default-ulimits"),
    Option("dns", LIST, "DNS server to use"),
    Option("dns-opt", LIST, "DNS options to use", "dns-opts"),
    Option("dns-search", LIST, "DNS search domains to use"),
    Option("exec-opt", LIST, "Runtime execution options", "exec-opts"),
    Option("exec-root", TEXT, "Root directory for execution state files"),
    Option(
        "experimental",
        FLAG,
        "Enable experimental features",
        unsupported="this engine has no experimental features",
    ),
    Option("feature", MAP, "Enable feature in the daemon", "features"),
    Option("fixed-cidr", TEXT, "IPv4 subnet for the default bridge network"),
    Option("fixed-cidr-v6", TEXT, "IPv6 subnet for the default bridge network"),
    Option("group", TEXT, "Group for the unix socket", short="G"),
    Option("host", LIST, "Daemon socket(s) to connect to", "hosts", short="H"),
    Option("host-gateway-ip", LIST, "Addresses that host-gateway stands for", "host-gateway-ips"),
    Option("http-proxy", TEXT, "HTTP proxy URL", unsupported=USE_ENVIRONMENT),
    Option("https-proxy", TEXT, "HTTPS proxy URL", unsupported=USE_ENVIRONMENT),
    Option("no-proxy", TEXT, "Hosts without proxy", unsupported=USE_ENVIRONMENT),
    Option("icc", FLAG, "Enable inter-container communication for the default bridge network"),
    Option("init", FLAG, "Run an init in the container to forward signals and reap processes"),
    Option("init-path", TEXT, "Path to the init binary"),
    Option("insecure-registry", LIST, "Enable insecure registries", "insecure-registries"),
    Option("ip", TEXT, "Host IP for port publishing from the default bridge network"),
    Option("ip-forward", FLAG, "Enable IP forwarding in system configuration"),
    Option(
        "ip-forward-no-drop",
        FLAG,
        "Do not set the filter-FORWARD policy to DROP when enabling IP forwarding",
        unsupported="the policy of other tables is never changed, so there is nothing to turn off",
        harmless=(None, False, True),
    ),
    Option("ip-masq", FLAG, "Enable IP masquerading for the default bridge network"),
    Option("ip6tables", FLAG, "Enable addition of IPv6 firewall rules"),
    Option("iptables", FLAG, "Enable addition of firewall rules"),
    Option("ipv6", FLAG, "Enable IPv6 networking for the default bridge network"),
    Option("label", LIST, "Set key=value labels to the daemon", "labels"),
    Option("live-restore", FLAG, "Containers outlive the daemon; always on"),
    Option("log-driver", TEXT, "Default driver for container logs"),
    Option("log-format", TEXT, 'Set the logging format ("text"|"json")'),
    Option("log-level", TEXT, 'Set the logging level ("debug"|"info"|"warn"|"error")', short="l"),
    Option("log-opt", MAP, "Default log driver options for containers", "log-opts"),
    Option("max-concurrent-downloads", NUMBER, "Set the max concurrent downloads"),
    Option("max-concurrent-uploads", NUMBER, "Set the max concurrent uploads"),
    Option("max-download-attempts", NUMBER, "Set the max download attempts for each pull"),
    Option("metrics-addr", TEXT, "Metrics address", unsupported="this engine serves no metrics"),
    Option("mtu", NUMBER, "Set the MTU for the default bridge network"),
    Option("network-control-plane-mtu", NUMBER, "Network control plane MTU", unsupported=NO_SWARM),
    Option("network-diagnostic-port", NUMBER, "Diagnostic port", unsupported=NO_SWARM),
    Option("no-new-privileges", FLAG, "Set no-new-privileges by default for new containers"),
    Option(
        "node-generic-resource",
        LIST,
        "Advertise user-defined resource",
        "node-generic-resources",
        unsupported=NO_SWARM,
    ),
    Option("pidfile", TEXT, "Path to use for daemon PID file", short="p"),
    Option("raw-logs", FLAG, "Full timestamps without ANSI coloring"),
    Option("registry-mirror", LIST, "Preferred registry mirror", "registry-mirrors"),
    Option(
        "rootless",
        FLAG,
        "Enable rootless mode",
        unsupported="this engine runs as root",
    ),
    Option("seccomp-profile", TEXT, 'Path to seccomp profile, "builtin" or "unconfined"'),
    Option(
        "selinux-enabled",
        FLAG,
        "Enable selinux support",
        unsupported="this engine does not set SELinux labels",
    ),
    Option("shutdown-timeout", NUMBER, "Set the default shutdown timeout"),
    Option("storage-driver", TEXT, "Storage driver to use", short="s"),
    Option("storage-opt", LIST, "Storage driver options", "storage-opts"),
    Option("swarm-default-advertise-addr", TEXT, "Advertised address", unsupported=NO_SWARM),
    Option("tls", FLAG, "Use TLS; implied by --tlsverify"),
    Option("tlscacert", TEXT, "Trust certs signed only by this CA"),
    Option("tlscert", TEXT, "Path to TLS certificate file"),
    Option("tlskey", TEXT, "Path to TLS key file"),
    Option("tlsverify", FLAG, "Use TLS and verify the remote"),
    Option("userland-proxy", FLAG, "Use userland proxy for loopback traffic"),
    Option(
        "userland-proxy-path",
        TEXT,
        "Path to the userland proxy binary",
        unsupported="the proxy is part of the engine",
    ),
    Option("userns-remap", TEXT, "User/Group setting for user namespaces"),
)

BY_FLAG = {option.flag: option for option in OPTIONS}
BY_NAME = {option.name: option for option in OPTIONS}
