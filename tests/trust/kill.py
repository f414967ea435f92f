"""Kills over a whole study: does it always end as one that was never disturbed?

    python tests/trust/kill.py --rounds 50 --seed 0

Each round starts a study, kills it (with --per-round N: N times, each time in another kind of job), gives the same
command again to the end, and compares what is there with a study that was left alone. Linux only: it looks into /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

KINDS = ("01", "02", "03", "04", "report")
BETWEEN = "between jobs"
VICTIMS = ("everything", "everything", "the command", "a job", "a kernel")  # the first is the most frequent
SMALL = (
    "base_epochs=2",
    "epochs=2",
    "distillation=false",
)  # over the default study, so that a round takes half a minute
TIMES = ("checksum", "made", "training_seconds", "images_per_second")  # what differs between two equal trainings
STAYED = -1000  # an exit code that there is not
REPORT_BEGINS = "executed notebooks: "  # printed before results are collected and the report is made
LEFTOVERS = ("**/*.tmp", "**/.state_*", "**/*.lease", "notebooks/.*", "**/*.checkpoint", "**/progress.json")


@dataclass
class Study:
    """The command of a study, given as often as it takes, and its process."""

    command: Sequence[str]  # il2m run ... without --out
    folder: Path
    temporary: Path  # what its processes leave in the folder for temporary files
    process: subprocess.Popen | None = None

    def start(self) -> None:
        self.temporary.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "il2m.cli", *self.command, "--out", str(self.folder)]
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "TMPDIR": str(self.temporary)}
        with self.log.open("wb") as log:  # a session of its own: all its processes can be found by it
            options = {"stdout": log, "stderr": log, "env": environment, "start_new_session": True}
            self.process = subprocess.Popen(command, **options)

    @property
    def log(self) -> Path:
        return self.temporary / "printed.log"

    def finish(self) -> int:
        """Wait until all its processes are gone; returns the command's exit code, STAYED if some had to be killed."""
        code, deadline = self.process.wait(), time.monotonic() + 60
        while self.processes():
            if time.monotonic() > deadline:
                self.kill(self.processes)
                return STAYED
            time.sleep(0.1)
        return code

    def processes(self) -> list[int]:
        """All processes of its session, kernels and decoders included."""
        return [pid for pid in _pids() if _of(os.getsid, pid) == self.process.pid and not _is_zombie(pid)]

    def jobs(self) -> dict[int, str]:
        """Processes that are at a job, each at the head of a group of its own -> kind of job."""
        pids = [pid for pid in self.processes() if _of(os.getpgid, pid) == pid != self.process.pid]
        printed = {pid: Path(_of(os.readlink, f"/proc/{pid}/fd/1") or "").name for pid in pids}  # jobs/<job>.log
        return {pid: name[:2] if name.endswith(".log") else "report" for pid, name in printed.items()}

    def kernels(self, job: int) -> list[int]:
        return [pid for pid in self.processes() if pid != job and _of(os.getpgid, pid) == job]

    def running(self) -> set[str]:
        """Kinds of job that are under way now."""
        records = [_read(path) for path in self.folder.glob("jobs/*.json")]
        ours = {"status": "running", "pid": self.process.pid}
        kinds = {record["name"][:2] for record in records if ours.items() <= record.items()}
        return kinds | ({"report"} if REPORT_BEGINS in self.log.read_text(errors="replace") else set())

    def kill(self, victims: callable) -> int:
        """SIGKILL to all that ``victims`` finds, until it finds none; returns how many there were."""
        killed = set()
        while pids := [pid for pid in victims() if pid not in killed]:
            for pid in pids:
                _of(os.kill, pid, signal.SIGKILL)
            killed |= set(pids)
        return len(killed)

    def kill_one(self, victim: str, kind: str) -> bool:
        """Kill a victim of VICTIMS; False if there was none (any more)."""
        if victim == "everything":
            return bool(self.kill(self.processes))
        if victim == "the command":
            return self.process.poll() is None and not _of(os.kill, self.process.pid, signal.SIGKILL)
        jobs = [pid for pid, at in self.jobs().items() if at == kind]
        pids = jobs if victim == "a job" else [pid for job in jobs for pid in self.kernels(job)]
        return any(_of(os.kill, pid, signal.SIGKILL) is None for pid in pids[:1])


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdecimal())


def _is_zombie(pid: int) -> bool:
    """Dead, but not yet asked for its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "Z"
    except OSError:
        return True


def _of(function: callable, *arguments: object) -> object:
    """What the system tells of a process; None if it is gone."""
    try:
        return function(*arguments)
    except OSError:
        return False if function is os.kill else None


def _read(path: Path) -> dict:
    try:
        return {**json.loads(path.read_text()), "name": path.name}
    except (OSError, ValueError):  # it is being replaced
        return {"name": path.name}


@dataclass(frozen=True)
class Kill:
    """One kill: the kind of job that it was meant for, what was killed, the kinds that were under way, and whether the
    other processes ended by themselves."""

    kind: str
    victim: str
    hit: tuple[str, ...]
    is_all_gone: bool


@dataclass
class Outcome:
    """How a round ended. differences: from the reference. leftovers: files that should be gone."""

    kills: list[Kill]
    differences: list[str]
    leftovers: list[str] = field(default_factory=list)


def undisturbed(study: Study) -> dict[str, float]:
    """Run the study to its end; returns kind of job -> seconds that it took."""
    study.start()
    while not (begins := REPORT_BEGINS in study.log.read_text(errors="replace")) and study.process.poll() is None:
        time.sleep(0.1)
    started = time.monotonic()
    if study.finish() or not begins:
        raise SystemExit(f"the study failed without any kill:\n{study.log.read_text()}")
    seconds = {path.name[:2]: _read(path)["seconds"] for path in sorted(study.folder.glob("jobs/*.json"))}
    return seconds | {"report": time.monotonic() - started}


def kill_in(study: Study, kind: str, victim: str, wait: float) -> Kill | None:
    """Give the command, and kill once a job of that kind has been under way for ``wait`` seconds; None if there was
    nothing to kill any more."""
    study.start()
    while kind not in study.running() and study.process.poll() is None:
        time.sleep(0.02)
    until = time.monotonic() + wait
    while kind in study.running() and time.monotonic() < until:
        time.sleep(0.02)
    killed, hit = False, set()
    while not killed and study.process.poll() is None:  # a job is on record before it has a process, and a kernel
        hit = study.running()
        victim = victim if kind in hit else "everything"  # it was quicker than usual: kill just after it
        killed = study.kill_one(victim, kind)
        time.sleep(0.02)
    is_all_gone = study.finish() != STAYED
    return Kill(kind, victim, tuple(sorted(hit or {BETWEEN})), is_all_gone) if killed else None


def one_round(
    study: Study, reference: Path, kinds: Sequence[str], seconds: dict[str, float], draw: random.Random
) -> Outcome:
    """Kill a fresh study once in each of these kinds of job, run it to its end, and compare."""
    kills = []
    for kind in sorted(kinds):
        victim = draw.choice(VICTIMS)
        kills.append(kill_in(study, kind, victim, draw.uniform(0, 0.8) * seconds[kind]))
    problems = to_the_end(study, reference)
    return Outcome([kill for kill in kills if kill], problems, leftovers(study))


def to_the_end(study: Study, reference: Path) -> list[str]:
    """Give the command once more, undisturbed; returns what is wrong with what is there then."""
    study.start()
    code = study.finish()
    problems = [f"exit code {code}: {study.log.read_text()[-500:]}"] if code else []
    return problems + differences(reference, study.folder)


def differences(reference: Path, study: Path) -> list[str]:
    """What of a finished study is not as in the reference: states and configurations bit for bit but for times, tables
    in every value; and jobs that are not done, or pages that are not there. Tables are compared if there are any."""
    problems = [f"no {name}" for name in ("index.html", "results.parquet") if not (study / name).is_file()]
    files = ({path.relative_to(root) for path in root.glob("*-*/*/*")} for root in (reference, study))
    states = [{name for name in each if name.parts[1].startswith("state_")} for each in files]
    problems += [f"{name}: only in one of the two" for name in sorted(states[0] ^ states[1])]
    for name in sorted(states[0] & states[1]):
        read = timeless if name.name == "state.json" else Path.read_bytes
        problems += [f"{name} differs"] * (read(reference / name) != read(study / name))
    for path in [*reference.glob("*/config.json"), *reference.glob("*/results.parquet"), *reference.glob("*.parquet")]:
        name = path.relative_to(reference)
        read = pd.read_parquet if path.suffix == ".parquet" else timeless
        same = (study / name).is_file() and is_same(read(path), read(study / name))
        problems += [f"{name} differs"] * (not same)
    problems += [f"{path.name}: {_read(path).get('status')}" for path in study.glob("jobs/*.json") if not is_done(path)]
    return problems + [
        f"{path.name} has no page" for path in study.glob("notebooks/0[1-4]*.ipynb") if not has_page(path)
    ]


def is_same(one: object, other: object) -> bool:
    return one.equals(other) if isinstance(one, pd.DataFrame) else one == other


def is_done(record: Path) -> bool:
    return _read(record).get("status") == "done"


def has_page(notebook: Path) -> bool:
    return notebook.with_suffix(".html").is_file()


def timeless(path: Path) -> str:
    """A state.json or config.json without its times."""

    def without(value: object) -> object:
        if isinstance(value, dict):
            return {name: without(inner) for name, inner in value.items() if name not in TIMES}
        return [without(inner) for inner in value] if isinstance(value, list) else value

    return json.dumps(without(json.loads(path.read_text())), sort_keys=True)


def leftovers(study: Study) -> list[str]:
    """Files in the study's folder, and in that for temporary files, that a finished study does not have."""
    found = {path.relative_to(study.folder) for pattern in LEFTOVERS for path in study.folder.glob(pattern)}
    found |= {path.relative_to(study.folder) for path in study.folder.glob("**/*.failed.*")}
    temporary = [path.name for pattern in ("il2m-*", "pymp-*") for path in study.temporary.glob(pattern)]
    return sorted(map(str, found)) + [f"(temporary) {name}" for name in temporary]


def table(outcomes: Sequence[Outcome]) -> str:
    """Kills by kind of job and by what was killed; rounds by how they ended."""
    kills = [kill for outcome in outcomes for kill in outcome.kills]
    counts = Counter((kind, kill.victim) for kill in kills for kind in kill.hit)
    victims = sorted(set(VICTIMS))
    lines = [f"{'kills while at':16}" + "".join(f"{victim:>14}" for victim in victims) + f"{'all':>8}"]
    for kind in (*KINDS, BETWEEN):
        row = [counts[kind, victim] for victim in victims]
        lines.append(f"{kind:16}" + "".join(f"{count:14}" for count in row) + f"{sum(row):8}")
    bad = [outcome for outcome in outcomes if outcome.differences]
    lines += [f"{len(kills)} kills in {len(outcomes)} rounds: {len(outcomes) - len(bad)} ended as the reference did"]
    for outcome in bad:
        lines += [f"DIFFERENT after {outcome.kills}:", *(f"  {problem}" for problem in outcome.differences)]
    lines += [f"processes stayed for a minute after {kill}" for kill in kills if not kill.is_all_gone]
    left = Counter(_pattern(name) for outcome in outcomes for name in outcome.leftovers)
    lines += [f"left over: {count} of {pattern}" for pattern, count in sorted(left.items())]
    return "\n".join(lines)


def _pattern(name: str) -> str:
    """What a leftover is called without what is random in it."""
    if name.startswith("(temporary)"):
        return name.rpartition("-")[0] + "-*" if "-" in name else name
    path = Path(name)
    return (
        f".{path.name.split('-')[0].lstrip('.')}-*" if path.name.startswith(".") else f"*{''.join(path.suffixes[-2:])}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--per-round", type=int, default=1, help="kills in a round, each in another kind of job")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where studies lie (default: a new temporary folder)")
    parser.add_argument("--whole", action="store_true", help="the whole default study, not a short one")
    args = parser.parse_args()
    out = args.out or Path(tempfile.mkdtemp(prefix="kill-"))
    command = ["run", "quickstart", "--workers", "2"]
    command += [] if args.whole else [word for each in SMALL for word in ("-p", each)]
    outcomes = []
    try:
        for outcome in rounds(command, out, args):
            outcomes.append(outcome)
            told = [f"{kill.victim} at {'+'.join(kill.hit)}" for kill in outcome.kills] or ["nothing left to kill"]
            ended = "different" if outcome.differences else "as the reference"
            print(f"round {len(outcomes)}: {', '.join(told)}: {ended}, {len(outcome.leftovers)} left over", flush=True)
    except KeyboardInterrupt:
        pass
    print(table(outcomes))
    return 1 if any(outcome.differences for outcome in outcomes) else 0


def rounds(command: Sequence[str], out: Path, args: argparse.Namespace) -> Iterator[Outcome]:
    """The reference, and then round after round. Kinds come in a drawn order, each as often as the others."""
    study = Study(command, out / "reference", out / "t")
    try:
        seconds = undisturbed(study)
        print("reference: " + ", ".join(f"{kind} {taken:.0f} s" for kind, taken in seconds.items()), flush=True)
        draw, kinds = random.Random(args.seed), []
        for number in range(1, args.rounds + 1):
            while len(kinds) < args.per_round:
                kinds += draw.sample(KINDS, len(KINDS))
            chosen, kinds = kinds[: args.per_round], kinds[args.per_round :]
            study = Study(command, out / f"round_{number}", out / f"t{number}")
            yield one_round(study, out / "reference", chosen, seconds, draw)
    finally:
        study.kill(study.processes)


if __name__ == "__main__":
    sys.exit(main())
