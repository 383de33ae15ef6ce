"""What the losses reject when they are created."""

from dataclasses import dataclass

import pytest

from lightning_dpo.errors import UserError
from lightning_dpo.losses import (
    AOT,
    BCO,
    CPO,
    DPO,
    DPOP,
    EXO,
    IPO,
    LDDPO,
    ODPO,
    ORPO,
    RDPO,
    SFT,
    AlphaDivergence,
    BetaDPO,
    LengthNormalized,
    Modifier,
    Robust,
    SimPO,
    TwoWay,
    WeightedSum,
    WithSFT,
)
from lightning_dpo.training.start_checks import check_declared


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda: IPO(normalize="median"), "normalize must be mean or sum, got 'median'"),
        (lambda: Robust(label_smoothing=0.5), r"label_smoothing must be in \[0, 0.5\), got 0.5"),
        (lambda: EXO(label_smoothing=0.0), r"label_smoothing must be in \(0, 0.5\), got 0.0"),
        (lambda: AOT(label_smoothing=-0.1), r"label_smoothing must be in \[0, 0.5\), got -0.1"),
        (lambda: ODPO(scale=0), "scale must be a positive number; without offsets, use loss=dpo, got 0"),
        (lambda: RDPO(alpha=-0.01), "alpha must be a positive number; without a penalty, use loss=dpo"),
        (lambda: DPOP(penalty=True), "penalty must be a positive number"),
        (lambda: AlphaDivergence(alpha=1), r"alpha must be in \(0, 1\); the limits are loss=dpo and loss=forward_kl"),
        (lambda: SimPO(gamma=-1), "gamma must be a number that is not negative, got -1"),
        (lambda: SimPO(beta=float("nan")), "beta must be a positive number, got nan"),
        (lambda: CPO(alpha=0.0), "alpha must be a positive number; without SFT, use loss=two_way, got 0.0"),
        (lambda: ORPO(weight="1"), "weight must be a positive number; without it, use loss=sft, got '1'"),
        (lambda: BetaDPO(keep=0), r"keep must be in \(0, 1\], got 0"),
        (lambda: LengthNormalized("dpo"), r"LengthNormalized: loss must be a loss, such as DPO\(beta=0.1\), got 'dpo'"),
        (lambda: LengthNormalized(IPO()), "LengthNormalized cannot hold IPO, which reads lengths itself"),
        (lambda: LengthNormalized(WithSFT(DPO())), "cannot hold WithSFT, .*: put LengthNormalized inside"),
        (lambda: LDDPO(LengthNormalized(DPO())), "LDDPO cannot hold LengthNormalized"),
        (lambda: LDDPO(DPO(), alpha=1.0), r"alpha must be in \[0, 1\); 1 has no effect, got 1.0"),
        (lambda: LDDPO(TwoWay()), "of_reference has no effect: TwoWay reads no reference; set it to false"),
        (lambda: WithSFT(CPO()), "WithSFT cannot hold CPO, which has an SFT term already"),
        (lambda: WithSFT(DPO(), weight=0), "weight must be a positive number, got 0"),
        (lambda: WeightedSum({"dpo": DPO()}, {"dpo": 1.0}), "parts must contain two or more losses"),
        (lambda: WeightedSum({"a": DPO(), "b": CPO()}, {"a": 1, "b": 1}), "that are not composed"),
        (lambda: WeightedSum({"a": DPO(), "b": BCO()}, {"a": 1}), r"weights must have the names of parts \(a, b\)"),
        (lambda: WeightedSum({"a": DPO(), "b": BCO()}, {"a": 1, "b": 0}), "weights.b must be a positive number, got 0"),
    ],
)
def test_a_value_without_a_meaning_is_rejected(create, message):
    with pytest.raises(ValueError, match=message):
        create()


def test_a_modifier_declares_what_its_loss_declares():
    for inner in (DPO(), TwoWay(), BCO()):
        outer = WithSFT(LengthNormalized(inner), weight=0.5)
        for name in ("needs_reference", "needs_rejected", "has_rewards", "whole_step", "columns"):
            assert getattr(outer, name) == getattr(inner, name)
        assert not outer.needs_tokens
    assert LDDPO(DPO()).needs_tokens
    assert WithSFT(LDDPO(DPO())).needs_tokens
    assert AOT().columns == LengthNormalized(AOT()).columns == frozenset()
    assert not SFT().needs_rejected
    assert WeightedSum({"a": DPO(), "b": BCO()}, {"a": 1, "b": 1}).columns == {"weight", "label_noise"}


def test_a_modifier_keeps_the_declarations_without_the_check_of_its_base():
    """A subclass of the user may have a `__post_init__` that does not call that of Modifier."""

    @dataclass(frozen=True)
    class Bounded(Modifier):
        bound: float = 1.0

        def __post_init__(self) -> None:
            assert self.bound > 0

    assert Bounded(AOT()).whole_step
    assert Bounded(LDDPO(DPO())).needs_tokens
    assert not Bounded(TwoWay()).needs_reference
    assert Bounded(DPO()).columns == DPO().columns
    with pytest.raises(ValueError, match="LengthNormalized cannot hold Bounded, which reads lengths itself"):
        LengthNormalized(Bounded(IPO()))
    with pytest.raises(UserError, match=r"Bounded must hold a loss in loss.loss, such as DPO"):
        check_declared(Bounded({"_target_": "x"}))
