from matplotlib.figure import Figure

from lightning_dpo.evaluation.calibration import draw_calibration


def test_the_plot_shows_accuracy_and_pairs_of_every_bin(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **options: drawn.append(figure))
    draw_calibration([(0.6, 0.5, 10), (0.9, 1.0, 4)], "subtitle", tmp_path / "b.png")
    above, below = drawn[0].axes
    assert above.containers[0].lines[0].get_ydata().tolist() == [0.5, 1.0]
    assert [bar.get_height() for bar in below.patches] == [10, 4]
