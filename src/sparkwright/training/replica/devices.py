"""Which device a replica computes on."""

import torch

from sparkwright.errors import InputError

__all__ = ["device_of"]


def device_of(name: str, replica: int) -> torch.device:
    """Return where a replica computes: the CPU, or one of the GPUs that this process may use. Runs on executors.

    Spark's resource scheduling says which GPUs are a task's; without it (in local mode, as a rule) all visible ones are
    shared by the replicas, in turn.

    Args:
        name: ``"cpu"`` or ``"cuda"``.
        replica: Its index.

    Raises:
        InputError: There is no GPU.
    """
    if name == "cpu":
        return torch.device("cpu")
    numbers = _assigned() or list(range(torch.cuda.device_count()))
    if not numbers:
        raise InputError(
            "`device` is 'cuda', but torch sees no GPU here. Ask Spark for one a task "
            "(spark.task.resource.gpu.amount), install torch with CUDA on the workers, or take 'cpu'."
        )
    return torch.device("cuda", numbers[replica % len(numbers)])


def _assigned() -> list[int]:
    """Return the numbers of the GPUs that Spark gave this task; none outside of one."""
    from pyspark import TaskContext

    context = TaskContext.get()
    gpus = context.resources().get("gpu") if context is not None else None
    return [int(address) for address in gpus.addresses] if gpus is not None else []
