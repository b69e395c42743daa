"""The jobs, one file each subject; the order is the report's."""

from __future__ import annotations

from bench.job import Job
from bench.jobs import images
from bench.jobs.calls import Inspect, List, RemoveRunning
from bench.jobs.churn import Churn
from bench.jobs.command import Exec, RunBridge, RunNone, RunPublished
from bench.jobs.crowd import Names, StartInCrowd
from bench.jobs.files import Commit, CopyIn, CopyOut
from bench.jobs.memory import Memory
from bench.jobs.networks import Connect, CreateNetwork, StartPorts
from bench.jobs.output import Attach, Logs, ReadLogs
from bench.jobs.ports import PortThroughput
from bench.jobs.scale import StartAmong

JOBS: tuple[type[Job], ...] = (
    RunBridge,
    RunNone,
    Exec,
    RunPublished,
    Churn,
    StartAmong,
    StartInCrowd,
    Names,
    List,
    Inspect,
    RemoveRunning,
    CreateNetwork,
    Connect,
    StartPorts,
    PortThroughput,
    Logs,
    ReadLogs,
    Attach,
    CopyIn,
    CopyOut,
    Commit,
    Memory,
    images.Pull,
    images.PullAtOnce,
    images.PullMemory,
    images.Load,
    images.Save,
    images.Push,
)
