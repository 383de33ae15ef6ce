"""A LightningModule with a policy and its frozen reference: how they are opened, sharded, moved and saved."""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from lightning import LightningModule
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from lightning_dpo.checkpoints.identity import Identity, packages, warn_of_versions
from lightning_dpo.checkpoints.reading import ENTRY, FORMAT, check_resumable, entry_of
from lightning_dpo.errors import UserError
from lightning_dpo.logps.forward import base_model
from lightning_dpo.losses import PreferenceLossFunction
from lightning_dpo.models.adapter import AdapterFactory, check_adapter
from lightning_dpo.models.causal_lm import PolicySource, check_source, opened_policy
from lightning_dpo.models.facts import adapter_facts, model_facts, reference_facts, scoring_facts, weights_facts
from lightning_dpo.models.frozen import can_store_in_bf16, is_exact_in_bf16, store_in_bf16
from lightning_dpo.models.opening import freeze_other_parts
from lightning_dpo.models.preparation import check_fits, ready_policy
from lightning_dpo.models.probe import check_opened, probe
from lightning_dpo.models.quantization import check_quantized, is_quantized
from lightning_dpo.models.reference import Reference
from lightning_dpo.models.reference_factories import ReferenceFactory
from lightning_dpo.models.sharding import shard
from lightning_dpo.training.model_hooks import model_opened
from lightning_dpo.training.precision import convert
from lightning_dpo.training.start_checks import check_declared
from lightning_dpo.training.trainer_attributes import datamodule_of


class PolicyModule(LightningModule):
    """Policy, reference and loss of `DPOModule`, without the training.

    Args:
        policy: A hub id or folder, a model, or a function that returns one. Models are opened in `configure_model`.
        loss: The loss; it decides which references are valid.
        reference: Creates the reference from the untrained policy.
        adapter: Selects what is trained; None: the parameters with `requires_grad`.
        resume_allow: Kinds of differences between a run and the checkpoint that it resumes from; see `WAIVABLE`.

    Attributes:
        policy: The policy; None until `configure_model`.
        reference: The reference, outside the module tree, so that checkpoints, optimizers and strategy wrappers do not
            include it. None until `configure_model`, or if the loss needs none.
        untouched: Whether the policy has the weights that it was opened with: no checkpoint was loaded, and no update
            was applied.
        scored_with: Everything that the log-probs of the reference depend on, besides tokens and precision.
        identity: The settings, weights and data that the training depends on.
        validated_step: Number of optimizer steps at the latest validation.
    """

    policy: PreTrainedModel
    reference: Reference | None

    def __init__(
        self,
        policy: PolicySource,
        loss: PreferenceLossFunction,
        reference: ReferenceFactory,
        adapter: AdapterFactory | None,
        resume_allow: Collection[str] = (),
    ) -> None:
        super().__init__()
        check_source(policy)
        check_declared(loss)
        check_adapter(adapter)
        if not isinstance(reference, ReferenceFactory):
            raise UserError(
                f"reference={type(reference).__name__} must be a reference of lightning_dpo, such as Auto() or "
                "AnotherModel('path/or/hub-id')"
            )
        reference.check(loss, adapter)
        self.policy = None  # type: ignore[assignment]  # created in configure_model
        self._untrained_policy = [policy]  # in a list, so that nn.Module does not register a model
        self.loss, self.make_reference, self.make_adapter = loss, reference, adapter
        self.validated_step: int | None = None
        self.identity = Identity(resume_allow)
        self.identity.add("loss", {"loss": repr(loss)})
        self.hold_reference(None)
        self.untouched, self.scored_with = True, dict[str, str]()

    def configure_model(self) -> None:
        """Open the policy and create its reference, once; then let callbacks use them before a checkpoint is loaded."""
        if self.policy is None:
            self._open()
        if self._trainer is not None:
            # The strategy does both later; but callbacks compute with the models now.
            if self.device_mesh is None:
                self.to(self.trainer.strategy.root_device)
            convert(self, self.trainer.precision_plugin)
            model_opened(self.trainer, self)

    def _open(self) -> None:
        # The order matters: digest and probe before the adapter, the reference from the untrained policy, and `shard`
        # last, because sharded modules can be neither copied nor compared.
        source = self._untrained_policy.pop()
        policy = ready_policy(opened_policy(source))
        data = datamodule_of(self.trainer) if self._trainer else None
        if data is not None and hasattr(data, "tokenizer") and hasattr(data, "max_length"):
            check_fits(policy, data.tokenizer, data.max_length)
        self.identity.add("model", model_facts(policy))
        self.identity.add("weights", weights_facts(policy, source))
        # Log-probs before anything is added, for the check at the end.
        opened = probe(policy) if self.make_adapter or isinstance(policy, PeftModel) else None
        # After `ready_policy`, which would remove the dropout of a new adapter.
        self.policy = self.make_adapter(policy).train() if self.make_adapter else policy
        freeze_other_parts(base_model(self.policy))  # an adapter may have modules in them
        if is_quantized(self.policy) and self._trainer is not None:
            check_quantized(self.policy, self.trainer.state.fn == "fit", self.device_mesh is not None)
        # The frozen base weights of an adapter are not in checkpoints; `load_state_dict` checks all others.
        self.strict_loading = not isinstance(self.policy, PeftModel)
        self.hold_reference(self.make_reference(self.policy, self.loss))
        check_opened(opened, self.policy, self.reference)
        for kind, facts in adapter_facts(self.policy).items():
            self.identity.add(kind, facts)
        self.identity.add("weights", reference_facts(self.reference))
        self.scored_with = scoring_facts(self.reference, self.policy, self.identity.facts["weights"])
        self._store_frozen()
        # Set only by ModelParallelStrategy, before this hook.
        if self.device_mesh is not None:
            for model in self.models:
                shard(model, self.device_mesh["data_parallel"], str(self.trainer.precision))

    def _store_frozen(self) -> None:
        """With bf16-mixed, store frozen weights in bf16, which changes no result. FSDP converts what it gathers."""
        if self._trainer is None or self.trainer.precision != "bf16-mixed" or self.device_mesh is not None:
            return
        device = self.trainer.strategy.root_device
        if can_store_in_bf16(self.policy):
            store_in_bf16(self.policy, device)
        if self.reference is not None and self.reference.model is not None and is_exact_in_bf16(self.reference.model):
            store_in_bf16(self.reference.model, device)

    @property
    def policy_is_reference(self) -> bool:
        """Whether the policy is still equal to its reference, so that all rewards are 0."""
        return self.untouched and self.reference is not None and self.reference.starts_equal

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """The parameters of the policy.

        Raises:
            UserError: The policy has not been opened, so an optimizer that is created now would train nothing.
        """
        if self.policy is None:
            raise UserError(
                "the policy is opened in fit(), so it has no parameters yet: pass optimizer= to DPOModule, with "
                "LightningCLI --model.optimizer=... instead of --optimizer=..., or call configure_model() first"
            )
        return super().parameters(recurse)

    @property
    def models(self) -> list[PreTrainedModel]:
        """The policy, and the reference if it has its own weights."""
        own = self.reference.model if self.reference else None
        return [self.policy] if own is None else [self.policy, own]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store what the training depends on, and the names of the trained tensors."""
        entry = {"format": FORMAT, "trained_with": self.identity.facts, "has_rewards": self.loss.has_rewards}
        entry |= {"tensors": self._trained(), "packages": packages()}
        # A run that resumes after its last step does not repeat the validation.
        checkpoint[ENTRY] = entry | {"validated_step": self.validated_step}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the run has the settings and starting weights of the checkpoint.

        Raises:
            UserError: It does not; the message contains the differences.
        """
        entry = entry_of(checkpoint)
        self.untouched = False
        self.validated_step = entry["validated_step"]
        if self._trainer is not None and self.trainer.state.fn == "fit":
            check_resumable(checkpoint)
            self.identity.resumes(entry["trained_with"])
            warn_of_versions(entry["packages"])
        elif isinstance(self.policy, PeftModel):
            # Only the weights are used, with any loss. Those under the adapter are not in the checkpoint.
            self.identity.opens(entry["trained_with"])
        # The strategy loads a sharded policy without calling `load_state_dict`, so the names are checked here too.
        self._check_tensors(entry["tensors"])

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]  # torch's overloads
        """The state of the policy; with an adapter, only the trained tensors."""
        state = super().state_dict(*args, **kwargs)
        return {name: state[name] for name in self._trained()} if isinstance(self.policy, PeftModel) else state

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load the result of `state_dict`.

        Raises:
            UserError: The checkpoint has other tensors.
        """
        self.untouched, adapter = False, isinstance(self.policy, PeftModel)
        if adapter:
            self._check_tensors(state_dict)
        try:
            return super().load_state_dict(state_dict, strict and not adapter, assign)
        except RuntimeError as error:  # torch lists every tensor in its message
            first = " ".join(str(error).strip().splitlines()[1:2]).strip() or str(error)
            raise UserError(f"the checkpoint has another model or adapter: {first}") from error

    def _check_tensors(self, found: Collection[str]) -> None:
        """Check that a checkpoint has the trained tensors: with `strict=False`, missing ones would be ignored."""
        if different := set(self._trained()) ^ set(found):
            raise UserError(
                f"the checkpoint has another model or adapter: {len(different)} tensors are only in one of them, the "
                f"first is {min(different)}; set model.* and adapter.* to the values that it was trained with"
            )

    def _trained(self) -> list[str]:
        return [name for name, parameter in self.named_parameters() if parameter.requires_grad]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PolicyModule":
        """Move or cast the reference too, which is not a submodule."""
        super()._apply(fn, recurse)
        if self.reference and self.reference.model:
            back = (lambda tensor: tensor) if self.reference.on_device else torch.Tensor.cpu
            self.reference.model._apply(lambda tensor: back(fn(tensor)), recurse)
        return self

    def hold_reference(self, reference: Reference | None) -> None:
        """Set `reference`."""
        # nn.Module.__setattr__ would register a model inside the reference as a submodule.
        object.__setattr__(self, "reference", reference)
