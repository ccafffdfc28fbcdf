"""A handler of one's own: a line for each event."""

from pathlib import Path

from receiver import Receipt
from receiver.handlers.base import Attempt, HandlerBase, HandlerOptions


class Lines(HandlerBase):
    name, summary = "lines", "A line for each event, in a file."

    class Options(HandlerOptions):
        path: Path

    async def deliver(self, attempt: Attempt) -> Receipt:
        with self.options.path.open("a") as file:
            file.write(f"{attempt.event.type}: {attempt.event.prompt}\n")
        return Receipt(ref=str(self.options.path))
