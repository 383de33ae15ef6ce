from lightning_dpo.reports.plots import curve, grid


def test_a_half_written_last_row_is_left_out():
    rows = [{"step": "1", "val/loss": "0.5", "x": ""}, {"step": "2", "val/loss": "", "x": "1"}]
    assert curve([*rows, {"step": "3", "val/loss": "0.", "x": None}], "val/loss") == [(1, 0.5)]


def test_a_grid_has_as_many_panels_as_asked_for():
    figure, axes = grid(5, 3, (2, 1))
    assert len(axes) == len(figure.axes) == 5
    assert figure.get_size_inches().tolist() == [6, 2]
