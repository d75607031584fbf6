"""How a user's function wants to be called: on a batch or on a row, with torch or with NumPy; found out by trying."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import EvaluationError

__all__ = ["BATCHING", "Answer", "Caller", "WrongShape", "WrongType"]

BATCHING = {
    "auto": ("native", "numpy", "vmap", "loop", "numpy-loop"),
    "native": ("native", "numpy"),
    "vmap": ("vmap",),
    "loop": ("loop", "numpy-loop"),
}
"""The ways that each ``batching=`` tries, in this order."""

GROUPS = 4  # how many places of the first batch are tried before the function is given up


class WrongShape(ValueError):
    """The function returned something of another shape than it should."""


class WrongType(TypeError):
    """The function returned something of another type than it should."""


@dataclass(frozen=True)
class Answer:
    """What came of a batch of points.

    Attributes:
        values: as the function returned them, float64, shape ``(batch,)``; NaN where it raised.
        failed: where it raised, shape ``(batch,)``.
        gradients: shape ``(batch, dim)``, where they were asked for.
        error: what the first failure said.
    """

    values: Tensor
    failed: Tensor
    gradients: Tensor | None = None
    error: str = ""

    @staticmethod
    def joined(answers: list[Answer]) -> Answer:
        """Several answers as one."""
        if len(answers) == 1:
            return answers[0]
        gradients = [a.gradients for a in answers if a.gradients is not None]
        return Answer(
            torch.cat([a.values for a in answers]),
            torch.cat([a.failed for a in answers]),
            torch.cat(gradients) if gradients else None,
            next((a.error for a in answers if a.error), ""),
        )


class Caller:
    """A log-density together with the way to call it; travels to worker processes as one object.

    Args:
        function: the user's function.
        batching: one of :data:`BATCHING`.
        gradient: "auto" or True for autograd, False for none, or a callable ``(batch, dim) -> (batch, dim)``.
        dtype: what the function is given.
        device: where it is given it.
        caller: public name for error messages.
        argument: the user's name for the function.

    Attributes:
        mode: the way that works; ``None`` until :meth:`discover` has found it.
        num_probes: calls, in points, that :meth:`discover` took.
        differentiable: whether gradients are to be had; ``None`` until :meth:`detect_gradient` has found out.
        num_gradient_probes: calls, in points, that :meth:`detect_gradient` took.

    >>> caller = Caller(lambda row: -(row[0] ** 2) - row[1] ** 2)
    >>> caller.discover(torch.ones(8, 2, dtype=torch.float64))
    >>> caller.mode
    'vmap'
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        *,
        batching: str = "auto",
        gradient: Any = "auto",
        dtype: torch.dtype = torch.float64,
        device: torch.device | None = None,
        caller: str = "fit",
        argument: str = "log_density",
    ) -> None:
        self.function, self.gradient, self.batching = function, gradient, batching
        self.dtype, self.device = dtype, torch.device("cpu") if device is None else device
        self.mode: str | None = None
        self.num_probes = 0
        self.differentiable: bool | None = True if gradient is True or callable(gradient) else None
        if gradient is False or gradient is None:
            self.differentiable = False
        self.num_gradient_probes = 0
        self._caller, self._argument = caller, argument

    @property
    def row_by_row(self) -> bool:
        """Whether a value cannot depend on the batch that its point is in."""
        return self.mode in ("loop", "numpy-loop")

    def discover(self, x: Tensor) -> None:
        """Find the first way of calling that gives one value per point, the same for a point alone as in a batch.

        Raises:
            EvaluationError: every way raised.
            TypeError: the function returned something that holds no floating-point numbers.
            ValueError: it returned something of another shape.
        """
        if self.mode is not None:
            return
        failures: dict[str, Exception] = {}
        for group in range(min(GROUPS, len(x))):  # a point where the function raises must not decide
            start = group * max(1, len(x) // GROUPS)
            rows = x[(start + torch.arange(2, device=x.device)) % len(x)]
            for mode in BATCHING[self.batching]:
                if mode.startswith("numpy") and x.device.type != "cpu":
                    continue
                try:
                    self._try(mode, rows)
                except Exception as error:
                    failures.setdefault(mode, error)
                else:
                    self.mode = mode
                    return
            if all(isinstance(error, WrongShape | WrongType) for error in failures.values()):
                break
        self._raise(failures)

    def detect_gradient(self, x: Tensor) -> bool:
        """Whether autograd gives gradients at a few points; never raises."""
        if self.differentiable is None:
            self.num_gradient_probes += len(x)
            try:
                with warnings.catch_warnings():  # torch warns of what is being found out
                    warnings.simplefilter("ignore")
                    answer = self.gradients(x)
                self.differentiable = not bool(answer.failed.all())
            except Exception:
                self.differentiable = False
        return self.differentiable

    def values(self, x: Tensor) -> Answer:
        """Values at points of shape ``(batch, dim)``; a batch that raises is halved until the guilty points are found."""
        assert self.mode is not None
        return self._answer(x, self._call_values)

    def gradients(self, x: Tensor) -> Answer:
        """Values and gradients at points of shape ``(batch, dim)``."""
        assert self.mode is not None
        return self._answer(x, self._call_gradients)

    def _answer(self, x: Tensor, call: Callable[[Tensor], Answer]) -> Answer:
        if self.row_by_row and len(x) > 1:
            return Answer.joined([self._answer(row, call) for row in x.split(1)])
        try:
            return call(x)
        except (WrongShape, WrongType):
            raise
        except Exception as error:
            if len(x) > 1:
                half = len(x) // 2
                return Answer.joined([self._answer(x[:half], call), self._answer(x[half:], call)])
            nothing = torch.full((1,), torch.nan, dtype=torch.float64, device=x.device)
            zero = torch.zeros(1, x.shape[1], dtype=torch.float64, device=x.device)
            gradients = zero if call == self._call_gradients else None
            return Answer(nothing, torch.ones_like(nothing, dtype=torch.bool), gradients, _said(error))

    def _call_values(self, x: Tensor) -> Answer:
        with torch.no_grad():
            values = self._raw(str(self.mode), x)
        return self._packed(values, x)

    def _call_gradients(self, x: Tensor) -> Answer:
        if str(self.mode).startswith("numpy") and not callable(self.gradient):
            raise WrongType(
                f"{self._caller}: expected a function of torch tensors for autograd; got one of NumPy arrays. Pass gradient=."
            )
        if callable(self.gradient):
            answer = self._call_values(x)
            gradients = self.gradient(self._given(str(self.mode), x))
            gradients = torch.from_numpy(gradients) if isinstance(gradients, np.ndarray) else gradients
            if not isinstance(gradients, Tensor) or gradients.shape != x.shape:
                got = tuple(gradients.shape) if isinstance(gradients, Tensor) else type(gradients).__name__
                raise WrongShape(
                    f"{self._caller}: expected `gradient` to return shape {tuple(x.shape)}; got {got}. Return one row per point."
                )
        else:
            with torch.enable_grad():
                inner = x.detach().to(self.device, self.dtype, copy=True).requires_grad_()
                values = self._raw(str(self.mode), inner)
                if not values.requires_grad:
                    raise WrongType(
                        f"{self._caller}: expected `{self._argument}` to be differentiable by autograd; got values without "
                        "a graph. Pass gradient=, or gradient=False."
                    )
                (gradients,) = torch.autograd.grad(values.sum(), inner)
            answer = self._packed(values, x)
        return Answer(answer.values, answer.failed, gradients.detach().to(x.device, torch.float64))

    def _packed(self, values: Tensor, x: Tensor) -> Answer:
        values = values.detach().to(x.device, torch.float64)
        return Answer(values, torch.zeros(len(x), dtype=torch.bool, device=x.device))

    def _given(self, mode: str, x: Tensor) -> Any:
        """The points as the function is given them."""
        x = x.to(self.device, self.dtype, copy=True)  # a function may work in place
        return x.numpy() if mode.startswith("numpy") else x

    def _raw(self, mode: str, x: Tensor) -> Tensor:
        """Call the function in one way and check what it returns, every time."""
        given = self._given(mode, x)
        if mode == "vmap":
            return self._checked(torch.vmap(self.function)(given), len(x))
        if not mode.endswith("loop"):
            return self._checked(self.function(given), len(x))
        return torch.stack([self._checked(self.function(row), 0) for row in given])

    def _checked(self, result: Any, batch: int) -> Tensor:
        """The result as a tensor of shape ``(batch,)``, or ``()`` for a row (``batch`` 0)."""
        name, shape = self._argument, (batch,) if batch else ()
        if isinstance(result, np.ndarray | np.generic):
            result = torch.as_tensor(np.asarray(result))
        elif isinstance(result, float | int) and not isinstance(result, bool) and batch <= 1:
            result = torch.tensor(float(result), dtype=torch.float64)
        if not isinstance(result, Tensor):
            raise WrongType(
                f"{self._caller}: expected `{name}` to return a torch.Tensor; got {type(result).__name__}. Compute with torch "
                "or NumPy, and return one value per point."
            )
        if result.shape != shape and not (batch == 1 and result.dim() == 0):
            remedy = "Return one value per point." if result.dim() < 2 and batch else "Sum over the last dimension."
            raise WrongShape(
                f"{self._caller}: expected `{name}` to return shape {shape}; got {tuple(result.shape)}. {remedy}"
            )
        if not result.dtype.is_floating_point:
            raise WrongType(
                f"{self._caller}: expected `{name}` to return floating-point values; got {result.dtype}. Convert with "
                ".to(x.dtype)."
            )
        return result.reshape(shape)

    def _try(self, mode: str, rows: Tensor) -> None:
        """Raise unless this way of calling works."""
        with torch.no_grad():
            self.num_probes += len(rows)
            values = self._raw(mode, rows).double()
            if self.batching != "auto" or mode not in ("native", "numpy"):
                return
            for i in range(2):  # alone, a row has no square batch to hide a mistaken axis in
                self.num_probes += 1
                alone = self._raw(mode, rows[i : i + 1]).double()
                if not torch.allclose(values[i : i + 1], alone, rtol=1e-4, atol=1e-6, equal_nan=True):
                    raise WrongShape(
                        f"{self._caller}: expected `{self._argument}` to give a point the same value in any batch; got "
                        f"{float(values[i])} in a batch of {len(rows)} and {float(alone)} alone. Treat the rows separately."
                    )

    def _raise(self, failures: dict[str, Exception]) -> None:
        """The clearest of the errors, and what every other attempt said."""
        first = next(iter(failures.values()))
        told = "; ".join(f"{mode}: {_said(error)}" for mode, error in failures.items())
        for error in failures.values():
            if isinstance(error, WrongShape | WrongType):
                alike = all(isinstance(other, WrongShape | WrongType) for other in failures.values())
                raise type(error)(str(error) if alike else f"{error} (Tried {told}.)") from error
        raise EvaluationError(
            f"{self._caller}: expected `{self._argument}` to evaluate a batch of points; it raised in every way of calling. "
            f"Tried {told}."
        ) from first


def _said(error: BaseException) -> str:
    """One line of an exception."""
    text = str(error).strip().split("\n")[0][:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
