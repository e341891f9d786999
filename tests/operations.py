"""Counts what code asks of a device: kernels, and the moments at which the host waits for it."""

from collections import Counter

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
READS = ("tolist", "cpu")  # torch's dispatcher does not see these where tensors are on the CPU already


class CountedOperations(TorchDispatchMode):
    """A context that counts the operations of torch within it.

    Attributes:
        names: How often each operation was called that starts kernels.
        waits: How often each was called for which the host waits; a mask as an index is one.
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
        self._own = {name: getattr(torch.Tensor, name) for name in READS}
        for name, read in self._own.items():
            setattr(torch.Tensor, name, self._counting(name, read))
        return super().__enter__()

    def __exit__(self, *error):
        for name, read in self._own.items():
            setattr(torch.Tensor, name, read)
        return super().__exit__(*error)

    def _counting(self, name, read):
        def counted(tensor, *args, **kwargs):
            self.waits[name] += 1
            return read(tensor, *args, **kwargs)

        return counted
