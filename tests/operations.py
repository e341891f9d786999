"""Counts what code asks of a device: kernels, and the moments at which the host waits for it."""

from collections import Counter
from contextlib import ExitStack
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# These start no kernel: another view of the same memory, or memory without content.
VIEWS = {
    *("_reshape_alias", "_unsafe_view", "alias", "as_strided", "detach"),
    *("empty", "empty_like", "empty_strided", "expand", "lift_fresh"),
    *("new_empty", "permute", "select", "slice", "split", "split_with_sizes", "squeeze"),
    *("t", "transpose", "unbind", "unfold", "unsqueeze", "view"),
}
WAITS = {"_local_scalar_dense", "_unique2", "masked_select", "nonzero", "unique_consecutive", "unique_dim"}
# Torch's dispatcher does not see these where tensors are on the CPU already.
ALWAYS_WAIT = ("tolist", "cpu", "new_tensor")
COPIES = {torch.Tensor: ("to",), torch: ("tensor", "as_tensor")}


class CountedOperations(TorchDispatchMode):
    """A context that counts the operations of torch within it.

    Attributes:
        names: How often each operation was called that starts kernels.
        waits: How often each was called for which the host waits; a mask as an index is one. So is a copy to a named
            device that may block, also one that has nothing to copy here, where all is on the CPU: after such a copy
            from the host torch waits for the stream.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    @property
    def kernels(self) -> int:
        return self.names.total()

    @property
    def synchronisations(self) -> int:
        return self.waits.total()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket.__name__
        if name not in VIEWS:
            self.names[name] += 1
        by_mask = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if name in WAITS or by_mask:
            self.waits[name] += 1
        return operation(*args, **(kwargs or {}))

    def __enter__(self):
        self._patches = ExitStack()
        for name in ALWAYS_WAIT:
            self._patch(torch.Tensor, name, lambda *_: True)
        for place, names in COPIES.items():
            for name in names:
                self._patch(place, name, _is_blocking_copy)
        return super().__enter__()

    def __exit__(self, *error):
        self._patches.close()
        return super().__exit__(*error)

    def _patch(self, place, name, waits):
        own = getattr(place, name)

        def counted(*args, **kwargs):
            if waits(args, kwargs):
                self.waits[name] += 1
            return own(*args, **kwargs)

        self._patches.enter_context(mock.patch.object(place, name, counted))


def _is_blocking_copy(arguments, options):
    """Return whether a device is named, of a tensor or as such, and the copy to it may block."""
    devices = [*arguments[1:], *options.values()]
    named = any(isinstance(value, torch.device | torch.Tensor | str) for value in devices)
    return named and True not in (options.get("non_blocking"), *(value for value in arguments[1:] if value is True))
