"""The command line: `multicrop-export freeze|train ...`.

Progress goes to stderr, the bundle's folder and a summary to stdout. Exit status 1: it did not work; 2: asked wrongly.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    CliApp,
    CliSubCommand,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    get_subcommand,
)

from bundle.errors import BundleError, LabelledError
from bundle.store import open_bundle
from export.errors import ExportError
from export.jobs import (
    BatchJob,
    CalibrateJob,
    CheckJob,
    DescribeJob,
    EvaluateJob,
    FetchJob,
    FiltersJob,
    FreezeJob,
    FrontierJob,
    LearnWeightsJob,
    ListJob,
    QuantizeJob,
    WeightsJob,
)
from export.restore.job import RestorationJob, RestoreJob
from export.train.job import CurvesJob, TrainJob

Asked = EvaluateJob | CalibrateJob | LearnWeightsJob
"""Of a bundle, with labelled images."""

Public = ListJob | FetchJob | CheckJob
"""Of public weights."""

Told = BatchJob | DescribeJob | FiltersJob | Public | Asked | QuantizeJob | FrontierJob | RestorationJob | CurvesJob
"""What has an answer of its own."""


class Cli(BaseSettings):
    """Turns a CNN checkpoint into a verified ONNX bundle."""

    model_config = SettingsConfigDict(
        cli_prog_name="multicrop-export",
        cli_enforce_required=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
        cli_kebab_case=True,
    )

    freeze: CliSubCommand[FreezeJob]
    train: CliSubCommand[TrainJob]
    curves: CliSubCommand[CurvesJob]
    batch: CliSubCommand[BatchJob]
    describe: CliSubCommand[DescribeJob]
    filters: CliSubCommand[FiltersJob]
    weights: CliSubCommand[WeightsJob]
    evaluate: CliSubCommand[EvaluateJob]
    calibrate: CliSubCommand[CalibrateJob]
    learn_weights: CliSubCommand[LearnWeightsJob]
    quantize: CliSubCommand[QuantizeJob]
    frontier: CliSubCommand[FrontierJob]
    restore: CliSubCommand[RestoreJob]

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 the signature is pydantic-settings'
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 likewise
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 likewise
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 likewise
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The command line alone: a variable of the environment that happens to be called `train` means nothing."""
        return (init_settings,)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: without the program's name; the process's own when None.

    Returns:
        The exit status.
    """
    try:
        cli = CliApp.run(Cli, cli_args=sys.argv[1:] if argv is None else list(argv))
        job = get_subcommand(cli, is_required=False)
        if isinstance(job, WeightsJob | RestoreJob):
            job = get_subcommand(job, is_required=False)
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            option = ".".join(map(str, problem["loc"][1:] or problem["loc"])) or "command"
            said = problem["msg"].removeprefix("Value error, ")
            if said.startswith("Input should be") and isinstance(problem["input"], str | float | int):
                said += f", not {problem['input']!r:.40}"
            print(f"multicrop-export: {option}: {said}", file=sys.stderr)
        return 2
    if not isinstance(job, FreezeJob | TrainJob | Told):
        print("multicrop-export: say what to do, for example freeze or train; --help lists all", file=sys.stderr)
        return 2
    _show_progress()
    try:
        if isinstance(job, Told):
            return _tell(job)
        folder = _run(job)
    except (ExportError, BundleError, LabelledError, OSError) as error:
        print(f"multicrop-export: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("multicrop-export: interrupted; what was published is whole", file=sys.stderr)
        return 130
    print(_summary(folder))
    return 0


def _run(job: FreezeJob | TrainJob) -> Path:
    from export import pipeline  # noqa: PLC0415 torch takes seconds to import, and --help does not need it

    return pipeline.train(job) if isinstance(job, TrainJob) else pipeline.freeze(job)


def _tell(job: Told) -> int:
    """Prints what a command answers that has an answer of its own; the exit status."""
    if isinstance(job, BatchJob):
        from export import batch  # noqa: PLC0415 as above

        report = batch.run(job)
        print(report.table())
        return 1 if report.count("failed") else 0
    if isinstance(job, FrontierJob):
        from export import frontier  # noqa: PLC0415 as above

        found = frontier.run(job)
        print(found.text())
        return 1 if found.answer and not found.answer.met else 0
    if isinstance(job, Public):
        from export import download  # noqa: PLC0415 as above

        print("\n".join(download.answer(job)))
    elif isinstance(job, DescribeJob):
        from export import outline  # noqa: PLC0415 as above

        print(outline.tell(job))
    elif isinstance(job, QuantizeJob):
        from export.quantize import command  # noqa: PLC0415 as above

        print(command.tell(job))
    elif isinstance(job, RestorationJob):
        from export.restore import command as restore  # noqa: PLC0415 as above

        print(restore.tell(job))
    elif isinstance(job, CurvesJob):
        from export.train import curves  # noqa: PLC0415 as above

        print(curves.tell(job))
    elif isinstance(job, Asked):
        print(_ask(job))
    else:
        from export import filters  # noqa: PLC0415 as above

        print(filters.write_filters(job))
    return 0


def _ask(job: Asked) -> str:
    """What labelled images say about a bundle."""
    from export import calibrate, evaluations, learn  # noqa: PLC0415 as above

    if isinstance(job, CalibrateJob):
        return calibrate.tell(job)
    if isinstance(job, LearnWeightsJob):
        return learn.tell(job)
    return evaluations.tell(job)


def _show_progress() -> None:
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("export").setLevel(logging.INFO)


def _summary(folder: Path) -> str:
    bundle = open_bundle(folder.parent.parent, folder.parent.name, int(folder.name))
    manifest = bundle.manifest
    cases = manifest.parity.cases
    relative, absolute = max(case.max_rel for case in cases), max(case.max_abs for case in cases)
    agreement = min(case.top1_agreement for case in cases)
    parity = f"{relative:.1e} ({manifest.parity.tolerance:.0e} allowed), {absolute:.1e} absolute, top-1 {agreement:.0%}"
    lines = [
        str(folder),
        f"parity {parity}, {manifest.folding.layers} BatchNorm folded",
        f"sha256:{bundle.digest}",
    ]
    scores = (f"{e.views} {e.top1}/{e.images} = {e.top1 / e.images:.2%}" for e in manifest.evaluations)
    lines[2] += "".join(f", {score}" for score in scores)
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
