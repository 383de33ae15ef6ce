"""FSDP2 for several devices, with defaults that are safe for models that only shard."""

from datetime import timedelta

from lightning.pytorch.strategies import ModelParallelStrategy


class FullySharded(ModelParallelStrategy):
    """FSDP2 over all devices of all nodes; `DPOModule` shards policy and reference.

    Lightning's own default is tensor parallelism over the devices of a node. With it, all devices of a node would get
    the same pairs, and a model that only shards would be trained on duplicated data without any warning.

    Args:
        timeout_minutes: Minutes that a device waits for the others before the run fails.
    """

    def __init__(self, timeout_minutes: float = 30) -> None:
        if not timeout_minutes > 0:
            raise ValueError(f"timeout_minutes must be positive, got {timeout_minutes!r}")
        # One file contains the whole checkpoint, so any number of devices, `evaluate` and `export` can read it.
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            timeout=timedelta(minutes=timeout_minutes),
        )

    def setup_environment(self) -> None:
        """Use all devices for data parallelism. Their number is known only now."""
        # A private attribute: the constructor cannot be used, because devices and nodes are set after it.
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()
