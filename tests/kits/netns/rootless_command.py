"""``rootless_command NODE CMD ARGS…``: a command in namespaces of its own.

What ``run`` does, without a tunnel: the TUN is there, and is not read. Errors are printed as
``TypeName: message``, exit code 99.
"""

from __future__ import annotations

import sys

import trio

from zks_lwip.errors import CommandError, ZksError
from zks_lwip.host.rootless.spawn import Rootless, spawn


async def command(rootless: Rootless, argv: list[str]) -> int:
    rootless.start(argv)
    return await rootless.wait()


def main(argv: list[str]) -> int:
    try:
        with spawn(node=argv[0]) as rootless:
            return trio.run(command, rootless, argv[1:])
    except CommandError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except ZksError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 99


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
