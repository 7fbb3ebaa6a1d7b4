"""Every error AgentSpan raises, in one tree.

An error says what happened, to which execution, and what to do next. Its facts are attributes, so that nobody has to
parse the text, and it survives the trip between processes: it pickles by its facts alone.
"""

from __future__ import annotations

from string import Formatter
from typing import Any, ClassVar

from agentspan.wording import a


def _rebuild(cls: type[AgentspanError], facts: dict[str, Any]) -> AgentspanError:
    return cls(**facts)


class _Words(Formatter):
    """`{noun:a}` is the noun with its article."""

    def format_field(self, value: Any, format_spec: str) -> Any:
        return a(str(value)) if format_spec == "a" else super().format_field(value, format_spec)


_WORDS = _Words()


class AgentspanError(Exception):
    """The base of every AgentSpan error. `str(error)` is the sentence for people; `error.facts` the data."""

    template: ClassVar[str] = "{message}"

    def __init__(self, **facts: Any) -> None:
        self.facts = facts
        for name, value in facts.items():
            setattr(self, name, value)
        super().__init__(_WORDS.format(self.template, **facts))

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.facts)

    def __getattr__(self, name: str) -> Any:
        # Only reached for a fact that was not given: facts are open-ended, so type checkers see Any.
        raise AttributeError(f"{type(self).__name__} has no fact {name!r}")


# --- the caller's mistakes: refused before anything happened -------------------------------------------------------


class ConfigurationError(AgentspanError, ValueError):
    """A definition or a setting cannot be used as given."""

    template = "{problem}"


class ToolDefinitionError(ConfigurationError):
    """A function cannot become a tool."""

    template = "Tool {tool!r} cannot be defined: {problem}"


class ToolArgumentsError(AgentspanError, ValueError):
    """The arguments a model gave for a tool do not fit, so the tool was not run. The text is written for the model.

    `problems` maps each bad argument (its path, `items[0].price`) to what is wrong with it; `""` is the whole.
    """

    template = (
        "The arguments for tool {tool!r} do not fit, so it was not run.\n{listing}\n{accepted}\n"
        "Call {tool!r} again with arguments that fit."
    )


class ToolResourcesError(AgentspanError):
    """A tool asks for more than any node of the cluster has, so its call cannot run."""

    template = (
        "Tool {tool!r} asks for {needs}, and no node of the cluster has so much. There are nodes with: {nodes}. "
        "Ask for less, or add a node; AGENTSPAN_RESOURCES_WAIT_S says how long a call waits for one."
    )


class ToolLostError(AgentspanError):
    """The process that ran a tool call died. The execution goes on."""

    template = "The process that ran tool {tool!r} died ({problem}); whether the call took effect is unknown."


class OutputFormatError(AgentspanError, ValueError):
    """A model's answer does not fit the agent's `output_type`. The text is written for the model.

    `problems` maps the path of each bad field to what is wrong with it; `""` is the whole answer.
    """

    template = (
        "The answer does not fit the required format {output!r}.\n{listing}\n"
        "Answer again with JSON that fits the schema, and nothing else."
    )


class InvalidPromptError(AgentspanError, TypeError):
    """The prompt is not text, a list of chat messages, or (for graphs) a state."""

    template = "The prompt for agent {agent!r} is {found:a}; pass {expected}."


class UnknownExecutionError(AgentspanError, LookupError):
    """No execution has this ID (or short ID) in this store."""

    template = (
        "There is no execution {execution_id!r} in this store. `agent-span list` shows the ones that are; "
        "check that AGENTSPAN_HOME points to the store it was started in."
    )


class AmbiguousExecutionError(AgentspanError, LookupError):
    """A short ID fits several executions."""

    template = "{execution_id!r} fits several executions: {candidates}. Give more characters."


class AgentNotFoundError(AgentspanError, LookupError):
    """No agent is deployed under this name."""

    template = "No agent named {agent!r} is deployed here. {hint}Deploy it with runtime.deploy(agent), or pass the Agent itself."


class ExecutionFinishedError(AgentspanError):
    """The execution has ended, so it can take no more signals."""

    template = "Execution {execution_id!r} ended as {status}; it cannot take {signal!r} any more. Start a new one."


class UnheardSignalError(AgentspanError):
    """What runs is a graph, which takes neither messages nor notes; nothing was stored."""

    template = (
        "Execution {execution_id!r} runs {agent!r}, a graph, and nothing in a graph would hear this {signal}, so it was not "
        "accepted. Where a node is to hear from people, let it ask with `interrupt()`, and answer with `handle.respond()`; "
        "to go on with a conversation, start the graph again with the same `session_id`."
    )


class DecisionError(AgentspanError):
    """A decision could not be accepted; nothing was changed."""


class NothingPendingError(DecisionError):
    """Nothing of this execution waits for a person."""

    template = (
        "Execution {execution_id!r} is {status} and waits for no decision, so {signal!r} was not accepted. "
        "get_status().pending lists what waits."
    )


class UnknownCallError(DecisionError, LookupError):
    """The decision names a call that does not wait."""

    template = (
        "No call {call_id!r} of execution {execution_id!r} waits for a decision. Waiting now: {pending}. "
        "Nothing was decided."
    )


class AmbiguousDecisionError(DecisionError):
    """Several calls wait and the decision does not say which one it is for."""

    template = "{count} calls of execution {execution_id!r} wait: {pending}. Say which: {signal}(call_id=…)."


class DecisionMismatchError(DecisionError):
    """The arguments the person saw are not the arguments of the call (P6)."""

    template = (
        "The arguments shown for call {call_id!r} of execution {execution_id!r} (hash {shown}) are not the ones it "
        "would run with (hash {held}). Read get_status() again and decide on what it shows now."
    )


class InvalidDecisionError(DecisionError, ValueError):
    """The answer does not fit what was asked."""

    template = "The answer for call {call_id!r} of execution {execution_id!r} was refused: {problem}. It still waits."


# --- the store -----------------------------------------------------------------------------------------------------


class PersistenceError(AgentspanError):
    """The store refused or could not do something."""


class StaleEpochError(PersistenceError):
    """A newer incarnation owns the execution. Stop; do not retry."""

    template = (
        "Write to execution {execution_id!r} refused: it came from epoch {offered}, but epoch {held} owns the "
        "execution. Stop this incarnation; the owner carries on."
    )


class SequenceConflictError(PersistenceError):
    """Two different records claim the same place in a journal: a broken invariant, not a race to retry."""

    template = (
        "Execution {execution_id!r} already holds other records at seq {seq} (its journal ends at {held}). "
        "Stop this incarnation and let the supervisor load the state again."
    )


class CorruptRecordError(PersistenceError):
    """A stored row fails its check. The execution is quarantined; the others go on (P11)."""

    template = (
        "The stored {what} of execution {execution_id!r} cannot be trusted: {problem}. The execution is quarantined "
        "and will not run. Restore the row from a backup, then call runtime.resume() or `agent-span resume` on it."
    )


class StoreVersionError(PersistenceError):
    """The store was written by a newer AgentSpan."""

    template = (
        "The store at {where} has schema version {found}; this AgentSpan knows versions up to {known}. "
        "Upgrade agentspan, or point AGENTSPAN_HOME elsewhere. Nothing was changed."
    )


class StoreUnavailableError(PersistenceError):
    """The store did not answer; the outcome is unknown. A write is idempotent: send it again."""

    template = (
        "The store at {where} did not answer: {problem}. The outcome is unknown; the same write may be sent again."
    )


class UnstorableValueError(PersistenceError, TypeError):
    """A value is not plain data, so it cannot be recorded."""

    template = "{path} is {found:a}, which cannot be recorded. Return JSON data: {hint}"


# --- code on the cluster -------------------------------------------------------------------------------------------


class DeploymentError(AgentspanError):
    """An agent's code could not be stored, shipped or loaded."""


class UnshippableCodeError(DeploymentError, TypeError):
    """Something the agent refers to cannot leave this process, or must not.

    `culprit` is a clause (`tool 'refund' refers to the global 'lock' (a _thread.lock)`), `problem` a sentence about it.
    """

    template = "Agent {agent!r} cannot be deployed: {culprit}. {problem}. {remedy}"

    def __init__(
        self,
        *,
        remedy: str = "Create it inside the tool, or put the agent into an installed module so that it is deployed by "
        "reference.",
        **facts: Any,
    ) -> None:
        super().__init__(remedy=remedy, **facts)


class UntrustedCodeError(DeploymentError):
    """Stored code does not carry this server's signature, so it was not loaded."""

    template = (
        "The code of deployment {deployment_id!r} (agent {agent!r}) is not signed with this server's key, or was altered. "
        "It was not loaded. Deploy the agent again."
    )


class CodeMismatchError(DeploymentError):
    """Code shipped by value was made by another Python."""

    template = (
        "Deployment {deployment_id!r} of agent {agent!r} was made by Python {made_by}; this server runs {found}. "
        "Deploy it from Python {found}, or install its module so that it is deployed by reference."
    )


class CodeMissingError(DeploymentError):
    """An installed module that a deployment refers to is not installed here, or is another version without the name."""

    template = (
        "Deployment {deployment_id!r} of agent {agent!r} refers to {what}, which cannot be imported here: {problem}. "
        "Install it on every node."
    )


# --- models --------------------------------------------------------------------------------------------------------


class ModelError(AgentspanError):
    """A model call failed for good: a retry cannot help."""

    template = "Model {model!r} refused the call: {problem}"


class ModelNotFoundError(ModelError, LookupError):
    """The model name or its provider is not known, or its key is not set."""

    template = "Model {model!r} cannot be used: {problem}"


class ModelAuthError(ModelError):
    """The provider refused the key."""

    template = "Model {model!r}: the provider refused the key in {key_variable} (HTTP {status}). {problem}"


class ModelRetryableError(ModelError):
    """A passing failure (429, 5xx, timeout, lost connection). `retry_after_s` is what the provider asked for, or None."""

    template = "Model {model!r} is not answering for now: {problem}"


class ModelReplyError(ModelError):
    """The provider answered with something that is not a chat completion."""

    template = "Model {model!r} sent a reply that cannot be used: {problem}"


# --- the server and its clients ------------------------------------------------------------------------------------


class ServerError(AgentspanError):
    """The server could not be reached or started."""


class ServerUnavailableError(ServerError, ConnectionError):
    """No server answers. Nothing that was acknowledged is lost."""

    template = "No AgentSpan server answers at {where}: {problem}"


class AuthenticationError(ServerError, PermissionError):
    """A Ray cluster does not take this process's token. Nothing was done."""

    template = (
        "The Ray cluster at {where} does not take this process's token: {source}. Copy `ray.token` from the home of the "
        "cluster's server to this home, or set RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN) to the cluster's token."
    )


class ServerGoneError(ServerUnavailableError):
    """The server that this process was connected to has ended. A runtime looks for the next one by itself."""


class ServerTimeoutError(ServerError, TimeoutError):
    """A deadline passed before the answer came. The execution is left alone."""

    template = (
        "{what} did not come within {timeout_s} s. Execution {execution_id!r} was left alone; ask again any time."
    )


class RuntimeClosedError(ServerError):
    """The runtime was shut down."""

    template = "This AgentRuntime was shut down. Make a new one; executions are not affected."


class ThreadOwnedError(AgentspanError):
    """A thread belongs to an execution, so only that may write it."""

    template = (
        "Thread {thread_id!r} belongs to the execution of that ID, and only the execution may change it. "
        "Use another thread_id, or `handle.fork()` to go on from one of its states."
    )


class UnstorableStateError(AgentspanError, TypeError):
    """A value in a graph's state is not data that can be stored. `path` says where it is, `$.messages[3].artifact`."""

    template = "The graph's state cannot be stored: {path} is {found}, {problem}. {remedy}"


class UnknownStateTypeError(AgentspanError):
    """Stored state holds a type that this graph does not declare, so it is not loaded."""

    template = (
        "Stored state cannot be loaded: {path} is of type {found}, which this graph does not declare. If the type was "
        "renamed or removed, bring it back, or deploy the graph with types=[...]."
    )


class UnexpectedRecordError(AgentspanError):
    """A record does not fit the state it meets: a broken invariant. The incarnation stops."""

    template = "Execution {execution_id!r} at seq {seq}: record {kind!r} does not fit its state: {problem}"


class TerminalToolError(AgentspanError):
    """Raise it in a tool to say that trying again cannot help: no retry, the model hears the message."""

    def __init__(self, message: str = "", **facts: Any) -> None:
        super().__init__(message=message, **facts)
