from types import SimpleNamespace

from lightning_dpo.callbacks.progress_bar import PreferenceProgressBar


def test_three_figures_by_the_names_that_people_say():
    values = {"train/loss": 0.69314, "train/rewards/accuracies": 0.5, "train/rewards/margins": 0.0, "v_num": "abc"}
    trainer = SimpleNamespace(progress_bar_metrics=values)
    shown = PreferenceProgressBar().get_metrics(trainer, None)
    assert shown == {"loss": "0.693", "accuracy": "0.500", "margin": "0.000"}
