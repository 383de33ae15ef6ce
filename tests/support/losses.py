"""Every loss with what is known of it: its formula in numpy, TRL's settings, and the policy at which it is least."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from lightning_dpo import losses
from lightning_dpo.losses import DPO, PairLogps, PreferenceLossFunction
from tests.support.optima import (
    World,
    alpha_optimum,
    chosen_frequencies,
    forward_kl_optimum,
    gibbs,
    hinge_optimum,
    ipo_optimum,
    jensen_shannon_optimum,
    per_token_optimum,
)

BETA, NOISE = 0.3, 0.1


class Values(NamedTuple):
    """Log-probs in float64: `y` of the policy, `z` of the reference, `n` lengths, `o` offsets, `t` of tokens."""

    y_w: np.ndarray
    y_l: np.ndarray
    z_w: np.ndarray
    z_l: np.ndarray
    n_w: np.ndarray
    n_l: np.ndarray
    o: np.ndarray
    t: tuple[np.ndarray, ...]

    @property
    def w(self):
        return self.y_w - self.z_w

    @property
    def l(self):  # noqa: E743  # the paper's name
        return self.y_l - self.z_l

    @property
    def m(self):
        return BETA * (self.w - self.l) - self.o

    @classmethod
    def of(cls, pairs: PairLogps) -> "Values":
        sums = pairs.chosen, pairs.rejected, pairs.reference_chosen, pairs.reference_rejected
        tokens = [side.token_logps for side in (*pairs.policy, *pairs.reference)]
        numbers = [
            one.detach().double().numpy() for one in (*sums, pairs.chosen_length, pairs.rejected_length, pairs.offset)
        ]
        return cls(*numbers, tuple(one.detach().double().numpy() for one in tokens))


class Case(NamedTuple):
    loss: PreferenceLossFunction
    formula: Callable[[Values], np.ndarray]
    trl: dict[str, Any] | None = None
    optimum: Callable[[World], Any] | None = None
    """log π of every answer at which the loss on all pairs is least."""
    world: dict[str, Any] = {}  # noqa: RUF012  # a field of a named tuple
    least: PreferenceLossFunction | None = None
    """The loss with the values for which the optimum is known, if others are used for the formula."""
    frontier: float = 0.0
    """Where the optimum is not known: the measured fraction of the possible reward gain, rounded down."""


def log_sigmoid(x):
    return -np.logaddexp(0, -x)


def sigmoid(x):
    return np.exp(log_sigmoid(x))


def smoothed(m, noise=NOISE):
    return -(1 - noise) * log_sigmoid(m) - noise * log_sigmoid(-m)


def sft(v: Values):
    return -v.y_w / v.n_w.mean()


def relu(x):
    return np.maximum(0, x)


def exo(v: Values):
    return sigmoid(v.m) * (log_sigmoid(v.m) - np.log(1 - NOISE)) + sigmoid(-v.m) * (log_sigmoid(-v.m) - np.log(NOISE))


def log_odds(mean):
    mean = np.minimum(mean, -1e-7)
    return mean - np.log(-np.expm1(mean))


def beta_dpo(v: Values):
    gaps = v.w - v.l
    kept = np.argsort(np.abs(gaps - gaps.mean()), kind="stable")[: round(0.8 * len(gaps))]
    beta = BETA * max(1 + 0.1 * (gaps[kept].mean() - gaps.mean()), 0.01)
    found = np.zeros(len(gaps))
    found[kept] = -log_sigmoid(beta * gaps[kept]) * len(gaps) / len(kept)
    return found


def ld(v: Values, alpha: float):
    shorter = np.minimum(v.n_w, v.n_l)
    sums = [
        np.array([row[: int(n)].sum() + alpha * row[int(n) :].sum() for row, n in zip(side, shorter, strict=True)])
        for side in v.t
    ]
    return -log_sigmoid(BETA * (sums[0] - sums[2] - sums[1] + sums[3]) - v.o)


def dpo_like(reward):
    """−log σ of the difference of two rewards, which are functions of a log-ratio."""
    return lambda v: -log_sigmoid(reward(v.w) - reward(v.l) - v.o)


CASES = {
    "dpo": Case(DPO(BETA), lambda v: -log_sigmoid(v.m), {"loss_type": ["sigmoid"]}, lambda world: gibbs(world, BETA)),
    "cdpo": Case(DPO(BETA, NOISE), lambda v: smoothed(v.m), frontier=0.99),
    "ipo": Case(
        losses.IPO(BETA),
        lambda v: (v.w / v.n_w - v.l / v.n_l - 1 / (2 * BETA) - 2 * v.o / (v.n_w + v.n_l) / BETA) ** 2,
        {"loss_type": ["ipo"]}, frontier=0.97,
    ),
    "ipo, sums": Case(
        losses.IPO(BETA, "sum"), lambda v: (v.w - v.l - 1 / (2 * BETA) - v.o / BETA) ** 2,
        optimum=lambda world: ipo_optimum(world, BETA),
    ),
    "hinge": Case(
        losses.Hinge(BETA), lambda v: relu(1 - v.m), {"loss_type": ["hinge"]}, lambda world: hinge_optimum(world, BETA),
        frontier=0.81,
    ),
    "robust": Case(
        losses.Robust(BETA, NOISE),
        lambda v: (-(1 - NOISE) * log_sigmoid(v.m) + NOISE * log_sigmoid(-v.m)) / (1 - 2 * NOISE),
        {"loss_type": ["robust"], "label_smoothing": NOISE}, lambda world: gibbs(world, BETA), {"flipped": NOISE},
    ),
    "exo": Case(
        losses.EXO(BETA, NOISE), exo, {"loss_type": ["exo_pair"], "label_smoothing": NOISE}, frontier=0.99,
    ),
    "odpo": Case(
        losses.ODPO(BETA, scale=0.5), lambda v: -log_sigmoid(BETA * (v.w - v.l) - 0.5 * v.o),
        optimum=lambda world: gibbs(world, BETA, 0.5 * world.scores), world={"offsets": True},
    ),
    "r_dpo": Case(
        losses.RDPO(BETA, alpha=0.2), lambda v: -log_sigmoid(v.m + 0.2 * (v.n_w - v.n_l)),
        optimum=lambda world: gibbs(world, BETA, -0.2 * world.lengths),
    ),
    "dpop": Case(
        losses.DPOP(BETA, penalty=5.0), lambda v: -log_sigmoid(v.m - BETA * 5 * relu(v.z_w - v.y_w)),
        least=losses.DPOP(BETA, penalty=0.5), frontier=0.5,
    ),
    "forward_kl": Case(
        losses.ForwardKL(BETA), dpo_like(lambda r: BETA * (1 - np.exp(np.minimum(-r, 80)))),
        {"loss_type": ["sigmoid"], "f_divergence_type": "forward_kl"},
        lambda world: forward_kl_optimum(world, BETA),
    ),
    "jensen_shannon": Case(
        losses.JensenShannon(BETA), dpo_like(lambda r: BETA * (np.log(2) + log_sigmoid(r))),
        {"loss_type": ["sigmoid"], "f_divergence_type": "js_divergence"},
        lambda world: jensen_shannon_optimum(world, 2.0), least=losses.JensenShannon(2.0),
    ),
    "alpha_divergence": Case(
        losses.AlphaDivergence(BETA, alpha=0.4),
        dpo_like(lambda r: BETA * (1 - np.exp(np.minimum(-0.4 * r, 80))) / 0.4),
        {"loss_type": ["sigmoid"], "f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.6},
        lambda world: alpha_optimum(world, BETA, 0.4),
    ),
    "nca": Case(
        losses.NCA(BETA),
        lambda v: -log_sigmoid(BETA * v.w) - 0.5 * log_sigmoid(-BETA * v.w) - 0.5 * log_sigmoid(-BETA * v.l),
        {"loss_type": ["nca_pair"]}, frontier=0.99,
    ),
    "bco": Case(
        losses.BCO(BETA), lambda v: -log_sigmoid(BETA * v.w) - log_sigmoid(-BETA * v.l), {"loss_type": ["bco_pair"]},
        frontier=0.99,
    ),
    "sppo": Case(
        losses.SPPO(BETA), lambda v: (v.w - 0.5 / BETA) ** 2 + (v.l + 0.5 / BETA) ** 2, {"loss_type": ["sppo_hard"]},
        frontier=0.99,
    ),
    "apo_zero": Case(
        losses.APOZero(BETA), lambda v: 1 - sigmoid(BETA * v.w) + sigmoid(BETA * v.l), {"loss_type": ["apo_zero"]},
        frontier=0.94,
    ),
    "apo_down": Case(
        losses.APODown(BETA), lambda v: sigmoid(BETA * v.w) + 1 - sigmoid(BETA * (v.w - v.l)),
        {"loss_type": ["apo_down"]}, frontier=0.83,
    ),
    "aot": Case(
        losses.AOT(BETA, NOISE), lambda v: smoothed(BETA * (np.sort(v.y_w - v.y_l) - np.sort(v.z_w - v.z_l))),
        {"loss_type": ["aot"], "label_smoothing": NOISE}, frontier=0.93,
    ),
    "aot_unpaired": Case(
        losses.AOTUnpaired(BETA, NOISE), lambda v: smoothed(BETA * (np.sort(v.w) - np.sort(v.l))),
        {"loss_type": ["aot_unpaired"], "label_smoothing": NOISE}, frontier=0.83,
    ),
    "beta_dpo": Case(losses.BetaDPO(BETA, alpha=0.1), beta_dpo, frontier=0.92),
    "two_way": Case(
        losses.TwoWay(BETA), lambda v: -log_sigmoid(BETA * (v.y_w - v.y_l) - v.o), {"cpo": "sigmoid"},
        lambda world: (world.rewards / BETA).log_softmax(-1),
    ),
    "simpo": Case(
        losses.SimPO(BETA, gamma=0.5), lambda v: -log_sigmoid(BETA * (v.y_w / v.n_w - v.y_l / v.n_l) - 0.5 - v.o),
        {"cpo": "simpo"}, lambda world: per_token_optimum(world, 2.0, 0 * world.reference),
        least=losses.SimPO(2.0, gamma=0.0),
    ),
    "cpo": Case(
        losses.CPO(BETA, alpha=0.7), lambda v: -log_sigmoid(BETA * (v.y_w - v.y_l) - v.o) + 0.7 * sft(v),
        {"cpo": "sigmoid", "sft": 0.7}, frontier=0.98,
    ),
    "orpo": Case(
        losses.ORPO(0.7), lambda v: -0.7 * log_sigmoid(log_odds(v.y_w / v.n_w) - log_odds(v.y_l / v.n_l)) + sft(v),
        {"orpo": 0.7}, frontier=0.5,
    ),
    "sft": Case(losses.SFT(), sft, {"loss_type": ["sft"]}, chosen_frequencies),
    "length_normalized": Case(
        losses.LengthNormalized(DPO(BETA)), lambda v: -log_sigmoid(BETA * (v.w / v.n_w - v.l / v.n_l) - v.o),
        {"loss_type": ["sigmoid_norm"]}, lambda world: per_token_optimum(world, 2.0, world.reference),
        least=losses.LengthNormalized(DPO(2.0)),
    ),
    "ld_dpo": Case(
        losses.LDDPO(DPO(BETA), alpha=0.3), lambda v: ld(v, 0.3), {"loss_type": ["sigmoid"], "ld_alpha": 0.3},
        frontier=0.99,
    ),
    "rpo": Case(
        losses.WithSFT(DPO(BETA), weight=0.7), lambda v: -log_sigmoid(v.m) + 0.7 * sft(v),
        {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.7]}, frontier=0.99,
    ),
    "mpo": Case(
        losses.WithSFT(losses.WeightedSum({"dpo": DPO(BETA), "bco": losses.BCO(BETA)}, {"dpo": 0.8, "bco": 0.2})),
        lambda v: (
            -0.8 * log_sigmoid(v.m) - 0.2 * log_sigmoid(BETA * v.w) - 0.2 * log_sigmoid(-BETA * v.l) + sft(v)
        ),
        {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]}, frontier=0.99,
    ),
}  # fmt: skip
