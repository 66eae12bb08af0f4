"""multicrop-service

What was asked for goes to stdout, progress and errors to stderr. Exit status 1: it did not work; 2: asked wrongly.
"""

import sys
from collections.abc import Sequence

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_settings import CliApp, CliSubCommand, SettingsConfigDict

from bundle.accuracy import Accuracy, table
from bundle.beside import write_text
from bundle.errors import LabelledError
from service.client import ClientError
from service.commands.bulk import ClassifyJob, classify_files, take_paths
from service.commands.evaluate import Evaluated, EvaluateJob, evaluate
from service.commands.output import OutputError
from service.settings import Settings


class Command(BaseModel):
    """Serve Multicrop bundles."""

    model_config = SettingsConfigDict(
        cli_prog_name="multicrop-service",
        env_prefix="MULTICROP_COMMAND_",
        cli_enforce_required=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
    )

    run: CliSubCommand[Settings]
    classify: CliSubCommand[ClassifyJob]
    evaluate: CliSubCommand[EvaluateJob]


def main(argv: Sequence[str] | None = None) -> int:
    """The command's exit status."""
    arguments, paths = take_paths(sys.argv[1:] if argv is None else argv)
    try:
        command = CliApp.run(Command, cli_args=arguments)
    except ValidationError as error:
        for problem in error.errors():
            where, said = ".".join(map(str, problem["loc"])), problem["msg"].removeprefix("Value error, ")
            print(f"multicrop-service: {where}: {said}", file=sys.stderr)
        return 2
    if command.run is not None:
        return _serve(command.run)
    if command.classify is not None:
        return _classify(command.classify.model_copy(update={"paths": paths}))
    if command.evaluate is not None:
        return _evaluate(command.evaluate)
    print("multicrop-service: say what to do, for example: multicrop-service run", file=sys.stderr)
    return 2


def _serve(settings: Settings) -> int:
    from service.app import create_app  # noqa: PLC0415 a client needs no server
    from service.auth import KeyFileError  # noqa: PLC0415 as above
    from service.logs import configure  # noqa: PLC0415 as above
    from service.server import Server  # noqa: PLC0415 as above

    configure(settings.log_format)
    if not settings.repository.is_dir():
        print(
            f"multicrop-service: there is no repository {settings.repository}; name it with --repository",
            file=sys.stderr,
        )
        return 2
    try:
        server = Server(create_app(settings), settings)
    except KeyFileError as error:
        print(f"multicrop-service: {error}", file=sys.stderr)
        return 2
    server.run()
    return 0 if server.started else 1


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


if __name__ == "__main__":
    sys.exit(main())
