"""Jobs of SLURM that are requeued: they find their own folder again, and resume."""

import hashlib
import logging
import os
import subprocess
import sys

log = logging.getLogger(__name__)


def in_job() -> bool:
    """Whether this process belongs to a batch job. As in Lightning, an interactive shell on a node does not count."""
    return "SLURM_PROCID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")


def job_name() -> str:
    """A name that is the same after the job was requeued, and different for each command of its script."""
    parts = [os.environ.get("SLURM_STEP_ID", ""), *sys.argv[1:]]
    command = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:6]
    return f"slurm-{os.environ['SLURM_JOB_ID']}-{command}"


def is_requeued() -> bool:
    """Whether this is a batch job that was requeued."""
    return in_job() and int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0


def requeue() -> None:
    """Put the job into the queue again, before it ends because of its time limit. Only the first process does."""
    if int(os.environ["SLURM_PROCID"]) > 0:
        return
    job = os.environ["SLURM_JOB_ID"]
    try:
        status = subprocess.run(["scontrol", "requeue", job], check=False).returncode  # noqa: S603, S607
    except OSError as error:
        log.error("The SLURM job %s could not be requeued: %s", job, error)
        return
    log.info("The SLURM job %s %s.", job, "could not be requeued" if status else "was requeued")
