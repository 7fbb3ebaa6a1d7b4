"""What the process's exit code says. One table, for the commands and for `docs/cli.md`."""

from __future__ import annotations

from enum import IntEnum

import agentspan.errors as errors


class ExitCode(IntEnum):
    """Exit codes of every command."""

    OK = 0
    FAILED = 1
    """The execution did not complete, or a check failed."""
    USAGE = 2
    """The command line, a setting, or the agent's definition cannot be used. Nothing happened."""
    NOT_FOUND = 3
    """No such execution or agent."""
    REFUSED = 4
    """Nothing waits, the decision does not fit, or the execution has ended. Nothing was changed."""
    UNAVAILABLE = 5
    """No server (or store) answers."""
    TIMEOUT = 124
    """The time to wait was up; the execution goes on. As `timeout(1)`."""
    INTERRUPTED = 130
    """Ctrl-C; an execution that was being watched goes on."""
    CLOSED_PIPE = 141
    """Whoever read the output went away, as in `agent-span stream … | head`."""


_CODES: tuple[tuple[type[errors.AgentspanError], ExitCode], ...] = (
    (errors.UnknownExecutionError, ExitCode.NOT_FOUND),
    (errors.AgentNotFoundError, ExitCode.NOT_FOUND),
    (errors.AmbiguousExecutionError, ExitCode.USAGE),
    (errors.DecisionError, ExitCode.REFUSED),
    (errors.ExecutionFinishedError, ExitCode.REFUSED),
    (errors.UnheardSignalError, ExitCode.REFUSED),
    (errors.ServerTimeoutError, ExitCode.TIMEOUT),
    (errors.ServerError, ExitCode.UNAVAILABLE),
    (errors.StoreUnavailableError, ExitCode.UNAVAILABLE),
    (errors.ConfigurationError, ExitCode.USAGE),
    (errors.InvalidPromptError, ExitCode.USAGE),
    (errors.DeploymentError, ExitCode.USAGE),
    (errors.UnstorableValueError, ExitCode.USAGE),
)
"""The first class that fits counts."""


def exit_code(problem: errors.AgentspanError) -> ExitCode:
    """The code for an error; FAILED for what the table does not name."""
    return next((code for kind, code in _CODES if isinstance(problem, kind)), ExitCode.FAILED)
