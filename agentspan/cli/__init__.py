"""The command line: argv to runtime calls and back. `docs/cli.md` says what it promises.

`main` puts the commands together; each of the other modules holds a few of them, or one job they share. Nothing that is
slow to import (pydantic, the runtime, Ray) is imported before a command needs it.
"""
