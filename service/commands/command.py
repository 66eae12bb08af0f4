"""The commands that ask a running server, and `tune`, which starts some: each to its exit status.

What was asked for goes to stdout, progress and errors to stderr. Exit status 1: it did not work; 2: asked wrongly.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import TypeAdapter
from pydantic_settings import CliSubCommand
from tqdm import tqdm

from bundle.accuracy import Accuracy, table
from bundle.beside import write_text
from bundle.errors import BundleError, LabelledError
from service.client import ClientError
from service.commandline import Commands, parse
from service.commands.bulk import ClassifyJob, classify_files
from service.commands.evaluate import Evaluated, EvaluateJob, evaluate
from service.commands.loadtest import LoadtestJob, load_test
from service.commands.output import OutputError
from service.commands.paths import take_paths
from service.commands.tune import TuneJob, tune, write
from service.loadtest.report import Report
from service.settings import Settings
from service.tune.edit import edited
from service.tune.server import TuneError


class Command(Commands):
    """Serve Multicrop bundles."""

    run: CliSubCommand[Settings]
    """Known here for `--help`; `service.__main__` runs it."""
    classify: CliSubCommand[ClassifyJob]
    evaluate: CliSubCommand[EvaluateJob]
    loadtest: CliSubCommand[LoadtestJob]
    tune: CliSubCommand[TuneJob]


def main(arguments: Sequence[str]) -> int:
    """The command's exit status."""
    words, paths = take_paths(arguments)
    job = parse(Command, words)
    if job is None:
        return 2
    return _COMMANDS[type(job)](job.model_copy(update={"paths": paths}) if paths else job)


def _classify(job: ClassifyJob) -> int:
    """What was answered is written however it ends."""
    try:
        with job.client() as client:
            done = classify_files(job, client)
    except (ClientError, OutputError) as error:
        print(f"multicrop-service: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"multicrop-service: {job.out or 'the output'} cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        further = f"; the same command goes on with {job.out}" if job.out else ""
        print(f"multicrop-service: interrupted{further}", file=sys.stderr)
        return 130
    before = f", {done.before} had an answer before" if done.before else ""
    print(f"multicrop-service: {done.answered} answered, {done.failed} failed{before}", file=sys.stderr)
    return 1 if done.failed else 0


def _evaluate(job: EvaluateJob) -> int:
    """What was finished is told however it ends."""
    finished: list[Evaluated] = []
    try:
        with job.client() as client:
            for evaluated in evaluate(job, client):
                finished.append(evaluated)  # noqa: PERF402 one at a time: the next plan may fail
        status = 0
    except (ClientError, LabelledError) as error:
        print(f"multicrop-service: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("multicrop-service: interrupted; what the server works on is waited for", file=sys.stderr)
        status = 130
    return _tell(job, finished) or status


def _tell(job: EvaluateJob, finished: list[Evaluated]) -> int:
    """Prints and writes the figures; 1 when they cannot be written."""
    if not finished:
        return 0
    results = [evaluated.accuracy for evaluated in finished]
    print(f"{job.model}, {results[0].images} images of {results[0].data} (sha256:{results[0].data_sha256})")
    print(table(results))
    for evaluated in finished:
        if evaluated.refused:
            counted = "image was refused and counts" if evaluated.refused == 1 else "images were refused and count"
            print(f"{evaluated.accuracy.views}: {evaluated.refused} {counted} as wrong")
    try:
        if job.as_json:
            write_text(job.as_json, TypeAdapter(list[Accuracy]).dump_json(results, indent=1).decode() + "\n")
    except OSError as error:
        print(f"multicrop-service: {job.as_json} cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _loadtest(job: LoadtestJob) -> int:
    """What was measured is told however it ends."""
    try:
        report = load_test(job)
    except (ClientError, OutputError) as error:
        print(f"multicrop-service: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        report = None
    if report is None:
        print("multicrop-service: interrupted before anything was measured", file=sys.stderr)
        return 130
    print(report.text())
    return _write_report(job, report) or (130 if report.interrupted else 0)


def _write_report(job: LoadtestJob, report: Report) -> int:
    """1 when a file cannot be written."""
    path = job.as_json
    try:
        if path:
            write_text(path, report.model_dump_json(indent=1) + "\n")
        if path := job.page:
            from service.loadtest.page import to_html  # noqa: PLC0415 it needs the extra `page`

            write_text(path, to_html(report))
    except OSError as error:
        print(f"multicrop-service: {path} cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _tune(job: TuneJob) -> int:
    """Writes nothing unless all was measured."""
    try:
        tuned = tune(job, tqdm.write)
        for sentence in tuned.said:
            print(sentence)
        if not tuned.changes:
            print(f"{job.model}/serving.toml stays as it is")
            return 0
        if not job.dry_run:
            write(job, tuned)
        print(f"{'would write' if job.dry_run else 'written'} into {job.model}/serving.toml:")
        print(edited("", tuned.changes).rstrip() or f"nothing but: {', '.join(tuned.changes)} left out")
    except (TuneError, BundleError, OutputError) as error:
        print(f"multicrop-service: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"multicrop-service: {error.filename or job.model} cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("multicrop-service: interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


_COMMANDS: dict[type, Callable[[Any], int]] = {
    ClassifyJob: _classify,
    EvaluateJob: _evaluate,
    LoadtestJob: _loadtest,
    TuneJob: _tune,
}
