"""A meter of tensor memory: what lives at once while something is computed, on real or on fake tensors."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
_IN_PLACE_WITHOUT_MODE = frozenset(
    {_aten.add.Tensor, _aten.index_add.default, _aten.scatter_add.default, _aten.index_put.default}
)
"""What autograd's engine and formulas write in place, and out of place while any mode is entered."""
Observer = Callable[[Any, list[Tensor], Any, Any, Any], None]


@dataclass(slots=True)
class _Block:
    """The bytes of one storage, and those of them that are counted apart."""

    size: int
    apart: int


class LiveBytes(TorchDispatchMode):
    """Follows the bytes of all tensor storages created while it is entered; `peak` is the most that lived at once.

    Works on real and on fake tensors alike. What a kernel allocates and frees inside itself is not seen. `block`: bytes
    that an allocator rounds up to. `apart`: which tensors to count once more by themselves; `apart_at_peak` are the
    bytes of theirs that `peak` contains. `observe` is told of every operator: the operator, its tensors (inputs, then
    outputs), its arguments and its output.

    While any mode is entered, autograd makes new tensors where it else writes in place: where two gradients meet
    (torch/csrc/autograd/input_buffer.cpp, can_accumulate_inplace) and in the formulas of indexing (FunctionsManual.cpp,
    isTensorSubclassLike). Such an output is counted as its first input, if that is gone by the next operator.
    """

    def __init__(
        self,
        block: int = 1,
        apart: Callable[[Tensor], bool] = lambda _: False,
        observe: Observer = lambda *_: None,
    ) -> None:
        super().__init__()
        self.now = self.peak = self.apart_at_peak = self._apart_now = 0
        self._unit, self._apart, self._observe = block, apart, observe
        self._blocks: weakref.WeakKeyDictionary[Any, _Block] = weakref.WeakKeyDictionary()
        self._replaced: weakref.ref[Any] | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":  # a question to a fake tensor, as for its device
            return func(*args, **kwargs)
        self._judge_replacement()
        out = func(*args, **kwargs)
        given, made = list(_tensors((args, kwargs))), list(_tensors(out))
        self._observe(func, given + made, args, kwargs, out)
        inputs = {id(tensor.untyped_storage()) for tensor in given}
        for tensor in made:
            storage = tensor.untyped_storage()
            if id(storage) not in inputs and storage not in self._blocks:
                self._follow(storage, tensor, given[0] if _replaces(func, given) else None)
        return out

    def _follow(self, storage: Any, tensor: Tensor, replaced: Tensor | None) -> None:
        size = -(-storage.nbytes() // self._unit) * self._unit
        block = _Block(size, size if self._apart(tensor) else 0)
        self._blocks[storage] = block
        weakref.finalize(storage, self._freed, block)
        self.now += block.size
        self._apart_now += block.apart
        if replaced is None:
            self._note_peak()
        else:
            self._replaced = weakref.ref(replaced.untyped_storage())

    def _judge_replacement(self) -> None:
        """Whether the last such output could have been written in place: then its first input is gone by now."""
        if self._replaced is not None:
            if self._replaced() is not None:
                self._note_peak()
            self._replaced = None

    def _note_peak(self) -> None:
        if self.now > self.peak:
            self.peak, self.apart_at_peak = self.now, self._apart_now

    def _freed(self, block: _Block) -> None:
        self.now -= block.size
        self._apart_now -= block.apart


def _replaces(func: Any, given: list[Tensor]) -> bool:
    """Whether autograd computes here what it would write into the first input, a whole storage, without a mode."""
    if func not in _IN_PLACE_WITHOUT_MODE or torch.is_grad_enabled() or torch._C._current_autograd_node() is None:
        return False
    return given[0].nbytes == given[0].untyped_storage().nbytes()


def _tensors(tree: Any) -> Iterator[Tensor]:
    """The tensors in an operator's arguments or output: nested tuples, lists and keyword mappings."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (tuple, list)):
        for branch in tree:
            yield from _tensors(branch)
    elif isinstance(tree, dict):
        yield from _tensors(tuple(tree.values()))
