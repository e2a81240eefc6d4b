"""The pictures of docs/performance.md: SVG, the same bytes for the same figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib  # type: ignore[import-not-found,unused-ignore]

from scripts.benchmarks.figures import flat, percentile
from scripts.benchmarks.sections import throughput

matplotlib.use("svg")
from matplotlib import pyplot  # type: ignore[import-not-found,unused-ignore]

Axes = Any
STYLE = {
    "svg.hashsalt": "remote-env", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10, "figure.facecolor": "white",
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#dddddd", "axes.spines.top": False, "axes.spines.right": False,
    "legend.frameon": False,
}  # fmt: skip
COLOURS = {"ours": "#1f6feb", "peer": "#b35900", "floor": "#777777"}
LINES = ("#1f6feb", "#b35900", "#2e8b57", "#8a2be2", "#c71585", "#777777", "#008b8b", "#daa520")


def latency(data: dict[str, Any], axes: Axes) -> None:
    """A box from p25 to p75 with the median for each kind in sh, whiskers to p5 and p95."""
    kinds = [kind for kind in data["kinds"] if kind["shell"] in ("sh", "") or kind["name"].endswith("run_in_session")]
    kinds.sort(key=lambda kind: percentile(flat(kind["seconds"]), 0.5), reverse=True)
    boxes: list[dict[str, Any]] = []
    names: list[str] = []
    for kind in kinds:
        shares = (percentile([value * 1e3 for value in flat(kind["seconds"])], share) for share in (0.05, 0.25, 0.5, 0.75, 0.95))
        boxes.append(dict(zip(("whislo", "q1", "med", "q3", "whishi"), shares, strict=True)) | {"fliers": []})
        names.append(kind["name"] + (f" ({kind['shell']})" if kind["shell"] == "bash" else ""))
    drawn = axes.bxp(boxes, orientation="horizontal", showfliers=False, patch_artist=True, widths=0.6)
    for patch, kind in zip(drawn["boxes"], kinds, strict=True):
        patch.set_facecolor(COLOURS[kind["group"]])
    for median in drawn["medians"]:
        median.set_color("white")
    axes.set_yticks(range(1, len(names) + 1), names)
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds for `true` (box: p25 to p75, whiskers: p5 to p95)")
    handles = [matplotlib.patches.Patch(color=colour, label=group) for group, colour in COLOURS.items()]
    axes.legend(handles=handles, loc="upper right")


def throughput_by_clients(data: dict[str, Any], axes: Axes) -> None:
    for colour, name in zip(LINES, data["together"], strict=False):
        levels = [level for level in data["levels"] if throughput.rates(data, name, level)]
        values = [percentile(flat(throughput.rates(data, name, level) or []), 0.5) for level in levels]
        axes.plot(levels, values, marker="o", color=colour, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(data["levels"], [str(level) for level in data["levels"]])
    axes.set_xlabel("clients at once")
    axes.set_ylabel("`true` a second")
    axes.legend()


def sandboxes(data: dict[str, Any], axes: Axes) -> None:
    counts = [level["sandboxes"] for level in data["levels"]]
    for colour, name in zip(LINES, ("newest", "oldest", "docker exec"), strict=False):
        if name in data["levels"][0]["seconds"]:
            label = name if name == "docker exec" else f"sandbox.run, {name} sandbox"
            axes.plot(
                counts,
                [percentile(flat(level["seconds"][name]), 0.5) * 1e3 for level in data["levels"]],
                marker="o",
                color=colour,
                label=label,
            )
    axes.set_yscale("log")
    axes.set_xlabel("sandboxes, a command running in each")
    axes.set_ylabel("p50 of `true`, milliseconds")
    axes.legend(loc="center right")


def history(data: dict[str, Any], axes: Axes) -> None:
    names = [f"{past:,}" for past in data["pasts"]]
    for colour, share in zip(LINES, (0.5, 0.95, 0.99), strict=False):
        values = [percentile(flat(data["seconds"][str(past)]), share) * 1e3 for past in data["pasts"]]
        axes.plot(names, values, marker="o", color=colour, label=f"p{share * 100:.0f}")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("finished executions in the journal")
    axes.set_ylabel("sandbox.run of `true`, milliseconds")
    axes.legend(loc="lower right")


def leaks(data: dict[str, Any], axes: Axes) -> None:
    done = [point["executions"] for point in data["points"]]
    axes.plot(done, [point["rss_bytes"] / (1 << 20) for point in data["points"]], color=LINES[0], label="server's memory, MiB")
    axes.plot(done, [point["fds"] for point in data["points"]], color=LINES[1], label="descriptors")
    axes.plot(done, [point["threads"] for point in data["points"]], color=LINES[2], label="threads")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("executions")
    axes.legend(loc="center right")


PICTURES: dict[str, tuple[str, Callable[[dict[str, Any], Axes], None]]] = {
    # file name → the section whose figures it shows, and how
    "latency.svg": ("latency", latency),
    "throughput.svg": ("throughput", throughput_by_clients),
    "sandboxes.svg": ("many", sandboxes),
    "history.svg": ("history", history),
    "leaks.svg": ("leaks", leaks),
}


def draw(run: dict[str, Any], directory: Path) -> list[Path]:
    """Writes the pictures of the sections that were run, and returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    with matplotlib.rc_context(STYLE):
        for name, (section, paint) in PICTURES.items():
            if section not in run["sections"]:
                continue
            figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
            paint(run["sections"][section], axes)
            path = directory / name
            figure.savefig(path, metadata={"Date": None, "Creator": None})
            pyplot.close(figure)
            written.append(path)
    return written
