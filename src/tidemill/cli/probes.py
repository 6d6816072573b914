"""`probes`: what replicas measured, the numbers that follow, and values to paste."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tidemill.cli.show import Table, print_json
from tidemill.cli.show import show as put
from tidemill.deploy.advice import Advice
from tidemill.deploy.measured import probes_from
from tidemill.deploy.plan import Probe, Probes


def show(urls: Sequence[str], *, as_json: bool) -> int:
    """Ask these replicas and print what follows. Exit code 0, whatever it is: advice is not a fault."""
    advice = probes_from(urls)
    if as_json:
        print_json(advice)
    else:
        put(pieces_of(advice))
    return 0


def pieces_of(advice: Advice) -> Iterator[Table | str]:
    """What is shown of it, from top to bottom."""
    yield Table(
        "measured and recommended",
        ["group", "number", "measured", "now", "then", ""],
        [
            (one.group, one.setting, one.measured, one.now, one.recommended, "change" if one.changes else "")
            for one in advice.findings
        ],
    )
    yield "why:"
    for one in advice.findings:
        yield f"  {one.group}, {one.setting}: {one.why}"
    for warning in advice.warnings:
        yield f"look at: {warning}"
    yield ""
    yield values(advice)


def values(advice: Advice) -> str:
    """The probes as values of the chart, and a line for the settings where the grace should change."""
    lines = ["# for your own values file", "groups:"]
    for group, numbers in advice.groups.items():
        lines += [f"  {group}:", "    probes:", *_yaml(numbers.probes)]
    graces = [one for one in advice.findings if one.setting == "grace" and one.changes]
    if graces:
        longest = max(advice.groups[one.group].grace or 0.0 for one in graces)
        lines += [
            "# and for tidemill.toml (then write the chart anew: the grace period of the pods follows from it)",
            f"# grace = {longest:g}",
        ]
    return "\n".join(lines)


def _yaml(probes: Probes) -> Iterator[str]:
    for name, probe in (("startup", probes.startup), ("readiness", probes.readiness), ("liveness", probes.liveness)):
        yield f"      {name}: {_numbers(probe)}"


def _numbers(probe: Probe) -> str:
    return f"{{periodSeconds: {probe.period}, failureThreshold: {probe.failures}, timeoutSeconds: {probe.timeout}}}"
