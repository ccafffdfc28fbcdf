"""Run experiments, each with its control, and print what was counted. See `scripts/faults`.

They run one after the other. Experiments that mostly wait run in other processes beside the rest. One that fails
although nothing was lost or done twice runs once more at the end, alone: its bounds are seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import uvloop

from experiments import BESIDE, EXPERIMENTS
from experiments.base import Experiment, Outcome
from receiver.telemetry import configure

QUICK_LIMIT = 300.0
LIMIT = 1800.0
"""Limit of one run in seconds, also on a busy machine."""


@dataclass(frozen=True)
class Result:
    """An experiment's two outcomes."""

    experiment: Experiment
    outcome: Outcome
    control: Outcome | None

    @property
    def complaints(self) -> list[str]:
        """Return a sentence for each promise that broke and each proof that is missing."""
        return [*self._broken(), *self._unproven()]

    @property
    def unsteady(self) -> bool:
        """True if it failed while nothing was lost or done twice: a busy machine can miss a bound in seconds."""
        return bool(self.complaints) and not (self.outcome.lost or self.outcome.doubled)

    def _broken(self) -> list[str]:
        name, outcome = self.experiment.name, self.outcome
        found = [] if outcome.problem is None else [f"{name}: {outcome.problem}"]
        if outcome.lost:
            found.append(f"{name}: {outcome.lost} of {outcome.acknowledged} acknowledged were lost")
        if outcome.doubled:
            found.append(f"{name}: {outcome.doubled} were done twice")
        return found

    def _unproven(self) -> list[str]:
        name = self.experiment.name
        found = [] if self.outcome.injected else [f"{name}: no fault was injected, so nothing is proven"]
        if self.control is not None and not self.control.harmed:
            found.append(f"{name}: the control passes, so the experiment does not see what it looks for")
        return found


def main() -> int:
    options = read_options()
    if options.list:
        for experiment in EXPERIMENTS:
            print(f"{experiment.name:24} {' '.join(experiment.promises):12} {experiment.summary}")
        return 0
    configure(level="critical", format="json", secrets=[], stream=sys.stderr)  # faults make many lines; counts are ours
    begun = time.monotonic()
    chosen = [item for item in EXPERIMENTS if not options.only or item.name in options.only]
    rows = [] if options.alone else [[item for item in chosen if item.name in row] for row in BESIDE]
    waiting = [item for row in rows for item in row]
    with ExitStack() as stack:
        others = [stack.enter_context(beside(row, quick=options.quick)) for row in rows]
        results = [run(experiment, quick=options.quick) for experiment in chosen if experiment not in waiting]
        results += [result for finish in others for result in finish()]
    for number, result in enumerate(results):
        if result.unsteady and not options.alone:
            tell(f"Failed without a loss, so once more, alone: {'; '.join(result.complaints)}")
            results[number] = run(result.experiment, quick=options.quick)
    results.sort(key=lambda result: chosen.index(result.experiment))
    print_table(results, time.monotonic() - begun)
    if options.json is not None:
        options.json.write_text(json.dumps([summary(result) for result in results], indent=2) + "\n")
    complaints = [complaint for result in results for complaint in result.complaints]
    for complaint in complaints:
        tell(complaint)
    return 1 if complaints or not results else 0


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/faults", description="Break what can break; count what was lost.")
    names = [experiment.name for experiment in EXPERIMENTS]
    parser.add_argument("--quick", action="store_true", help="fewer faults each; about six minutes in all")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names, help="these experiments alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the outcomes there, too")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)  # we are the process beside
    parser.add_argument("--list", action="store_true", help="name the experiments, and what each proves")
    return parser.parse_args()


@contextmanager
def beside(experiments: Sequence[Experiment], *, quick: bool) -> Iterator[Callable[[], list[Result]]]:
    """Run experiments in another process while the block runs. Yield a function that waits for their results.

    Raises:
        RuntimeError: the process ended without them.
    """
    if not experiments:
        yield list
        return
    with tempfile.TemporaryDirectory(prefix="receiver-faults-") as folder:
        file = Path(folder) / "results.json"
        command = [sys.executable, "-m", "experiments", "--alone", "--json", str(file), *["--quick"] * quick]
        names = [experiment.name for experiment in experiments]
        with subprocess.Popen([*command, "--only", *names], stdout=subprocess.DEVNULL) as process:
            try:
                yield lambda: read_results(process, file, experiments)
            finally:
                process.terminate()  # of no effect when it has ended


def read_results(process: subprocess.Popen[bytes], file: Path, experiments: Sequence[Experiment]) -> list[Result]:
    """Wait for the process, and return the results that it has written."""
    status = process.wait()
    if not file.exists():
        raise RuntimeError(f"The process beside this one ended with {status}; its output is above.")
    written = {item.pop("experiment"): item for item in json.loads(file.read_text())}
    return [result_of(experiment, written[experiment.name]) for experiment in experiments]


def result_of(experiment: Experiment, written: dict[str, Any]) -> Result:
    """The reverse of `summary`."""
    outcome = Outcome(**{name: written[name] for name in Outcome.__dataclass_fields__})
    control = written["control"]
    return Result(experiment, outcome, Outcome(**control) if control else None)


def run(experiment: Experiment, *, quick: bool) -> Result:
    """Run an experiment and its control, each in an empty folder and a new event loop."""
    tell(f"{experiment.name} …")
    outcome = attempt(experiment.run, quick=quick)
    assert outcome is not None, "only a control may be missing"
    try:
        control = attempt(experiment.control, quick=quick, broken=True)
    except Failed as exc:
        control, outcome = None, add_problem(outcome, f"its control did not run: {exc}")
    result = Result(experiment, outcome, control)
    verdict = "; ".join(result.complaints) or f"holds: {outcome.lost} lost, {outcome.doubled} doubled"
    tell(f"  {verdict}; its control: {harm(control)}. {outcome.notes}")
    return result


class Failed(Exception):
    """A run ended with an error, or not at all."""


def attempt(method: Callable[..., Awaitable[Outcome | None]], *, quick: bool, broken: bool = False) -> Outcome | None:
    """Run one method. An error is a broken promise. In a control it proves nothing, and raises Failed."""
    limit = QUICK_LIMIT if quick else LIMIT
    begun = time.monotonic()

    async def limited(folder: Path) -> Outcome | None:
        async with asyncio.timeout(limit):
            return await method(folder, quick=quick)

    with tempfile.TemporaryDirectory(prefix="receiver-faults-") as folder:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as the command runs
                return runner.run(limited(Path(folder)))
        except Exception as exc:
            traceback.print_exc()
            text = f"it was not done after {limit:g} s" if isinstance(exc, TimeoutError) else f"{exc!r} (see above)"
            if broken:
                raise Failed(text) from exc
            seconds = time.monotonic() - begun
            return Outcome(injected=1, acknowledged=0, lost=0, doubled=0, seconds=seconds, problem=text)


def add_problem(outcome: Outcome, text: str) -> Outcome:
    joined = text if outcome.problem is None else f"{outcome.problem}; {text}"
    return Outcome(**{**asdict(outcome), "problem": joined})


def print_table(results: list[Result], seconds: float) -> None:
    width = max((len(result.experiment.name) for result in results), default=10) + 2
    print(f"\n{'EXPERIMENT':{width}}{'injected':>9}{'acknowledged':>14}{'lost':>6}{'doubled':>9}", end="")
    print(f"  {'the control':24}{'seconds':>8}  notes")
    for result in results:
        outcome = result.outcome
        print(
            f"{result.experiment.name:{width}}{outcome.injected:9,}{outcome.acknowledged:14,}{outcome.lost:6,}"
            f"{outcome.doubled:9,}  {harm(result.control):24}{outcome.seconds:8.1f}  {outcome.notes}".rstrip()
        )
    kept = sum(not result.complaints for result in results)
    print(f"\n{kept} of {len(results)} hold; {seconds:.0f} s with their controls")


def harm(control: Outcome | None) -> str:
    """Return the harm of the broken build in a few words."""
    if control is None:
        return "none"
    counts = [f"{control.lost:,} lost"] * bool(control.lost) + [f"{control.doubled:,} doubled"] * bool(control.doubled)
    return ", ".join(counts or ["breaks" if control.problem else "PASSES"])


def summary(result: Result) -> dict[str, object]:
    """Return everything about a result, for programs."""
    return {
        "experiment": result.experiment.name,
        "promises": result.experiment.promises,
        **asdict(result.outcome),
        "control": asdict(result.control) if result.control else None,
        "complaints": result.complaints,
    }


def tell(text: str) -> None:
    """Write for people. Standard output is for the table."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that servers end and disks go then, too
    sys.exit(main())
