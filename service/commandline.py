"""From words to a job: what the command line has in common, whichever command it is."""

import sys
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_settings import CliApp, SettingsConfigDict, get_subcommand


class Commands(BaseModel):
    """Serve Multicrop bundles."""

    model_config = SettingsConfigDict(
        cli_prog_name="multicrop-service",
        env_prefix="MULTICROP_COMMAND_",
        cli_enforce_required=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
    )


def parse(commands: type[Commands], arguments: Sequence[str]) -> Any:
    """The job of the command that the words begin with; None where they are wrong, which stderr was told."""
    try:
        job = get_subcommand(CliApp.run(commands, cli_args=list(arguments)), is_required=False)
    except ValidationError as error:
        for problem in error.errors():
            where, said = ".".join(map(str, problem["loc"])), problem["msg"].removeprefix("Value error, ")
            print(f"multicrop-service: {where}: {said}", file=sys.stderr)
        return None
    if job is None:
        print("multicrop-service: say what to do, for example: multicrop-service run", file=sys.stderr)
    return job
