"""Tables out of the results, and their places in docs/performance.md: between `<!-- NAME -->` and `<!-- /NAME -->`."""

from __future__ import annotations

import re
from statistics import median
from typing import Any

from benchmarks.driving import ROOT
from benchmarks.results import Results
from benchmarks.systems import TITLES

PAGE = ROOT / "docs/performance.md"
BASE = "bare"
Rows = list[list[str]]
PLOTS = {
    "one": ("one", "Time of one execution"),
    "crowd_0": ("cpu", "CPU per step"),
    "crowd_200": ("throughput", "Throughput"),
    "length": ("length", "Cost over length"),
    "written": ("written", "Bytes written"),
    "recovery": ("recovery", "Recovery"),
}
"""The plot that goes below a table."""


def table(head: list[str], rows: Rows) -> str:
    """Markdown; all columns but the first to the right."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def ordered(systems: dict[str, Any]) -> list[str]:
    return [name for name in TITLES if name in systems]


def number(value: float) -> str:
    """Three digits, with thousands apart."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def ratio(value: float, base: float | None) -> str:
    return "" if not base else f"{value / base:.2f} ×"


def missing(section: dict[str, Any], columns: int) -> Rows:
    """A row for each system that could not be measured, with the reason."""
    return [
        [TITLES[name], f"missing: {reason.splitlines()[-1] if reason else '?'}", *[""] * (columns - 2)]
        for name, reason in section.get("missing", {}).items()
    ]


def one(section: dict[str, Any]) -> str:
    found = section["seconds"]
    base = {turns: median(found[BASE][turns]) for turns in ("1", "20")} if BASE in found else {}
    rows = []
    for name in ordered(found):
        took = {turns: median(found[name][turns]) for turns in ("1", "20")}
        rows.append(
            [
                TITLES[name],
                *(
                    cell
                    for turns in ("1", "20")
                    for cell in (number(took[turns] * 1e3), ratio(took[turns], base.get(turns)))
                ),
                str(len(found[name]["1"])),
            ]
        )
    head = ["", "1 turn, ms", "over bare", "20 turns, ms", "over bare", "runs"]
    return table(head, rows + missing(section, len(head)))


def crowd(section: dict[str, Any]) -> str:
    found = section["rounds"]
    base = median(one["steps_s"] for one in found[BASE]) if BASE in found else None
    rows = []
    for name in ordered(found):
        rate, cpu = (median(one[key] for one in found[name]) for key in ("steps_s", "cpu_ms"))
        rows.append([TITLES[name], number(rate), ratio(rate, base), number(cpu), str(len(found[name]))])
    head = ["", "steps/s", "over bare", "CPU per step, ms", "runs"]
    return table(head, rows + missing(section, len(head)))


def kinds(section: dict[str, Any]) -> str:
    """Which processes the CPU of a step goes to."""
    rows = []
    for name in ordered(section["rounds"]):
        rounds = [one["cpu_ms_by_kind"] for one in section["rounds"][name]]
        names = {kind for one in rounds for kind in one}
        used = {kind: median(one.get(kind, 0.0) for one in rounds) for kind in names}
        told = sorted(used.items(), key=lambda item: -item[1])
        rows.append([TITLES[name], ", ".join(f"{kind} {ms:.2f}" for kind, ms in told if ms >= 0.01)])
    return "\n".join(
        ["| | CPU per step by kind of process, ms |", "|---|---|", *(f"| {name} | {said} |" for name, said in rows)]
    )


def length(section: dict[str, Any]) -> str:
    found = section["systems"]
    ends = [end for end in ("50", "200", "500", "1000") if any(end in one["turn_ms"] for one in found.values())]
    rows = [
        [
            TITLES[name],
            *(number(found[name]["turn_ms"][end]) for end in ends),
            number(max(found[name]["seconds"].values())),
        ]
        for name in ordered(found)
    ]
    head = ["", *(f"turn {end}, ms" for end in ends), f"all {section['turns']:,}, s"]
    rows += missing({"missing": section.get("late", {})}, len(head))
    return table(head, rows + missing(section, len(head)))


def written(section: dict[str, Any]) -> str:
    found = section["bytes"]
    ours = found.get("agentspan-packed", {})
    rows = [
        [
            TITLES[name],
            *(
                cell
                for how in ("alone", "together")
                for cell in (f"{found[name][how] / 1e3:,.0f}", ratio(found[name][how], ours.get(how)))
            ),
        ]
        for name in ordered(found)
    ]
    rows += [[f"not measured: {reason}", "", "", "", ""] for reason in section["untraced"]]
    head = ["", "alone, kB", "over AgentSpan, SQLite", f"{section['executions']} at once, kB", "over AgentSpan, SQLite"]
    return table(head, rows + missing(section, len(head)))


def recovery(section: dict[str, Any]) -> str:
    found = section["seconds"]
    rows = [
        [TITLES[name], number(median(found[name])), number(max(found[name])), str(len(found[name]))]
        for name in ordered(found)
    ]
    return table(["", "median, s", "longest, s", "kills"], rows + missing(section, 4))


def fleet(sections: dict[str, Any]) -> str:
    """AgentSpan alone, against its targets."""
    rows: Rows = []

    def row(what: str, value: str, target: str, met: bool) -> None:
        rows.append([what, value, target, "yes" if met else "**no**"])

    for name in ("waiting_1000", "waiting_10000"):
        if found := sections.get(name):
            if "failed" in found:
                rows.append([name, "failed", "", "**no**"])
                continue
            count, each = f"{found['count']:,} waiting", found["row_bytes_each"] / 1e3
            row(f"{count}: processes", str(found["processes"]), "0", found["processes"] <= 0)
            row(f"{count}: rows of each", f"{each:.1f} kB", "≤ 10 kB", each <= 10)
            memory = found["memory_bytes_each"] / 1e3
            rows.append([f"{count}: memory of each, all processes", f"{memory:.1f} kB", "", ""])
            rows.append(
                [f"{count}: one woken, approval → result", f"{median(found['wake_one_s']) * 1e3:.0f} ms", "", ""]
            )
            many = found["wake_many_s"]
            row(f"{count}: {found['woken']:,} woken at once, all ended", f"{many:.1f} s", "≤ 10 s", many <= 10)
    if (found := sections.get("live")) and "failed" not in found:
        each = found["host_bytes_each"] / 1e3
        row(f"{found['count']:,} live, packed: memory of each, in its host", f"{each:.0f} kB", "≤ 150 kB", each <= 150)
        rows.append(["the same, in the other processes", f"{found['other_bytes_each'] / 1e3:.1f} kB", "", ""])
    if (found := sections.get("dedicated")) and "failed" not in found:
        ours, bare = found["execution_pss_bytes"], found["bare_pss_bytes"]
        value = f"{ours / bare:.2f} × ({ours / 1e6:.1f} and {bare / 1e6:.1f} MB)"
        row("dedicated: memory over a bare Ray actor's", value, "≤ 1.25 ×", ours / bare <= 1.25)
    if found := sections.get("restart"):
        if "failed" in found:
            rows.append(["everything killed", "failed", "≤ 30 s", "**no**"])
        else:
            what = f"everything killed under {found['count']:,} running: `server start` → all running"
            row(what, f"{found['all_s']:.1f} s", "≤ 30 s", found["all_s"] <= 30)
            rows.append(["of that, until the server answers", f"{found['server_up_s']:.1f} s", "", ""])
    return table(["AgentSpan", "measured", "target", "met"], rows) if rows else ""


def origin(sections: dict[str, Any]) -> str:
    """Where the figures come from, in words."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, section in sections.items():
        taken = section["taken"]
        groups.setdefault(tuple(taken[key] for key in ("date", "machine", "command", "loaded")), []).append(name)
    lines = []
    for (date, machine, command, loaded), names in sorted(groups.items()):
        state = (
            "**while other work loaded the machine: figures for comparison only**" if loaded else "nothing else running"
        )
        lines.append(f"- {date}, {machine}, {state}: `{command}` ({', '.join(sorted(names))})")
    versions: dict[str, str] = {}
    for section in sections.values():
        for system, found in section.get("versions", {}).items():
            versions |= {
                f"{system.partition('-')[0]} saver" if key == "saver" else key: one for key, one in found.items()
            }
    said = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return "\n".join([*lines, f"- {said}"])


def parts(results: Results) -> dict[str, str]:
    """Every table by its name."""
    tables = {
        "one": one,
        "crowd_0": crowd,
        "crowd_200": crowd,
        "length": length,
        "written": written,
        "recovery": recovery,
    }
    made = {name: make(results.sections[name]) for name, make in tables.items() if name in results.sections}
    for name, (image, says) in PLOTS.items():
        if name in made:
            made[name] += f"\n\n![{says}](images/performance-{image}.png)"
    if "crowd_0" in results.sections:
        made["kinds"] = kinds(results.sections["crowd_0"])
    made["fleet"] = fleet(results.sections)
    made["origin"] = origin(results.sections)
    return made


def text(results: Results) -> str:
    """All tables, to read in a terminal."""
    return "\n\n".join(f"{name}\n{made}" for name, made in parts(results).items())


def renew(results: Results) -> None:
    """Put the tables into the page."""
    page = PAGE.read_text()
    for name, made in parts(results).items():
        place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        page = place.sub(lambda found, made=made: f"{found[1]}{made}\n{found[2]}", page)
    PAGE.write_text(page)
