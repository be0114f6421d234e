"""Where a network runs: ONNX Runtime on CPUs, torch on GPUs and in bfloat16."""

from typing import TYPE_CHECKING, Literal

from sparkwright.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from pyspark import TaskContext
    from pyspark.sql import SparkSession

__all__ = ["DEVICES", "Device", "choose_device", "device_of_task"]

Device = Literal["auto", "cpu", "cuda"]

DEVICES: tuple[Device, ...] = ("auto", "cpu", "cuda")

_AMOUNT = "spark.task.resource.gpu.amount"


def choose_device(spark: "SparkSession", device: str, *, torch: bool, name: str) -> Literal["cpu", "cuda"]:
    """Return where a job's networks run. Runs on the driver.

    Args:
        spark: The session.
        device: ``cpu``, ``cuda``, or ``auto``: GPUs where Spark schedules them (``spark.task.resource.gpu.amount``).
        torch: Whether torch can run the network.
        name: The network's, for messages.

    Raises:
        InputError: no such device, or a GPU is asked for and the network is an ONNX graph.
    """
    if device not in DEVICES:
        raise InputError(f"device must be one of {', '.join(DEVICES)}; got {device!r}.{did_you_mean(device, DEVICES)}")
    if device == "cuda" and not torch:
        raise InputError(
            f"`{name}` is an ONNX graph, which runs on CPUs: only networks of torch run on a GPU. Load the network by "
            "its catalogue name, or pass device='cpu'."
        )
    if device == "auto":
        scheduled = float(spark.conf.get(_AMOUNT, "0") or 0) > 0
        return "cuda" if scheduled and torch else "cpu"
    return "cuda" if device == "cuda" else "cpu"


def device_of_task(device: str, context: "TaskContext | None") -> str:
    """Return this task's device: the GPU that Spark gave it; without a GPU of its own, the tasks take turns.

    An address may be larger than the number of GPUs that the process sees (YARN hides the others); it counts modulo
    that number, which also deals the tasks of a local session over all GPUs.

    Args:
        device: ``cpu`` or ``cuda``.
        context: Of the Spark task.
    """
    if device != "cuda":
        return device
    if context is None:
        return "cuda:0"
    given = context.resources().get("gpu")
    address = given.addresses[0] if given and given.addresses else str(context.partitionId())
    return f"cuda:{address}"
