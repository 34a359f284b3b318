#!/usr/bin/env python3
"""Runs strata on thousands of hostile inputs and at hostile moments, and judges every run by rules.

    drive.py STRATA TINY_CHECKPOINT WORK [--runs N] [--seed S] [--only KIND,...] [--minutes M] [--list]
    drive.py STRATA TINY_CHECKPOINT WORK --replay SEED [--keep]

Each kind is a function of the modules `*_inputs.py`, `moments.py` and `surroundings.py`. A case is the kind with a seed and a number, as
`tokenizer/1/17`, and is made again by --replay; the same seed gives the same inputs, moments excepted. A finding is a line: kind, seed,
rule, exit code, command, message. Exit 1 if there are findings. Only the standard library is needed; Linux only.
"""
import argparse
import collections
import os
import resource
import shutil
import sys
import time

import argument_inputs
import checkpoint_inputs
import gguf_inputs
import matrix_inputs
import moments
import output_inputs
import surroundings
import text_inputs
import tokenizer_inputs
from case import Case, Settings
from fixtures import Fixtures

MODULES = (gguf_inputs, checkpoint_inputs, tokenizer_inputs, matrix_inputs, text_inputs, argument_inputs, output_inputs, moments, surroundings)
# The share of the runs that a kind gets: the function and its weight.
KINDS = {name.replace("_", "-"): entry for module in MODULES for name, entry in module.KINDS.items()}
SHOWN_OF_A_KIND = 4


def main():
    """Reads the command line, drives, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("strata")
    parser.add_argument("tiny")
    parser.add_argument("work")
    parser.add_argument("--runs", type=int, default=3000, help="runs of strata, over all kinds")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--only", default="", help="kinds, separated by commas")
    parser.add_argument("--minutes", type=float, default=0, help="end after so long, whatever is left of the runs")
    parser.add_argument("--replay", help="the seed of one case, as the line of a finding has it")
    parser.add_argument("--keep", action="store_true", help="leave the case's folder for a look (with --replay)")
    parser.add_argument("--all", action="store_true", help="print every finding, not only the first few of those that are alike")
    parser.add_argument("--list", action="store_true", help="print the kinds")
    parser.add_argument("--jobs", type=int, default=1, choices=[1], help="one process at a time")
    parser.add_argument("--seconds", type=float, default=10, help="a run that takes longer hangs")
    parser.add_argument("--peak-mb", type=int, default=700, help="a run that takes more memory is a finding")
    options = parser.parse_args()
    if options.list:
        for name, (function, weight) in KINDS.items():
            print(f"{name:20} {weight:3}  {function.__doc__.splitlines()[0]}")
        return 0
    names = [name for name in options.only.split(",") if name] or list(KINDS)
    unknown = [name for name in names if name not in KINDS]
    if unknown:
        parser.error(f"--only: no kind is named {', '.join(unknown)}; --list shows them")
    os.nice(15)
    settings = Settings(os.path.abspath(options.strata), options.seconds, options.peak_mb)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (settings.space_mb << 20, resource.getrlimit(resource.RLIMIT_AS)[1]))
    os.environ.pop("RUST_BACKTRACE", None)
    work = os.path.abspath(options.work)
    fixtures = Fixtures(settings.strata, os.path.abspath(options.tiny), os.path.join(work, "fixtures"))
    driver = Driver(settings, fixtures, work, options.all)
    if options.replay:
        kind, seed, number = options.replay.rsplit("/", 2)
        driver.case(kind, seed, int(number))
    else:
        driver.all(names, options.seed, options.runs, options.minutes)
    driver.table()
    if not options.keep:
        shutil.rmtree(os.path.join(work, "case"), ignore_errors=True)
    return 1 if driver.findings else 0


class Driver:
    """Goes through the kinds, prints findings as they come, and counts."""

    def __init__(self, settings, fixtures, work, show_all):
        self.settings, self.fixtures, self.work, self.show_all = settings, fixtures, work, show_all
        self.runs, self.cases, self.findings = collections.Counter(), collections.Counter(), collections.Counter()
        self.alike, self.begun = collections.Counter(), time.monotonic()

    def all(self, names, seed, runs, minutes):
        """Always the kind that lags most behind its share."""
        while sum(self.runs.values()) < runs and not (minutes and time.monotonic() - self.begun > minutes * 60):
            kind = min(names, key=lambda name: self.runs[name] / KINDS[name][1])
            self.case(kind, seed, self.cases[kind])

    def case(self, kind, seed, number):
        """One case; what goes wrong in the driver itself is said and counts as a finding."""
        case = Case(self.settings, self.fixtures, os.path.join(self.work, "case"), kind, seed, number)
        self.cases[kind] += 1
        try:
            KINDS[kind][0](case)
        except Exception as error:  # noqa: BLE001: a fault of the driver must not end a long run
            at = error.__traceback__
            while at.tb_next:
                at = at.tb_next
            where = f"{os.path.basename(at.tb_frame.f_code.co_filename)}:{at.tb_lineno}"
            case.fault("driver", None, f"{where}: {type(error).__name__}: {error}", [])
        self.runs[kind] += max(case.runs, 1)
        for finding in case.findings:
            self.findings[kind] += 1
            self.alike[finding.signature()] += 1
            if self.show_all or self.alike[finding.signature()] <= SHOWN_OF_A_KIND:
                print(finding.line(), flush=True)

    def table(self):
        """What was run and found, by kind."""
        seconds, total = time.monotonic() - self.begun, sum(self.runs.values())
        print(f"\n{'kind':20} {'cases':>7} {'runs':>7} {'findings':>9} {'sorts':>6}")
        for kind in self.runs:
            sorts = sum(1 for signature in self.alike if signature[0] == kind)
            print(f"{kind:20} {self.cases[kind]:7} {self.runs[kind]:7} {self.findings[kind]:9} {sorts:6}")
        print(f"{'all':20} {sum(self.cases.values()):7} {total:7} {sum(self.findings.values()):9} {len(self.alike):6}")
        print(f"{seconds:.0f} s, {total / max(seconds, 1e-9) * 60:.0f} runs per minute")
        if self.findings:
            print("replay one:", " ".join(sys.argv[:4]), "--replay SEED --keep")


if __name__ == "__main__":
    sys.exit(main())
