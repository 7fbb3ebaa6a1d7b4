"""The soak's model: a script for each kind of agent, and bad times in which answers are lost, refused or slow."""

from __future__ import annotations

import json
import random
import re

from tests.support.model_server import ASSISTANT_ROLE, IDEMPOTENCY_KEY, ModelServer, Reply, fault, text

MODEL = re.compile(rb'"model"\s*:\s*"([a-z]+)"')


def _work(*numbers: int) -> Reply:
    return Reply(calls=[{"name": "work", "arguments": json.dumps({"n": n})} for n in numbers])


SCRIPTS: dict[str, list[Reply]] = {
    "worker": [_work(1, 2), _work(3), _work(4, 5), _work(6), text("all done")],
    "careful": [_work(1), Reply(calls=[{"name": "refund", "arguments": "{}"}]), text("refunded")],
    "talker": [_work(1), text("heard you")],
}
TROUBLE = {
    "reset": Reply(drop=True),
    "half an answer": Reply(text="half of this is lost", drop_after=120),
    "500": fault(500),
    "429": fault(429, headers={"Retry-After": "0.2"}),
    "slow": Reply(),
}
SLOW_S = 2.0


class SoakModel(ModelServer):
    """Answers by how far the conversation is, so that the same request gets the same answer."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__([text("unused")], by="conversation", keep_calls=False)
        self._dice = dice
        self._encoded = {
            name: [reply.encoded(turn) for turn, reply in enumerate(script)] for name, script in SCRIPTS.items()
        }
        self._troubles = [(name, reply, reply.encoded(0)) for name, reply in TROUBLE.items()]
        self.badness = 0.0
        """Share of the calls that go wrong."""
        self.went_wrong = 0

    def receive(self, head: bytes, raw: bytes) -> tuple[Reply, bytes]:
        found, key = MODEL.search(raw), IDEMPOTENCY_KEY.search(head)
        assert found is not None
        name = found.group(1).decode()
        self.call_count += 1
        if key is not None:
            self.calls_by_key[key.group(1).decode()] += 1
        turn = len(ASSISTANT_ROLE.findall(raw)) % len(SCRIPTS[name])
        streams = b'"stream":true' in raw.replace(b" ", b"")
        if self._dice.random() < self.badness:
            self.went_wrong += 1
            trouble, reply, encoded = self._dice.choice(self._troubles)
            if trouble != "slow":
                return reply, encoded[streams]
            return Reply(delay_s=SLOW_S), self._encoded[name][turn][streams]
        return SCRIPTS[name][turn], self._encoded[name][turn][streams]
