"""A Spark session and what the library needs of it: start, size, shipping, failures, checks."""

from sparkwright.session._cancelling import cancellable
from sparkwright.session._doctor import Check, check_workers, doctor
from sparkwright.session._failures import causes, explain, worker_errors
from sparkwright.session._java import find_java
from sparkwright.session._memory import Room, python_room
from sparkwright.session._shipping import ship_file, ship_library, shipped_path
from sparkwright.session._size import cores, driver_hosts, executor_cores, slots, threads_per_task
from sparkwright.session._start import start

__all__ = [
    "Check",
    "Room",
    "cancellable",
    "causes",
    "check_workers",
    "cores",
    "doctor",
    "driver_hosts",
    "executor_cores",
    "explain",
    "find_java",
    "python_room",
    "ship_file",
    "ship_library",
    "shipped_path",
    "slots",
    "start",
    "threads_per_task",
    "worker_errors",
]
