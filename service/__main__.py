"""multicrop-service"""

import sys
from collections.abc import Sequence

from pydantic_settings import CliSubCommand

from service.commandline import Commands, parse
from service.settings import Settings


class Run(Commands):
    """Serve Multicrop bundles."""

    run: CliSubCommand[Settings]


def main(argv: Sequence[str] | None = None) -> int:
    """The command's exit status. A server imports nothing of the other commands, nor they anything of it."""
    arguments = sys.argv[1:] if argv is None else argv
    if list(arguments[:1]) == ["run"]:
        settings = parse(Run, arguments)
        return 2 if settings is None else _serve(settings)
    from service.commands.command import main as others  # noqa: PLC0415 a server has no use for them

    return others(arguments)


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


if __name__ == "__main__":
    sys.exit(main())
