"""Reading, from a training step that was made anyway, which samples the model got right."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, nn

from lightning_mixcd.errors import CaptureError, check_range
from lightning_mixcd.functional.joining import n_rows
from lightning_mixcd.reading import Reading, classified, described, embedded, ruled, sized

__all__ = ["Reading", "Readout"]

TARGET_KEYS = ("labels", "label", "y", "target", "targets")

REMEDIES = """Any one of these makes it readable:
  1. return {"loss": loss, "logits": logits} from `training_step` (or a Hugging Face model output as it is);
  2. name the submodule whose output is the logits: Readout(module="classifier");
  3. return {"loss": loss, "correct": correct} with a bool per row;
  4. pass your own rule: Readout(correctness=lambda outputs, batch: ...), a bool per row;
  5. go by the rise of the loss: return {"loss": loss, "losses": losses}, and pass Readout(tolerance=0.5)."""

COMPILED = (
    " It is inside of what `torch.compile` returned, which may leave hooks out: write `self.net.compile()` "
    "in place of `self.net = torch.compile(self.net)`."
)


class Readout:
    """Says where correctness is to be found; the default understands what most modules return.

    In order: the `correctness` rule; `outputs["correct"]`; logits `(B, C)`, from the named submodule or from
    `outputs["logits"]`, whose argmax is compared with the target; `outputs["preds"]`, compared likewise. Rows
    whose logits are NaN or overflow are wrong, and so are those whose target is none of the C classes, such
    as -100. The reading is that of the training pass: train mode, weights before the step's update.

    The loss of each row, where it is wanted, is `outputs["losses"]`, `(B,)`, or else the cross-entropy of the
    logits: return `losses` where yours is another, as with label smoothing or class weights. They are enough
    for whatever asks for no more than losses.

    Args:
        logits: Key of the logits in what `training_step` returns.
        module: Name of a submodule whose output is the logits, for a `training_step` that returns a loss
            only; where it is called several times in a step, the last time counts.
        features: Name of the *head*: the submodule that makes logits of one vector per row, its features. By
            default the last `nn.Linear`, low-rank block and all; the first logits that are read must be what
            it put out, or rounded from that, which is not checked for a named head. Of several calls in a
            step, the last counts. Only used where features are asked for.
        embedding: Name of a submodule whose output stands for features in place of what a head gets, for
            models without one, such as those that write or read token by token: vectors `(B, d)`; or `(B, L,
            d)`, of which the mean is taken over the tokens that `attention_mask` of the batch has, over all
            L without one. Of an output with several parts, `last_hidden_state` or else the first counts.
            What goes by the head itself cannot be used then.
        target: Key, field or position of the targets in the batch, or a function of the batch; by default
            `labels`, `label`, `y`, `target` or `targets`, or the last element of a tuple. Required where
            several of three or more elements are whole numbers, one per row, as in `(x, y, index)`, or one
            before the last has the shape of the logits.
        correctness: `correctness(outputs, batch)` returns a bool per row, `(B,)`, or a pair of that and the
            loss of each row.
        step: `step(module, batch)` returns outputs outside of training (ledger, oracle); by default
            `module.training_step(batch, 0)`, or the forward of a plain `nn.Module`; pool rows go to the
            module's `rehearsal_step` if it has one.
        tolerance: How far a pool sample's loss may rise above the base model's, in nats, before the sample is
            damaged; then nothing else decides on damage, and every sample counts as base-correct. `losses`
            are enough to read. None goes by right and wrong answers.

    Raises:
        TypeError: If a rule is no function, or `tolerance` no number.
        ValueError: If `tolerance` is out of range, or `features` and `embedding` are both given.

    Example:
        >>> import torch
        >>> outputs = {"logits": torch.tensor([[0.1, 0.9], [0.8, 0.2]])}
        >>> Readout().read(outputs, {"x": torch.zeros(2, 3), "y": torch.tensor([1, 1])}).correct
        tensor([ True, False])
    """

    def __init__(  # noqa: PLR0913 -- where each thing is to be found
        self,
        *,
        logits: str = "logits",
        module: str | None = None,
        features: str | None = None,
        embedding: str | None = None,
        target: str | int | Callable[[Any], Tensor] | None = None,
        correctness: Callable[[Any, Any], Tensor | tuple[Tensor, Tensor]] | None = None,
        step: Callable[[Any, Any], object] | None = None,
        tolerance: float | None = None,
    ) -> None:
        for name, rule in (("correctness", correctness), ("step", step)):
            if rule is not None and not callable(rule):
                raise TypeError(f"`{name}` must be a function, got {rule!r}. Pass its name without brackets.")
        if tolerance is not None:
            check_range("[0, inf)", "It is in nats; None compares answers.", tolerance=tolerance)
        if features is not None and embedding is not None:
            raise ValueError(
                f"`embedding` must be left out where `features` names the head, got {embedding!r} and "
                f"{features!r}. Give the head where it gets one vector per row, else the embedding."
            )
        self.logits, self.module, self.features, self.target = logits, module, features, target
        self.embedding = embedding
        self.correctness, self.step, self.tolerance = correctness, step, tolerance
        self.made_by = "training_step"  # for messages
        self.listens = True
        self._proven: int | None = None  # the id of a head that makes the logits
        self._advice = ""  # for messages, on what is compiled
        self.forget()

    def attach(self, model: nn.Module, *, with_features: bool = False) -> ExitStack:
        """Start listening to the named submodules, if any.

        Args:
            model: The module that is trained.
            with_features: Whether features will be asked for, though no head is named.

        Returns:
            What ends it, with `close()` or as a context.

        Raises:
            CaptureError: If there is no submodule of a name, or it is inside a compiled LightningModule.
        """
        named = None if self.module is None else _submodule(model, "module", self.module)
        shows = None  # the submodule whose input, or output, is the features
        if self.embedding is not None:
            shows = _submodule(model, "embedding", self.embedding) if with_features else None
        elif with_features or self.features is not None:
            shows = self.head(model)
        # Hooks set after compilation do not run; whether earlier ones do depends on what else was compiled.
        hooked = [part for part in (named, shows) if part is not None]
        self._advice = COMPILED if any(_wrapped(part, model) for part in hooked) else ""
        if hooked and getattr(model, "_compiler_ctx", None) is not None:
            raise CaptureError(self._silent())
        self.forget()
        hooks = ExitStack()
        if named is not None:
            hooks.enter_context(named.register_forward_hook(self._keep))
        if shows is not None:
            hooks.enter_context(shows.register_forward_hook(self._keep_call, with_kwargs=True))
        return hooks

    def head(self, model: nn.Module) -> nn.Module:
        """Find the submodule whose input is the features.

        Args:
            model: The module that is trained.

        Returns:
            The named one; the last `nn.Linear` if none is named, or what `peft` put in its place.

        Raises:
            CaptureError: If there is none.
        """
        if self.embedding is not None:
            raise CaptureError(
                f"`features` must name the head, which is needed here, got embedding={self.embedding!r}: the "
                'submodule that makes the logits of one vector per row, Readout(features="classifier").'
            )
        if self.features is not None:
            return _submodule(model, "features", self.features)
        blocks = [module for module in model.modules() if hasattr(module, "lora_A")]
        inside = {part for block in blocks for part in block.modules()} - {*blocks}
        linear = [m for m in model.modules() if m not in inside and isinstance(_without_block(m), nn.Linear)]
        if not linear:
            raise CaptureError(
                "`features` must name the head, because the model has no `nn.Linear` to take for it: "
                'Readout(features="classifier").'
            )
        return linear[-1]

    def __getstate__(self) -> dict[str, Any]:
        # A copy of the model has a copy of this; what has a graph cannot be copied.
        return {**vars(self), "_captured": None, "_head_call": None}

    def forget(self) -> None:
        """Drop what was heard until now, such as that of a validation batch."""
        self._captured: Tensor | None = None
        self._head_call: tuple[nn.Module, object, object] | None = None

    @contextmanager
    def hearing(self, listens: bool) -> Iterator[None]:
        """Listen for a while; or not, and keep what was heard, whatever the model is run on meanwhile.

        Args:
            listens: Which of the two.

        Yields:
            Nothing.
        """
        before, self.listens = self.listens, listens
        try:
            yield
        finally:
            self.listens = before

    def _keep(self, _module: nn.Module, _inputs: object, output: object) -> None:
        if not self.listens:
            return
        output = output[0] if isinstance(output, tuple) else output
        output = output.get("logits") if isinstance(output, Mapping) else output
        self._captured = output if isinstance(output, Tensor) else None

    def _keep_call(
        self, head: nn.Module, inputs: tuple[object, ...], named: Mapping[str, object], output: object
    ) -> None:
        if self.listens:
            self._head_call = head, next(iter((*inputs, *named.values())), None), output

    def read(  # noqa: PLR0913 -- what to read, one flag each
        self,
        outputs: object,
        batch: object,
        *,
        rows: int | None = None,
        last: int | None = None,
        with_loss: bool = False,
        with_logits: bool = False,
        with_features: bool = False,
        with_graph: bool = False,
        keep: bool = False,
    ) -> Reading:
        """Read the last rows of a batch.

        Args:
            outputs: What `on_train_batch_end` was given: what the training step returned.
            batch: The batch of that step.
            rows: Rows of the batch; None to count them.
            last: How many rows, R, counted from the end; None for all.
            with_loss: Whether the loss of each row is wanted too.
            with_logits: Whether the logits are, where there are any.
            with_features: Whether the features are.
            with_graph: Whether what is read can be differentiated, where the outputs can.
            keep: Whether the same step will be read again.

        Returns:
            The reading, on the device of the outputs.

        Raises:
            CaptureError: If there is nothing to read, or it does not have a row per row of the batch.
        """
        captured, head_call = self._captured, self._head_call
        if not keep:
            self.forget()
        rows = n_rows(batch) if rows is None else rows
        part = slice(rows - (rows if last is None else last), rows)
        if captured is None and self.module is None:
            plain = isinstance(outputs, Tensor) and outputs.ndim == 2
            captured = outputs if plain else _given(outputs).get(self.logits)  # type: ignore[assignment]
        if not with_graph and isinstance(captured, Tensor):
            captured = captured.detach()
        fits = with_logits and isinstance(captured, Tensor) and len(captured) == rows
        logits = cast("Tensor", captured)[part] if fits else None
        reading = self._of_rows(outputs, batch, captured, rows, part, with_loss=with_loss, shown=fits)
        if logits is not None:
            reading = replace(reading, logits=logits)
        if with_features:
            reading = replace(reading, features=self._features(head_call, captured, batch, rows, part))
        return reading if with_graph else _detached(reading)

    def _of_rows(
        self,
        outputs: object,
        batch: object,
        logits: object,
        rows: int,
        part: slice,
        *,
        with_loss: bool,
        shown: bool,
    ) -> Reading:
        given = _given(outputs)
        if self.correctness is not None:
            return ruled(self.correctness(outputs, batch), rows, part)
        losses = given.get("losses")
        by_loss = self.tolerance is not None and losses is not None
        by_loss = by_loss and not self._classifies(logits, batch, rows)
        # Where they are not asked for, they may be the parts of a loss under this name.
        if isinstance(losses, Tensor) or (losses is not None and ("correct" in given or by_loss)):
            losses = sized(losses, rows, "losses", ndim=1)[part]
        else:
            losses = None
        if "correct" in given:
            return replace(ruled(given["correct"], rows, part), loss=losses)
        if by_loss and losses is not None:
            return Reading(torch.ones_like(losses, dtype=torch.bool), loss=losses)
        try:
            reading = self._answered(
                outputs, batch, logits, rows, part, with_loss=with_loss and losses is None
            )
        except CaptureError as error:
            if losses is None and not shown:
                raise
            return Reading(loss=losses, problem=str(error))  # for whoever needs no more than what there is
        return reading if losses is None else replace(reading, loss=losses)

    def _answered(
        self, outputs: object, batch: object, logits: object, rows: int, part: slice, *, with_loss: bool
    ) -> Reading:
        given = _given(outputs)
        if logits is not None:
            target = self._target(batch, rows)[part]
            if self.target is None:
                _refuse_soft(batch, logits)
            return classified(sized(logits, rows, "logits")[part], target, with_loss=with_loss)
        if "preds" in given and self.module is None:
            target = self._target(batch, rows)[part]
            guess = sized(given["preds"], rows, "preds", ndim=1)[part]
            if guess.is_floating_point():
                raise CaptureError(
                    f'`outputs["preds"]` must be classes, whole numbers, got {described(guess)}. Return the '
                    "logits instead, or a bool per row as `correct`."
                )
            return Reading(guess == target, label=target)
        raise CaptureError(self._silent() if self.module is not None else _unreadable(outputs, self.made_by))

    def _classifies(self, logits: object, batch: object, rows: int) -> bool:
        several = isinstance(logits, Tensor) and logits.ndim == 2 and logits.shape[1] > 1
        return several and _may_be_target(self._found(batch, rows), rows)

    def _found(self, batch: object, rows: int) -> object:
        return self.target(batch) if callable(self.target) else _find_target(batch, self.target, rows)

    def _target(self, batch: object, rows: int) -> Tensor:
        target = self._found(batch, rows)
        if not _may_be_target(target, rows):
            got = "nothing" if target is None else described(target)
            raise CaptureError(
                f"Targets must be whole numbers of shape ({rows},), one class per row, found {got} in "
                f'{_names(batch)}. Name them: Readout(target="label"), or Readout(target=1) for a tuple; '
                "leave them in the batch, which is read after the step; for what is not classification "
                "return the `losses` of the rows; damage needs Readout(correctness=...) or "
                "Readout(tolerance=...) too."
            )
        return target

    def _features(
        self,
        call: tuple[nn.Module, object, object] | None,
        logits: object,
        batch: object,
        rows: int,
        part: slice,
    ) -> Tensor:
        if self.embedding is None:
            return self._checked(call, logits, rows)[part]
        if call is None:
            raise CaptureError(
                f"`embedding` must name a submodule that runs in `training_step`, got {self.embedding!r}, "
                f"which did not. Name another one.{self._advice}"
            )
        return embedded(call[2], batch, rows, part)

    def _checked(
        self, head_call: tuple[nn.Module, object, object] | None, logits: object, rows: int
    ) -> Tensor:
        head, features, output = head_call or (None, None, None)
        doubtful = self.features is None and self._proven != id(head)
        wrong = doubtful and not _alike(output, logits)
        if isinstance(features, Tensor) and features.ndim == 2 and len(features) == rows and not wrong:
            self._proven = id(head)
            return features
        name = "the last `nn.Linear`" if self.features is None else repr(self.features)
        got = "was given nothing, because it did not run"
        if head is not None:
            got = f"was given {described(features)}"
        if wrong:
            got = "puts out something else, the last time that it is called"
        raise CaptureError(
            f"The head must make logits of one vector per row of the batch ({rows}), but {name} {got}. Name "
            'the submodule that gets the pooled vectors: Readout(features="classifier"). For what needs no '
            'head, name what makes vectors: Readout(embedding="encoder").'
            f"{self._advice if head is None else ''}"
        )

    def _silent(self) -> str:
        name = self.module or self.features or self.embedding
        return (
            f"The submodule {name!r} put out no logits in `training_step`, did not run there, or is inside a "
            "compiled LightningModule, where hooks cannot be relied on. Name the right submodule, compile "
            "the network instead of the LightningModule, or return the logits."
            f"{self._advice}"
        )


def _given(outputs: object) -> Mapping[str, Any]:
    return outputs if isinstance(outputs, Mapping) else {}


def _alike(output: object, logits: object) -> bool:
    if not isinstance(output, Tensor) or not isinstance(logits, Tensor):
        return True  # nothing to compare
    # The same memory needs no wait for the device; a copy may have been rounded.
    return output.shape == logits.shape and (
        output.data_ptr() == logits.data_ptr()
        or torch.allclose(output.to(logits), logits, rtol=0.01, atol=0.001, equal_nan=True)
    )


# What `peft` put a low-rank block beside; anything else as it is.
def _without_block(module: nn.Module | None) -> object:
    return getattr(module, "base_layer", module) if hasattr(module, "lora_A") else module


# Whether `torch.compile` has put a module of its own around it.
def _wrapped(part: nn.Module, model: nn.Module) -> bool:
    return any(
        module is part and "_orig_mod" in name.split(".")
        for name, module in model.named_modules(remove_duplicate=False)
    )


def _submodule(model: nn.Module, argument: str, name: str) -> nn.Module:
    modules: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
    if name not in modules:
        names = [name for name in modules if name][:20]
        raise CaptureError(f"`{argument}` must name a submodule, got {name!r}. There are: {names}.")
    return modules[name]


def _detached(reading: Reading) -> Reading:
    live = {name: value.detach() for name, value in reading.tensors.items() if value.requires_grad}
    return replace(reading, **live) if live else reading


def _unreadable(outputs: object, step: str) -> str:
    problem = f"Correctness of the rehearsed samples cannot be read: `{step}` gave {_names(outputs)}."
    return f"{problem}\n{REMEDIES}".replace("`training_step`", f"`{step}`")


def _may_be_target(value: object, rows: int) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.shape == (rows,) and not value.is_floating_point()


def _find_target(batch: Any, name: str | int | None, rows: int) -> object:  # noqa: ANN401 -- any structure
    if name is not None:
        try:
            return batch[name]
        except (KeyError, IndexError, TypeError):
            return getattr(batch, name, None) if isinstance(name, str) else None
    for key in TARGET_KEYS if type(batch) not in (tuple, list) else ():
        if hasattr(batch, "keys") and key in batch:
            return batch[key]
        if hasattr(batch, key):
            return getattr(batch, key)
    return _last(batch, rows) if isinstance(batch, Sequence) else None


def _last(batch: Sequence[object], rows: int) -> object:
    able = [place for place, part in enumerate(batch) if _may_be_target(part, rows)]
    if len(batch) > 2 and len(able) > 1 and able[-1] == len(batch) - 1:
        raise CaptureError(
            "`target` must be named where several parts of a batch are whole numbers, one per row, got "
            f"{able} of {len(batch)} that are. Say which: Readout(target={able[0]})."
        )
    return batch[-1]


# Where these are the targets, what was taken for them may be an index.
def _refuse_soft(batch: object, logits: object) -> None:
    parts = batch[1:-1] if isinstance(batch, Sequence) else ()
    shape = getattr(logits, "shape", None)
    for place, part in enumerate(parts, start=1):
        if isinstance(part, Tensor) and part.is_floating_point() and part.shape == shape:
            raise CaptureError(
                "`target` must be named where a part of the batch has the shape of the logits, got one at "
                f"{place}. If the last part is the class of each row, say so: Readout(target=-1). If that "
                "one has the targets, return the `losses` of the rows."
            )


def _names(value: Any) -> str:  # noqa: ANN401 -- any structure
    keys = f" with {list(value.keys())}" if hasattr(value, "keys") else ""
    return f"a {type(value).__name__}{keys}"
