"""A CUDA device without a GPU: tensors there have shapes, types and a device but no numbers (torch's FakeTensorMode).

What lies on the host is real, as on a machine with a GPU, so that host and device meet at the same places: an operation
that mixes them raises torch's own error. What the host reads from the device is made up (`FakeCuda`), so that code runs
past the moments at which results depend on numbers. Backward passes don't run: autograd needs CUDA's own threads.
"""

from collections import Counter
from contextlib import ExitStack
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

CUDA = torch.device("cuda", 0)


class FakeCuda(TorchDispatchMode):
    """A context in which ``cuda`` can be named as a device, in autocast too.

    A read gives ones. Every condition holds everywhere: its
    sum is the number of its elements, ``nonzero`` has a row for each, and a selection by it selects all.

    Attributes:
        reads: How often each operation read numbers from the device: the host would wait for it there.
    """

    def __init__(self):
        super().__init__()
        self.reads = Counter()
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)

    def __enter__(self):
        self._stack = ExitStack()
        # torch disables autocast for CUDA, with a warning, where there is none
        self._stack.enter_context(
            mock.patch.object(torch.cuda.amp.common, "amp_definitely_not_available", return_value=False)
        )
        self._stack.enter_context(mock.patch.object(torch.cuda, "is_bf16_supported", return_value=True))
        # torch's own reads element by element
        self._stack.enter_context(mock.patch.object(FakeTensor, "tolist", lambda tensor: tensor.cpu().tolist()))
        self._stack.enter_context(self._fake)
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._stack.close()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        # In inference mode torch hands over operations that consist of others as they are.
        if torch.is_inference_mode_enabled() and operation.namespace == "aten":
            super().__enter__()
            try:
                result = operation.decompose(*args, **kwargs)
            finally:
                super().__exit__(None, None, None)
            if result is not NotImplemented:
                return result
        return self._result(operation, args, kwargs)

    def _result(self, operation, args, kwargs):
        name = operation.overloadpacket.__name__
        tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
        on_device = any(isinstance(tensor, FakeTensor) for tensor in tensors)
        target = kwargs.get("device")
        if not on_device and (target is None or torch.device(target).type == "cpu"):
            with unset_fake_temporarily():
                return operation(*args, **kwargs)
        if on_device and name == "_to_copy" and target is not None and torch.device(target).type == "cpu":
            self.reads["to the host"] += 1
            return self._read(args[0].shape, kwargs.get("dtype") or args[0].dtype)
        if on_device and name == "copy_" and not isinstance(args[0], FakeTensor):
            self.reads["to the host"] += 1
            with unset_fake_temporarily():
                return args[0].copy_(self._read(args[1].shape, args[1].dtype))
        if on_device and name in SELECTIONS:
            self.reads[name] += 1
            return SELECTIONS[name](*args, **kwargs)
        if on_device and name in ("item", "_local_scalar_dense", "equal", "is_nonzero"):
            self.reads["to the host"] += 1
            if (counted := getattr(args[0], "counted", None)) is not None:
                return counted
            return (
                True if args[0].dtype is torch.bool or name == "equal" else (1.0 if args[0].is_floating_point() else 1)
            )
        if on_device and name in ("index", "index_put", "index_put_"):
            positions = [position for index in args[1] for position in self._positions(index)]
            args = (args[0], positions, *args[2:])
        result = operation(*args, **kwargs)
        if on_device and name == "sum" and args[0].dtype is torch.bool and result.ndim == 0:
            result.counted = args[0].numel()
        return result

    def _read(self, shape, dtype):
        """Return what the host gets to see of a tensor."""
        with unset_fake_temporarily():
            return torch.ones(tuple(shape), dtype=dtype)

    def _positions(self, index):
        """Turn a condition on the device into the positions that it selects, one tensor for each of its dimensions."""
        if index is None or index.dtype is not torch.bool:
            return [index]
        self.reads["selection by a condition"] += 1
        if not isinstance(index, FakeTensor):
            with unset_fake_temporarily():
                return list(index.nonzero().unbind(1))
        return [torch.empty(index.numel(), dtype=torch.int64, device=index.device) for _ in index.shape]


def _nonzero(condition):
    return torch.empty((condition.numel(), condition.ndim), dtype=torch.int64, device=condition.device)


def _unique_values(values, *_, **__):
    numbers = torch.empty(values.shape, dtype=torch.int64, device=values.device)
    return values.flatten(), numbers, numbers.flatten()


def _unique_rows(values, dim, *_, **__):
    numbers = torch.empty(values.shape[dim], dtype=torch.int64, device=values.device)
    return values.clone(), numbers, numbers.clone()


def _masked_select(values, condition):
    return values.expand(torch.broadcast_shapes(values.shape, condition.shape)).flatten()


def _bincount(values, weights=None, minlength=0):
    dtype = torch.int64 if weights is None else torch.float64
    return torch.empty(max(1, minlength), dtype=dtype, device=values.device)


SELECTIONS = {
    "nonzero": _nonzero,
    "masked_select": _masked_select,
    "_unique2": _unique_values,
    "unique_dim": _unique_rows,
    "unique_consecutive": _unique_values,
    "bincount": _bincount,
}
