import lightning
import pytest
from lightning.pytorch.callbacks import EarlyStopping

from lightning_dpo import DPOModule, UserError
from lightning_dpo.callbacks.monitors import check_monitors
from lightning_dpo.callbacks.samples import Samples
from lightning_dpo.losses import SFT
from tests.support.models import make_llama


def check(monitor: str, loss=None, module_class=DPOModule, callbacks=(), mode="min") -> None:
    module = module_class(make_llama(), loss)
    check_monitors(module, [EarlyStopping(monitor, mode=mode), *callbacks])


NOT_LOGGED = "this run does not log it;"
MODES = {"val/loss": "min", "val/rewards/accuracies": "max", "val/hh/rewards/margins": "max"}


@pytest.mark.parametrize("monitor", [*MODES, "train/grad_norm"])
def test_metrics_that_a_run_has(monitor):
    check(monitor, mode=MODES.get(monitor, "min"))


@pytest.mark.parametrize("monitor", MODES)
def test_the_mode_fits_the_metric(monitor):
    wrong, right = ("max", "min") if MODES[monitor] == "min" else ("min", "max")
    message = rf"EarlyStopping.mode={wrong}: (low|high)er values of {monitor} are better; set it to {right}"
    with pytest.raises(UserError, match=message):
        check(monitor, mode=wrong)


@pytest.mark.parametrize(
    ("monitor", "loss", "reason"),
    [
        ("val/accuracy", None, f"{NOT_LOGGED} did you mean val/rewards/accuracies"),
        ("val/acc", None, f"{NOT_LOGGED} did you mean val/rewards/accuracies"),
        ("val/los", None, f"{NOT_LOGGED} did you mean val/loss"),
        ("val/rewards/accuracies", SFT(), "the loss has no rewards; monitor val/loss, and set mode=min"),
        ("val/kl", None, f"{NOT_LOGGED} did you mean val/loss"),
    ],
)
def test_metrics_that_no_part_of_a_run_logs(monitor, loss, reason):
    with pytest.raises(UserError, match=rf"EarlyStopping.monitor={monitor}: {reason}"):
        check(monitor, loss)


def test_callbacks_name_what_they_log(tmp_path):
    check("val/kl", callbacks=[Samples(str(tmp_path))])
    with pytest.raises(UserError, match="does not log it"):
        check("val/kl", callbacks=[Samples(str(tmp_path), greedy=True)])


def test_what_code_of_ones_own_logs_is_not_known():
    class Mine(DPOModule):
        pass

    class Logs(lightning.Callback):
        pass

    check("val/mine", module_class=Mine)
    check("val/mine", callbacks=[Logs()])
