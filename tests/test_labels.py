from lightning_dpo import DPOModule
from lightning_dpo.callbacks import Samples
from lightning_dpo.labels import FRONTIER_SHARE, LABELS, PROGRESS_BAR, panels
from lightning_dpo.metrics import preference_metrics
from lightning_dpo.reports.tables import SHOWN
from lightning_dpo.reviews import ClosedFormReport
from tests.support.models import make_llama


def test_every_labelled_metric_is_one_that_a_run_or_a_report_has(tmp_path):
    module = DPOModule(make_llama())
    logged = {f"{part}/{name}" for part in ("train", "val") for name in preference_metrics("", module.loss)}
    logged.add(FRONTIER_SHARE)
    for callback in (Samples(str(tmp_path)), ClosedFormReport()):
        logged |= callback.metric_names(module)
    assert {*LABELS, *PROGRESS_BAR} <= logged


def test_what_reports_show_has_a_label_and_no_two_are_alike():
    assert set(SHOWN) <= set(LABELS)
    assert len({label.text for label in LABELS.values()}) == len(LABELS)


def test_a_panel_holds_training_and_validation_of_one_quantity():
    assert panels()["loss"] == ["train/loss", "val/loss"]
    assert LABELS["val/rewards/accuracies"].heading == "accuracy ↑"
    assert LABELS["val/kl"].heading == "KL(π‖π_ref) on samples, nats"
