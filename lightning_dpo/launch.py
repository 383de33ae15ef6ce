"""What a process knows of those started with it, by torchrun, SLURM or Lightning, before they connect."""

import os
from datetime import datetime, timedelta

_FORMAT = "%Y-%m-%d_%H-%M-%S"


def process_rank() -> int:
    """This process among all of the run; 0 where it is alone."""
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if name in os.environ and (name != "SLURM_PROCID" or _by_slurm()):
            return int(os.environ[name])
    return 0


def started_by_others() -> bool:
    """Whether torchrun or SLURM starts a process for every device; otherwise Lightning does, by running it again."""
    return "TORCHELASTIC_RUN_ID" in os.environ or _by_slurm()


def start_time() -> str:
    """When the run began: the same for all of its processes, for it names their folder.

    torchrun's agents hold a store that all processes reach. SLURM tells each of them about the job.
    """
    now = datetime.now().strftime(_FORMAT)
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and "RANK" in os.environ:
        return _first_ones(now)
    if _by_slurm():
        step = os.environ.get("SLURM_STEP_ID", "0")
        if "SLURM_JOB_START_TIME" in os.environ:
            now = datetime.fromtimestamp(int(os.environ["SLURM_JOB_START_TIME"])).strftime(_FORMAT)
            return f"{now}_{os.environ['SLURM_JOB_ID']}-{step}"
        return f"job_{os.environ['SLURM_JOB_ID']}-{step}-{os.environ.get('SLURM_RESTART_COUNT', '0')}"
    return now


def _by_slurm() -> bool:
    return "SLURM_PROCID" in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1


def _first_ones(value: str) -> str:
    """The value of rank 0, by way of torchrun's store."""
    from torch.distributed import TCPStore

    store = TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=timedelta(minutes=10)
    )
    key = f"lightning_dpo/start_time/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    if process_rank() == 0:
        store.set(key, value)
    return store.get(key).decode()
