"""A LightningModule with a policy and its frozen reference: how they are opened, sharded, moved and saved."""

from collections.abc import Callable, Mapping
from typing import Any

from lightning import LightningModule
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from lightning_dpo.losses import PreferenceLossFunction
from lightning_dpo.models.adapter import AdapterFactory
from lightning_dpo.models.causal_lm import PolicySource, opened_policy, ready_policy
from lightning_dpo.models.probe import check_opened, probe
from lightning_dpo.models.reference import Reference, ReferenceFactory
from lightning_dpo.models.sharding import shard
from lightning_dpo.training.checkpoint_checks import TrainedWith, check_tensors
from lightning_dpo.training.start_checks import check_declared


class PolicyModule(LightningModule):
    """Policy, reference and loss of `DPOModule`, without the training.

    Args:
        policy: A hub id or folder, a model, or a function that returns one. Models are opened in `configure_model`.
        loss: The loss; it decides which references are valid.
        reference: Creates the reference from the untrained policy.
        adapter: Selects what is trained; None: the parameters with `requires_grad`.

    Attributes:
        policy: The policy; None until `configure_model`.
        reference: The reference, outside the module tree, so that checkpoints, optimizers and strategy wrappers do not
            include it. None until `configure_model`, or if the loss needs none.
        trained_with: The settings and weights that the training depends on.
    """

    policy: PreTrainedModel
    reference: Reference | None

    def __init__(
        self,
        policy: PolicySource,
        loss: PreferenceLossFunction,
        reference: ReferenceFactory,
        adapter: AdapterFactory | None,
    ) -> None:
        super().__init__()
        check_declared(loss)
        reference.check(loss, adapter)
        self.policy = None  # type: ignore[assignment]  # created in configure_model
        self._untrained_policy = [policy]  # in a list, so that nn.Module does not register a model
        self.loss, self.make_reference, self.make_adapter = loss, reference, adapter
        self.trained_with = TrainedWith(loss)
        self._hold_reference(None)

    def configure_model(self) -> None:
        """Open the policy and create its reference, once."""
        if self.policy is not None:
            return
        # The order matters: digest and probe before the adapter, the reference from the untrained policy, and `shard`
        # last, because sharded modules can be neither copied nor compared.
        policy = ready_policy(opened_policy(self._untrained_policy.pop()))
        self.trained_with.starts_from(policy)
        # Log-probs before anything is added, for the check at the end.
        opened = probe(policy) if self.make_adapter or isinstance(policy, PeftModel) else None
        # After `ready_policy`, which would remove the dropout of a new adapter.
        self.policy = self.make_adapter(policy).train() if self.make_adapter else policy
        # The frozen base weights of an adapter are not in checkpoints; `load_state_dict` checks all others.
        self.strict_loading = not isinstance(self.policy, PeftModel)
        self._hold_reference(self.make_reference(self.policy, self.loss))
        check_opened(opened, self.policy, self.reference)
        self.trained_with.trains(self.policy, self.reference)
        # Set only by ModelParallelStrategy, before this hook.
        if self.device_mesh is not None:
            for model in self.models:
                shard(model, self.device_mesh["data_parallel"], str(self.trainer.precision))

    @property
    def models(self) -> list[PreTrainedModel]:
        """The policy, and the reference if it has its own weights."""
        own = self.reference.model if self.reference else None
        return [self.policy] if own is None else [self.policy, own]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the settings of the training: loss, starting weights, adapter, optimizer, schedule."""
        checkpoint |= {"trained_with": dict(self.trained_with.settings), "has_rewards": self.loss.has_rewards}
        if isinstance(self.policy, PeftModel):
            checkpoint["tensors"] = self._trained()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the run has the settings and starting weights of the checkpoint.

        Raises:
            UserError: It does not; the message contains the difference.
        """
        saved = checkpoint.get("trained_with", {})
        # Outside `fit`, as in load_from_checkpoint, only the weights are used, with any loss.
        fits = self._trainer is not None and self.trainer.state.fn == "fit"
        (self.trained_with.resumes if fits else self.trained_with.opens)(saved)
        # The strategy loads a sharded policy without calling `load_state_dict`, so the names are checked here too.
        if "tensors" in checkpoint:
            check_tensors(self._trained(), checkpoint["tensors"])

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]  # torch's overloads
        """The state of the policy; with an adapter, only the trained tensors."""
        state = super().state_dict(*args, **kwargs)
        return {name: state[name] for name in self._trained()} if isinstance(self.policy, PeftModel) else state

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load the result of `state_dict`.

        Raises:
            UserError: The checkpoint has another adapter.
        """
        if not isinstance(self.policy, PeftModel):
            return super().load_state_dict(state_dict, strict, assign)
        check_tensors(self._trained(), state_dict)
        return super().load_state_dict(state_dict, strict=False, assign=assign)

    def _trained(self) -> list[str]:
        return [name for name, parameter in self.named_parameters() if parameter.requires_grad]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PolicyModule":
        """Move or cast the reference too, which is not a submodule."""
        super()._apply(fn, recurse)
        if self.reference and self.reference.model:
            self.reference.model._apply(fn, recurse)
        return self

    def _hold_reference(self, reference: Reference | None) -> None:
        # nn.Module.__setattr__ would register a model inside the reference as a submodule.
        object.__setattr__(self, "reference", reference)
