"""A process that holds one engine, as its parent sees it: stopped but while it is asked, and watched for what disturbs it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import final

from penjing.engines.clock import quiet
from penjing.engines.clock.messages import Setup
from penjing.errors import PenjingError
from penjing.files.records import to_json
from penjing.files.whole import Json

LOOK_S = 0.25
"""Seconds over which is looked whether the machine is quiet again."""


def elsewhere(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without the current folder in PYTHONPATH, which an empty entry stands for too; unless Penjing itself is there."""
    here = Path.cwd()
    own = Path(__file__).parents[3]
    given = environment.get("PYTHONPATH", "").split(os.pathsep)
    kept = [entry for entry in given if entry and Path(entry).resolve() != here]
    return {**environment, "PYTHONPATH": os.pathsep.join([*kept, str(own)] if own == here else kept)}


@final
class Process:
    """One child process that runs `worker.py`. `load` and `slowness`: what disturbed it when it was asked or looked at last."""

    def __init__(self, setup: Setup) -> None:
        environment = elsewhere(os.environ) | {"OMP_NUM_THREADS": str(setup.threads), "TOKENIZERS_PARALLELISM": "false"}
        self.setup = setup
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "penjing.engines.clock.worker"],  # -P: nothing is imported from the current folder
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
        )  # fmt: skip
        self.processors = quiet.processors()
        self.load = ""
        self.slowness = 1.0
        try:
            self.started = self.ask(to_json(setup))
        except BaseException:
            self.close()
            raise

    @property
    def disturbance(self) -> str:
        """What disturbed it when it was asked last, or would have where it was looked."""
        return self.load or quiet.slowed(self.slowness)

    def ask(self, message: Json) -> Json:
        """Its answer; `load` and `slowness` are then what disturbed it meanwhile."""
        assert self.process.stdin and self.process.stdout
        slowness = quiet.slowness()
        before = quiet.read(self.process.pid)
        self._signal("SIGCONT")
        with suppress(BrokenPipeError):  # it has died, and is asked below how
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        answer: Json = json.loads(line) if line else {"error": f"it died with status {self.process.wait()}"}
        if "error" in answer:
            raise PenjingError(f"measure: {self.setup.form.name} failed ({answer['error']})")
        self._signal("SIGSTOP")
        self._judge(before, slowness)
        return answer

    def look(self) -> None:
        """See for a while what would disturb it, while it is stopped."""
        before = quiet.read(self.process.pid)
        time.sleep(LOOK_S)
        self._judge(before)

    def close(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.communicate()

    def _judge(self, before: quiet.Counters | None, slowness: float = 1.0) -> None:
        after = quiet.read(self.process.pid)
        self.load = quiet.Load.between(before, after).disturbance(self.setup.threads, self.processors) if before and after else ""
        self.slowness = max(slowness, quiet.slowness())

    def _signal(self, name: str) -> None:
        if hasattr(signal, name):
            self.process.send_signal(getattr(signal, name))
