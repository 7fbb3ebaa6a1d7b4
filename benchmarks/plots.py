"""PNG plots out of the results, into docs/images."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.driving import ROOT
from benchmarks.results import Results
from benchmarks.systems import TITLES

IMAGES = ROOT / "docs/images"
OURS, BASE, PEER = "#0b6e4f", "#555555", "#9db4c0"
LINES = {
    "bare": ("#555555", "--"),
    "agentspan-packed": ("#0b6e4f", "-"),
    "agentspan-packed-postgres": ("#43aa8b", "-"),
    "agentspan-dedicated": ("#8cc5a4", "-"),
    "dbos-sqlite": ("#c1666b", "-"),
    "dbos-postgres": ("#e2a3a6", "-"),
    "langgraph-sqlite": ("#2e5eaa", "-"),
    "langgraph-postgres": ("#8fb1e3", "-"),
    "restate": ("#d9902f", "-"),
}


def color(name: str) -> str:
    return OURS if name.startswith("agentspan") else BASE if name.startswith("bare") else PEER


def bars(axes: Any, values: dict[str, float], notes: dict[str, str], title: str, unit: str) -> None:
    """One bar for each system, best at the top, with its figure beside it."""
    names = list(values)
    places = range(len(names))
    axes.barh(places, [values[name] for name in names], color=[color(name) for name in names], height=0.68)
    axes.set_yticks(places, [TITLES[name] for name in names])
    axes.invert_yaxis()
    for place, name in zip(places, names, strict=True):
        axes.text(values[name], place, f" {notes[name]}", va="center", ha="left", fontsize=9)
    axes.set_xlim(0, max(values.values()) * 1.28)
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel(unit)
    plain(axes)


def plain(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)


def draw(results: Results) -> list[Path]:
    """Draw what there are results for. Returns the files."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    IMAGES.mkdir(parents=True, exist_ok=True)
    made = []
    for name, plot in (
        ("throughput", throughput),
        ("cpu", cpu),
        ("one", one),
        ("length", length),
        ("written", written),
        ("recovery", recovery),
    ):
        figure = plot(pyplot, results.sections)
        if figure is None:
            continue
        path = IMAGES / f"performance-{name}.png"
        figure.savefig(path, dpi=120, bbox_inches="tight", metadata={"Software": None})
        pyplot.close(figure)
        made.append(path)
    return made


def by_size(values: dict[str, float], *, largest_first: bool) -> dict[str, float]:
    return dict(sorted(values.items(), key=lambda item: item[1], reverse=largest_first))


def throughput(pyplot: Any, sections: dict[str, Any]) -> Any:
    """Steps per second of a crowd, at both latencies."""
    crowds = [sections[name] for name in ("crowd_0", "crowd_200") if sections.get(name, {}).get("rounds")]
    if not crowds:
        return None
    figure, plots = pyplot.subplots(
        1, len(crowds), figsize=(6.6 * len(crowds), 4.2), squeeze=False, layout="constrained"
    )
    for axes, section in zip(plots[0], crowds, strict=True):
        rates = {name: median(one["steps_s"] for one in rounds) for name, rounds in section["rounds"].items()}
        rates = by_size(rates, largest_first=True)
        base = rates.get("bare")
        notes = {name: f"{rate:,.0f}" + (f" ({rate / base:.2f} ×)" if base else "") for name, rate in rates.items()}
        title = f"{section['executions']} executions × {section['turns']} turns, model takes {section['delay_ms']} ms"
        bars(axes, rates, notes, title, "durable steps per second (× the bare loop); more is better")
    return figure


def cpu(pyplot: Any, sections: dict[str, Any]) -> Any:
    """CPU of a step, over all processes."""
    section = sections.get("crowd_0")
    if not section or not section["rounds"]:
        return None
    used = {name: median(one["cpu_ms"] for one in rounds) for name, rounds in section["rounds"].items()}
    used = by_size(used, largest_first=False)
    base = used.get("bare")
    notes = {name: f"{one:.2f} ms" + (f" ({one / base:.2f} ×)" if base else "") for name, one in used.items()}
    figure, axes = pyplot.subplots(figsize=(7.2, 3.8), layout="constrained")
    bars(axes, used, notes, "CPU per step, all processes of a system", "milliseconds (× the bare loop); less is better")
    return figure


def one(pyplot: Any, sections: dict[str, Any]) -> Any:
    """One execution alone."""
    section = sections.get("one")
    if not section or not section["seconds"]:
        return None
    figure, plots = pyplot.subplots(1, 2, figsize=(13.2, 4.2), layout="constrained")
    for axes, turns in zip(plots, ("1", "20"), strict=True):
        took = {name: median(found[turns]) * 1e3 for name, found in section["seconds"].items()}
        took = by_size(took, largest_first=False)
        base = took.get("bare")
        notes = {name: f"{ms:,.0f} ms" + (f" ({ms / base:.1f} ×)" if base else "") for name, ms in took.items()}
        title = f"One execution of {turns} turn{'s' if turns != '1' else ''}, model takes 0 ms"
        bars(axes, took, notes, title, "milliseconds, start → result (× the bare loop); less is better")
    return figure


def length(pyplot: Any, sections: dict[str, Any]) -> Any:
    """What a turn costs late in a long execution."""
    section = sections.get("length")
    if not section or not section["systems"]:
        return None
    figure, axes = pyplot.subplots(figsize=(8.6, 4.8), layout="constrained")
    ends = []
    for name, found in section["systems"].items():
        shade, style = LINES.get(name, ("black", ":"))
        marks = [(int(end), ms) for end, ms in found["turn_ms"].items()]
        marks.sort()
        width = 2.4 if name.startswith("agentspan") else 1.6
        axes.plot(*zip(*marks, strict=True), color=shade, linestyle=style, linewidth=width, marker="o", markersize=3)
        ends.append((marks[-1][1], name, shade))
    right = max(int(end) for found in section["systems"].values() for end in found["turn_ms"])
    axes.set_ylim(bottom=0)
    space = axes.get_ylim()[1] * 0.052
    last = -space
    for ms, name, shade in sorted(ends):  # Names beside the ends of their lines, moved apart where they would meet.
        last = max(ms, last + space)
        axes.annotate(
            f"{TITLES[name]}: {ms:.0f} ms", (right, ms), (right * 1.03, last), color=shade, fontsize=9, va="center"
        )
    axes.set_xlim(0, right * 1.02)
    title = f"Cost of a turn after so many turns (median of the last {section['window']})"
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel("turns of one execution so far; every request carries the whole conversation")
    axes.set_ylabel("milliseconds per turn; less is better")
    plain(axes)
    axes.grid(axis="y", alpha=0.25)
    return figure


def written(pyplot: Any, sections: dict[str, Any]) -> Any:
    """Bytes for files."""
    section = sections.get("written")
    if not section or not section["bytes"]:
        return None
    figure, plots = pyplot.subplots(1, 2, figsize=(13.2, 3.8), layout="constrained")
    for axes, how in zip(plots, ("alone", "together"), strict=True):
        kilobytes = by_size({name: one[how] / 1e3 for name, one in section["bytes"].items()}, largest_first=False)
        base = kilobytes.get("agentspan-packed")
        notes = {name: f"{one:,.0f} kB" + (f" ({one / base:.1f} ×)" if base else "") for name, one in kilobytes.items()}
        many = "alone" if how == "alone" else f"{section['executions']} at once"
        title = f"Written by one execution of {section['turns']} turns, {many}"
        bars(axes, kilobytes, notes, title, "kilobytes for files (× AgentSpan on SQLite); less is better")
    return figure


def recovery(pyplot: Any, sections: dict[str, Any]) -> Any:
    """From SIGKILL to the next step."""
    section = sections.get("recovery")
    if not section or not section["seconds"]:
        return None
    took = by_size({name: median(one) for name, one in section["seconds"].items()}, largest_first=False)
    best = min(took.values())
    notes = {name: f"{one:.2f} s ({one / best:.1f} ×)" for name, one in took.items()}
    figure, axes = pyplot.subplots(figsize=(7.2, 3.8), layout="constrained")
    bars(
        axes,
        took,
        notes,
        "SIGKILL of the process → the interrupted step runs again",
        "seconds (× the quickest); less is better",
    )
    return figure
