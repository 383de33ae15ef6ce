import lightning
import pytest
from lightning.pytorch.callbacks import EarlyStopping

from lightning_dpo import DPOModule, UserError
from lightning_dpo.callbacks.monitors import check_monitors
from lightning_dpo.callbacks.samples import Samples
from lightning_dpo.losses import SFT
from tests.support.models import make_llama


def check(monitor: str, loss=None, module_class=DPOModule, callbacks=()) -> None:
    module = module_class(make_llama(), loss)
    check_monitors(module, [EarlyStopping(monitor), *callbacks])


@pytest.mark.parametrize("monitor", ["val/loss", "val/rewards/accuracies", "train/grad_norm", "val/hh/rewards/margins"])
def test_metrics_that_a_run_has(monitor):
    check(monitor)


@pytest.mark.parametrize(
    ("monitor", "loss", "near"),
    [
        ("val/accuracy", None, "did you mean val/rewards/accuracies"),
        ("val/acc", None, "did you mean val/rewards/accuracies"),
        ("val/los", None, "did you mean val/loss"),
        ("val/rewards/accuracies", SFT(), "there are val/length/chosen, val/logps/chosen, val/loss"),
        ("val/kl", None, "did you mean val/loss"),
    ],
)
def test_metrics_that_no_part_of_a_run_logs(monitor, loss, near):
    with pytest.raises(UserError, match=rf"EarlyStopping: monitor={monitor}: this run does not log it; {near}"):
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
