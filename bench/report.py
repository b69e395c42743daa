"""The results as a table for people and as JSON for programs, with the facts of the machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.endpoint import Endpoint
from bench.measure import JobResult, Series


def machine() -> dict[str, str]:
    model = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    total = Path("/proc/meminfo").read_text().split()[1]
    unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    return {
        "processor": f"{len(model)} x {model[0] if model else platform.machine()}",
        "memory": f"{int(total) // 1024} MB",
        "kernel": platform.release(),
        "cgroups": "v2" if unified else "v1",
        "load": f"{os.getloadavg()[0]:.2f}",
    }


def table(results: Sequence[JobResult], endpoints: Sequence[Endpoint], base: str) -> str:
    others = [endpoint.name for endpoint in endpoints if endpoint.name != base]
    header = ["job", "unit", *(endpoint.name for endpoint in endpoints)]
    header += [f"{name} / {base}" for name in others] + ["target"]
    rows = [header]
    for result in results:
        for figure, by_endpoint in result.figures.items():
            label = f"  {figure}" if figure else result.job.name
            row = [label, result.job.unit]
            row += [cell(by_endpoint.get(endpoint.name)) for endpoint in endpoints]
            row += [ratio(by_endpoint, name, base) for name in others]
            wanted = result.job.target if not figure and others else None
            rows.append([*row, f"{wanted:.2f}" if wanted else ""])
        rows += [
            [result.job.name, "", f"{name} failed: {why}"] for name, why in result.failures.items()
        ]
    return aligned(rows)


def cell(series: Series | None) -> str:
    if series is None:
        return "-"
    low, high = series.spread
    return f"{series.median:.1f} ({low:.1f}-{high:.1f})"


def ratio(by_endpoint: dict[str, Series], name: str, base: str) -> str:
    if name not in by_endpoint or base not in by_endpoint:
        return "-"
    return f"{by_endpoint[name].median / by_endpoint[base].median:.2f}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    columns = max(len(row) for row in rows)
    complete = [row for row in rows if len(row) == columns]
    widths = [max(len(row[index]) for row in complete) for index in range(columns)]
    lines = []
    for row in rows:
        cells = [
            text.ljust(width) if index == 0 or len(row) < columns else text.rjust(width)
            for index, (text, width) in enumerate(zip(row, widths, strict=False))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def as_json(
    results: Sequence[JobResult], endpoints: Sequence[Endpoint], base: str
) -> dict[str, Any]:
    return {
        "machine": machine(),
        "endpoints": {endpoint.name: endpoint.version for endpoint in endpoints},
        "base": base,
        "jobs": {
            result.job.name: {
                "unit": result.job.unit,
                "what": result.job.what,
                "failures": result.failures,
                "figures": {
                    figure or "value": {
                        name: {"median": series.median, "rounds": series.rounds}
                        for name, series in by_endpoint.items()
                    }
                    for figure, by_endpoint in result.figures.items()
                },
            }
            for result in results
        },
    }
