"""Whether a measurement had its processors to itself: what other work took of them, read from /proc, and how fast they are.

The counters do not show another guest of the host on the other half of a physical processor, nor a lower clock; a fixed loop does: it
takes up to twice as long. On Linux alone: elsewhere nothing is read, and only the spread of the rounds tells a busy machine.
"""

import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

BACKGROUND = 0.08
"""Part of the processors that the worker uses that other processes may take; those that it leaves free they may take whole."""
WAITING = 0.07
"""Seconds in each second that a thread may wait for a processor; √n of it for n threads, for one that waits holds others up."""
STOLEN = 0.03
"""Part of its time that the host of a virtual machine may keep a processor to itself."""
THROTTLED = 0.01
"""Part of the time that a container's quota may stop the worker."""
SLOW = 1.25
"""Times the fastest that a fixed loop may take."""
LOOPS, STEPS, PROBED = 3, 20_000, 8
"""The fixed loop: best of so many, of so many steps (about a millisecond), on so many of the processors at most."""


@dataclass(frozen=True)
class Counters:
    """Counters in seconds. Of the processors that may be used, summed: `busy`, whoever ran; `stolen` by the host. Of the worker: `own`, its
    time on a processor; `waited`, time in which its threads could have run and did not; `throttled` by its control group's quota."""

    clock: float
    busy: float
    stolen: float
    own: float
    waited: float
    throttled: float


@dataclass(frozen=True)
class Processors:
    """How many the worker may use: `logical` ones, and `physical` ones, which two of them may share."""

    logical: int
    physical: int


@dataclass(frozen=True)
class Load:
    """What was taken from a worker, as processors: by other processes, by the host, by waiting in line, by the quota."""

    others: float
    stolen: float
    waiting: float
    throttled: float

    @classmethod
    def between(cls, before: Counters, after: Counters) -> "Load":
        """The mean load between two readings. What one tick of the system's clock can feign is left out."""
        seconds = max(1e-6, after.clock - before.clock)
        tick = 1 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01
        others = after.busy - before.busy - (after.own - before.own) - 2 * tick
        return cls(
            others=max(0.0, others) / seconds,
            stolen=max(0.0, after.stolen - before.stolen - tick) / seconds,
            waiting=max(0.0, after.waited - before.waited) / seconds,
            throttled=max(0.0, after.throttled - before.throttled) / seconds,
        )

    def disturbance(self, threads: int, processors: Processors) -> str:
        """What disturbs a worker of so many threads, in words; "" where nothing does.

        Other processes disturb only where they need processors that the worker uses. A thread is slowed by what runs on the other
        half of its physical processor too, so free ones are counted in physical ones as long as the threads are fewer.
        """
        logical = processors.logical
        used = min(threads, logical)
        free = max(0, (processors.physical if threads <= processors.physical else logical) - threads)
        if self.others > free + BACKGROUND * used:
            return f"other processes take {self.others:.1f} of {logical} processors"
        if self.stolen > STOLEN * used:
            return f"the host of this virtual machine takes {self.stolen:.1f} of {logical} processors"
        if self.throttled > THROTTLED:
            return f"the container's quota stops it for {self.throttled:.0%} of the time"
        if self.waiting > WAITING * math.sqrt(threads):
            return f"its threads wait {self.waiting:.2f} s in each second for a processor"
        return ""


_fastest = dict[int, float]()
"""Seconds of the fastest loop that this process has seen, by processor."""


def slowness() -> float:
    """How many times the fastest that was seen on it a fixed loop takes now on the slowest processor; 1 where that cannot be seen."""
    if sys.platform != "linux":
        return 1.0
    allowed = os.sched_getaffinity(0)
    probed = sorted(allowed)[:: -(-len(allowed) // PROBED)]
    ratios = []
    try:
        for processor in probed:
            os.sched_setaffinity(0, {processor})
            seconds = min(_loop() for _ in range(LOOPS))
            _fastest[processor] = min(seconds, _fastest.get(processor, seconds))
            ratios.append(seconds / _fastest[processor])
    except OSError:  # it may not choose where it runs
        return 1.0
    finally:
        os.sched_setaffinity(0, allowed)
    return max(ratios)


def _loop() -> float:
    start, total = time.perf_counter(), 0
    for step in range(STEPS):
        total += step
    return time.perf_counter() - start


def slowed(slowness: float) -> str:
    """What a slowness says, in words; "" where it is none."""
    return f"its processors run {slowness:.1f} times slower than they can" if slowness > SLOW else ""


def processors() -> Processors:
    """Those that this process may run on."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    shared = [Path(f"/sys/devices/system/cpu/cpu{i}/topology/thread_siblings_list") for i in allowed]
    return Processors(len(allowed), len({path.read_text() if path.is_file() else str(path) for path in shared}))


def read(pid: int) -> Counters | None:
    """The counters now, for the worker `pid`; None where the system has none."""
    if sys.platform != "linux":
        return None
    try:
        busy, stolen = _processor_times()
        return Counters(time.perf_counter(), busy, stolen, _own_time(pid), _waited(pid), _throttled(pid))
    except (OSError, ValueError, IndexError):
        return None


def _processor_times() -> tuple[float, float]:
    """Seconds that the processors of this process were busy, and that the host took (proc_pid_stat(5): user, nice, system, idle, …)."""
    allowed = {f"cpu{i}" for i in os.sched_getaffinity(0)}
    rows = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    ticks = [[int(value) for value in row[1:9]] for row in rows if row[0] in allowed]
    per_second = os.sysconf("SC_CLK_TCK")
    busy = sum(user + nice + system + irq + soft for user, nice, system, _, _, irq, soft, _ in ticks)
    return busy / per_second, sum(row[7] for row in ticks) / per_second


def _own_time(pid: int) -> float:
    """Seconds on a processor of all threads of a process, also of those that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _waited(pid: int) -> float:
    """Seconds that the threads of a process waited on the run queue; 0 where the kernel does not count them."""
    nanoseconds = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            nanoseconds += int((task / "schedstat").read_text().split()[1])
        except (OSError, IndexError):  # it ended, or the kernel was built without
            continue
    return nanoseconds / 1e9


def _throttled(pid: int) -> float:
    """Seconds that the quota of its control group (version 2) stopped a process; 0 where there is none."""
    try:
        group = next(line[3:] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if line.startswith("0::"))
        rows = (Path("/sys/fs/cgroup") / group.strip("/") / "cpu.stat").read_text().splitlines()
        return sum(int(row.split()[1]) for row in rows if row.startswith("throttled_usec")) / 1e6
    except (OSError, StopIteration):
        return 0.0
