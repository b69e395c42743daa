"""Questions of test_answer_comparison.py: what endpoints besides create answer, good and bad."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from tests.rawhttp import filters
from tests.scenes import VERSIONS, Ask, Scene

C = "/containers/{c}"
MIB = 1 << 20


def gets(*targets: str) -> tuple[Ask, ...]:
    return tuple(Ask("GET", target) for target in targets)


def posts(*targets: str, body: Any = None) -> tuple[Ask, ...]:
    return tuple(Ask("POST", target, body) for target in targets)


def listed(**wanted: list[str]) -> Ask:
    """A list of the scene's containers only, whatever else there is."""
    return Ask("GET", f"/containers/json?all=1&{_narrow(**wanted)}", only="Id")


def _narrow(**wanted: list[str]) -> str:
    # Braces of placeholders must survive the quoting.
    return (
        filters(**wanted)
        .replace("%7B", "{")
        .replace("%7D", "}")
        .replace("filters={", "filters=%7B", 1)
    )


NAMED = {"name": ["^/{c}$"]}
FULL: dict[str, Any] = {
    "Labels": {"kind": "x", "scene": "{c}"},
    "Env": ["A=b"],
    "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
    "Healthcheck": {"Test": ["NONE"]},
    "Volumes": {"/data": {}},
    "HostConfig": {
        "Annotations": {"note": "y"},
        "Binds": ["/tmp:/host:ro"],
        "Tmpfs": {"/scratch": "size=1m"},
        "Memory": 64 * MIB,
    },
}

LISTS = Scene(
    "lists",
    containers={"c": FULL},
    asks=(
        Ask("GET", f"/containers/json?{_narrow(**NAMED)}", versions=VERSIONS),
        Ask("GET", f"/containers/json?size=1&{_narrow(**NAMED)}"),
        Ask("GET", f"{C}/json", versions=VERSIONS),
        Ask("GET", f"{C}/json?size=1"),
        *gets(f"{C}/top?ps_args=-o%20cmd", f"{C}/top?ps_args=--bogus"),
        *(
            listed(**NAMED, **more)
            for more in (
                {"status": ["running"]},
                {"status": ["exited"]},
                {"status": ["bogus"]},
                {"label": ["kind=x"]},
                {"label": ["kind=y"]},
                {"exited": ["0"]},
                {"exited": ["x"]},
                {"health": ["none"]},
                {"health": ["bogus"]},
                {"expose": ["80"]},
                {"expose": ["80-90/tcp"]},
                {"expose": ["bogus"]},
                {"publish": ["80"]},
                {"publish": ["1-x"]},
                {"network": ["bridge"]},
                {"network": ["none"]},
                {"volume": ["/data"]},
                {"volume": ["/host"]},
                {"ancestor": ["{image}"]},
                {"ancestor": ["nonesuch"]},
                {"is-task": ["false"]},
                {"is-task": ["bogus"]},
                {"isolation": ["default"]},
                {"isolation": ["bogus"]},
                {"since": ["nonesuch"]},
                {"before": ["{c}"]},
                {"before": ["nonesuch"]},
                {"id": ["{c_id}"]},
            )
        ),
        *gets(
            "/containers/json?limit=x",
            "/containers/json?filters=[]",
            '/containers/json?filters={"name":"x"}',
            '/containers/json?filters={"name":{"^/{c}$":true}}',
        ),
    ),
)

OPERATIONS = Scene(
    "operations",
    containers={"c": {"Labels": {"scene": "{c}"}}, "d": {}},
    asks=(
        Ask("GET", f"{C}/top?ps_args=-o%20pid,args", hidden=("Processes",)),
        Ask("GET", f"{C}/top", kinds=True),
        *gets(
            f"{C}/changes",
            f"{C}/logs",
            f"{C}/logs?stdout=1&tail=x",
            f"{C}/logs?stdout=1&since=x",
            f"{C}/logs?stdout=1&until=x",
            f"{C}/stats?stream=1&one-shot=1",
            f"{C}/archive",
            f"{C}/archive?path=",
            f"{C}/archive?path=/nonesuch",
            f"{C}/nonesuch",
            "/containers//json",
        ),
        Ask("HEAD", f"{C}/archive?path=/nonesuch"),
        Ask("PUT", f"{C}/archive?path=/nonesuch"),
        Ask("PUT", f"{C}/archive?path=/etc/passwd"),
        Ask("PUT", f"{C}/archive"),
        *posts(
            f"{C}/start",
            f"{C}/start?checkpoint=x",
            f"{C}/stop?t=x",
            f"{C}/restart?t=x",
            f"{C}/kill?signal=BOGUS",
            f"{C}/kill?signal=0",
            f"{C}/kill?signal=99",
            f"{C}/kill?signal=SIGWINCH",
            f"{C}/kill?signal=winch",
            f"{C}/kill?signal=28",
            f"{C}/rename",
            f"{C}/rename?name=",
            f"{C}/rename?name=-x",
            f"{C}/rename?name=" + "{d}",
            f"{C}/rename?name=" + "{c}",
            f"{C}/resize",
            f"{C}/resize?h=x&w=1",
            f"{C}/resize?h=1&w=x",
            f"{C}/resize?h=-1&w=1",
            f"{C}/resize?h=10&w=20",
            f"{C}/wait?condition=bogus",
            f"{C}/attach?detachKeys=bogus,",
            f"{C}/unpause",
            f"{C}/pause",
            f"{C}/pause?twice",
            f"{C}/restart?t=30&paused",
        ),
        Ask("GET", f"{C}/json?paused", hidden=("StartedAt",)),
        *posts(f"{C}/pause?again"),
        Ask("POST", f"{C}/exec?paused", {"Cmd": ["true"]}),
        Ask("GET", f"{C}/top?ps_args=-o%20pid,args&paused", hidden=("Processes",)),
        *posts(f"{C}/kill?signal=SIGWINCH&paused", f"{C}/unpause?again"),
        Ask("DELETE", f"{C}?v=0"),
        Ask("DELETE", f"{C}?link=1"),
        *posts(f"{C}/stop?t=30", f"{C}/stop?t=2", f"{C}/kill", f"{C}/pause?stopped"),
        *posts(f"{C}/unpause?stopped", f"{C}/resize?h=1&w=1", f"{C}/wait"),
        *posts(f"{C}/wait?condition=not-running"),
        Ask("GET", f"{C}/top?stopped"),
        Ask("GET", f"{C}/stats?stream=0", versions=VERSIONS),
        Ask("GET", f"{C}/stats?stream=0&one-shot=1"),
        Ask("POST", f"{C}/exec", {"Cmd": ["true"]}),
        Ask("POST", f"{C}/update", {}),
        Ask("GET", f"/containers/json?all=1&{_narrow(**NAMED)}"),
        Ask(
            "POST", f"/containers/prune?{_narrow(label=['scene={c}'])}", hidden=("SpaceReclaimed",)
        ),
        Ask("POST", f"/containers/prune?{_narrow(label=['scene=nonesuch'])}"),
        *posts(
            '/containers/prune?filters={"bogus":["x"]}',
            '/containers/prune?filters={"until":["x"]}',
            '/containers/prune?filters={"until":["1h","2h"],"label":["scene=nonesuch"]}',
        ),
        Ask(
            "GET",
            "/events?since={since}&until={until}&" + _narrow(container=["{c_id}"]),
            versions=("1.24", "1.44"),
            unordered=True,  # "die" and "stop" come in either order
        ),
        Ask("GET", "/events?since={since}&until={until}&" + _narrow(container=["{d}"])),
        *gets(
            "/events?since=x",
            "/events?until=x",
            "/events?since=9&until=5",
            '/events?until=1&filters={"bogus":["x"]}',
            '/events?until=1&filters={"type":["bogus"]}',
        ),
    ),
)

RESOURCES: tuple[dict[str, Any], ...] = (
    {"Memory": 1},
    {"Memory": 128 * MIB},
    {"Memory": 128 * MIB, "MemorySwap": 64 * MIB},
    {"Memory": "x"},
    {"MemoryReservation": 1},
    {"MemoryReservation": 16 * MIB},
    {"KernelMemory": 8 * MIB},
    {"CpuShares": 512},
    {"CpuPeriod": 1},
    {"CpuQuota": 1},
    {"CpuPeriod": 50000, "CpuQuota": 25000},
    {"CpusetCpus": "bogus"},
    {"CpusetMems": "9"},
    {"NanoCpus": -1},
    {"BlkioWeight": 5},
    {"PidsLimit": 50},
    {"PidsLimit": -5},
    {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2}},
    {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 2}},
    {"RestartPolicy": {"Name": ""}},
    {"Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/x"}]},
    {"Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}]},
    {"OomKillDisable": True},
)
UPDATES = Scene(
    "updates",
    containers={"c": {"HostConfig": {"Memory": 64 * MIB}}},
    asks=(
        *(Ask("POST", f"{C}/update", body) for body in RESOURCES),
        Ask("GET", f"{C}/json", hidden=("StartedAt",)),
        Ask("POST", "/containers/nonesuch/update", {}),
    ),
)

EXECS = Scene(
    "execs",
    containers={"c": {}},
    asks=(
        Ask("POST", f"{C}/exec", {}),
        Ask("POST", f"{C}/exec", {"Cmd": []}),
        Ask("POST", f"{C}/exec", {"Cmd": ["true"], "ConsoleSize": [1]}),
        Ask("POST", f"{C}/exec", {"Cmd": "true"}),
        Ask("POST", f"{C}/exec", {"Cmd": ["true"], "Env": ["=x"]}),
        Ask(
            "POST",
            f"{C}/exec",
            {
                "Cmd": ["sleep", "1000"],
                "Env": ["A=b"],
                "User": "nobody",
                "Privileged": True,
                "Tty": True,
                "WorkingDir": "/tmp",
                "AttachStdin": True,
                "AttachStdout": True,
                "DetachKeys": "ctrl-a,b",
            },
        ),
        Ask("GET", "/exec/{made}/json", versions=VERSIONS, hidden=("ID",)),
        *posts("/exec/{made}/resize?h=x&w=1", "/exec/nonesuch/resize?h=1&w=1"),
        Ask("POST", "/exec/{made}/start?detached", {"Detach": True, "Tty": True}),
        Ask("GET", "/exec/{made}/json?started", hidden=("ID",)),
        *posts("/exec/{made}/resize?h=20&w=30"),
        Ask("POST", "/exec/{made}/start?again", {"Detach": True}),
        Ask("POST", f"{C}/exec", {"Cmd": ["nonesuch"]}),
        Ask("POST", "/exec/{made}/start?nothing", {"Detach": True}),
        Ask("GET", "/exec/{made}/json?failed", hidden=("ID",)),
        Ask("GET", "/exec/nonesuch/json"),
        Ask("GET", f"{C}/json", hidden=("StartedAt", "ExecIDs")),
    ),
)

STATS = Scene(
    "stats",
    containers={"c": {"HostConfig": {"Memory": 64 * MIB, "PidsLimit": 20}}},
    asks=(
        # What the kernel counts differs from one to the next.
        Ask("GET", f"{C}/stats?stream=0", versions=("1.24", "1.40"), kinds=True, hidden=("stats",)),
        Ask("GET", f"{C}/stats?stream=0&one-shot=1", kinds=True, hidden=("stats",)),
        Ask("GET", "/containers/nonesuch/stats?stream=0"),
        Ask("GET", "/containers/nonesuch/stats"),
    ),
)

COMMITS = Scene(
    "commits",
    containers={"c": {}},
    asks=(
        *posts(
            "/commit",
            "/commit?container=nonesuch",
            "/commit?container={c}&repo=Bad",
            "/commit?container={c}&repo=x&tag=a%20b",
            "/commit?container={c}&changes=" + quote("BOGUS x"),
            "/commit?container={c}&changes=" + quote("RUN x"),
            "/commit?container={c}&changes=" + quote("EXPOSE x"),
        ),
    ),
)

COMMITS_OF = ("ContainerdCommit", "RuncCommit", "InitCommit")
ENGINE = Scene(
    "engine",
    asks=(
        Ask("GET", "/images/{image}/json", versions=VERSIONS, hidden=("LastTagTime",)),
        Ask("GET", "/images/{image}/history"),
        Ask(
            "GET",
            "/images/json?" + _narrow(reference=["{image}"]),
            versions=VERSIONS,
            hidden=("Containers",),
        ),
        Ask("GET", "/version", versions=VERSIONS, kinds=True, hidden=("Components",)),
        Ask(
            "GET",
            "/info",
            versions=VERSIONS,
            kinds=True,
            # What the two are built of.
            hidden=("Containerd", "CDISpecDirs", "Runtimes", *COMMITS_OF),
        ),
        Ask("GET", "/_ping"),
        Ask("GET", "/system/df?type=bogus"),
        Ask("GET", "/volumes?" + _narrow(name=["nonesuch"]), versions=VERSIONS),
        Ask("GET", "/networks/none", versions=VERSIONS, hidden=("Containers",)),
        Ask("GET", "/networks/nonesuch"),
        Ask("GET", "/volumes/nonesuch"),
        *posts('/networks/prune?filters={"bogus":["x"]}', '/volumes/prune?filters={"bogus":["x"]}'),
        *posts('/images/prune?filters={"bogus":["x"]}'),
        *posts('/networks/prune?filters={"label":["nonesuch=x"]}'),
        *posts('/volumes/prune?filters={"label":["nonesuch=x"]}'),
        *posts('/images/prune?filters={"label":["nonesuch=x"]}'),
    ),
)

NETWORK = "/networks/{c}"
OBJECTS = Scene(
    "objects",  # a network and a volume with the container's name
    containers={"c": {}},
    started=False,
    asks=(
        Ask("POST", "/networks/create", {"Name": "{c}", "Labels": {"a": "b"}}),
        Ask("GET", NETWORK, versions=VERSIONS, hidden=("Id",)),
        Ask("GET", f"/networks?{_narrow(name=['{c}'])}", versions=VERSIONS, hidden=("Id",)),
        Ask("POST", "/networks/create", {"Name": "{c}"}),
        Ask("POST", "/networks/create", {}),
        Ask("POST", "/networks/create", {"Name": "host"}),
        Ask("POST", "/networks/create", {"Name": "x", "Driver": "bogus"}),
        Ask("POST", f"{NETWORK}/connect", {"Container": "nonesuch"}),
        Ask(
            *("POST", f"{NETWORK}/connect"),
            {"Container": "{c}", "EndpointConfig": {"IPAMConfig": {"IPv4Address": "x"}}},
        ),
        Ask(
            *("POST", f"{NETWORK}/connect"),
            {"Container": "{c}", "EndpointConfig": {"Aliases": ["x"], "DriverOpts": {"a": "b"}}},
        ),
        Ask("GET", f"{C}/json", versions=VERSIONS),
        Ask("POST", f"{NETWORK}/disconnect", {"Container": "{c}"}),
        Ask("POST", f"{NETWORK}/disconnect?again", {"Container": "{c}"}),
        Ask("POST", "/networks/nonesuch/connect", {"Container": "{c}"}),
        Ask("DELETE", NETWORK),
        Ask("DELETE", f"{NETWORK}?again"),
        Ask("DELETE", "/networks/bridge"),
        Ask(
            "POST", "/volumes/create", {"Name": "{c}", "Labels": {"a": "b"}}, hidden=("CreatedAt",)
        ),
        Ask("GET", "/volumes/{c}", versions=VERSIONS),
        Ask("GET", f"/volumes?{_narrow(name=['{c}'])}", versions=VERSIONS),
        Ask("POST", "/volumes/create", {"Name": "{c}", "DriverOpts": {"bogus": "x"}}),
        Ask("POST", "/volumes/create", {"Name": "a/b"}),
        Ask("DELETE", "/volumes/{c}"),
        Ask("DELETE", "/volumes/{c}?again"),
        Ask("DELETE", "/volumes/{c}?force=1"),
        Ask("POST", "/images/{image}/tag?repo=Bad"),
        Ask("POST", "/images/{image}/tag?repo=t-x&tag=a%20b"),
        Ask("POST", "/images/nonesuch/tag?repo=t-x"),
        Ask("DELETE", "/images/nonesuch"),
        Ask("GET", "/images/nonesuch/history"),
        Ask("GET", "/system/df?type=container&type=bogus"),
    ),
)

SCENES: tuple[Scene, ...] = (LISTS, OPERATIONS, UPDATES, EXECS, STATS, COMMITS, ENGINE, OBJECTS)
