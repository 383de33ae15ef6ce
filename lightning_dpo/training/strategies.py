"""How several devices train one model, where Lightning's own way is not safe as it comes."""

from datetime import timedelta

from lightning.pytorch.strategies import ModelParallelStrategy


class FullySharded(ModelParallelStrategy):
    """FSDP2 over all devices of all nodes; `DPOModule` shards policy and reference.

    Lightning's default for one node is tensor parallelism over all its devices: a model that only shards would then be
    trained on the same pairs everywhere, without a word.

    Args:
        timeout_minutes: How long a device waits for the others before the run is given up.
    """

    def __init__(self, timeout_minutes: float = 30) -> None:
        if not timeout_minutes > 0:
            raise ValueError(f"timeout_minutes must be positive, got {timeout_minutes!r}")
        # One file holds the whole checkpoint, which any number of devices can read, evaluate and export too.
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            timeout=timedelta(minutes=timeout_minutes),
        )

    def setup_environment(self) -> None:
        """Take every device for the data, now that it is known how many there are."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()
