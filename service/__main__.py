"""multicrop-service"""

import logging
import sys
from collections.abc import Sequence

from pydantic import BaseModel, ValidationError
from pydantic_settings import CliApp, CliSubCommand, SettingsConfigDict

from service.app import create_app
from service.server import Server
from service.settings import Settings


class Command(BaseModel):
    """Serve Multicrop bundles."""

    model_config = SettingsConfigDict(cli_prog_name="multicrop-service", env_prefix="MULTICROP_COMMAND_")

    run: CliSubCommand[Settings]


def main(argv: Sequence[str] | None = None) -> int:
    """The command's exit status."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        command = CliApp.run(Command, cli_args=list(sys.argv[1:] if argv is None else argv))
    except ValidationError as error:
        for problem in error.errors():
            print(f"multicrop-service: {'.'.join(map(str, problem['loc']))}: {problem['msg']}", file=sys.stderr)
        return 2
    if command.run is None:
        print("multicrop-service: say what to do, for example: multicrop-service run", file=sys.stderr)
        return 2
    return _serve(command.run)


def _serve(settings: Settings) -> int:
    if not settings.repository.is_dir():
        print(
            f"multicrop-service: there is no repository {settings.repository}; name it with --repository",
            file=sys.stderr,
        )
        return 2
    server = Server(create_app(settings), settings)
    server.run()
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
