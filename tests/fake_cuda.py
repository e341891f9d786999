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

from ovseg_models import masked_crops, region_resize
from ovseg_models.host_to_device import TAKEN_AT_ONCE_BYTES

CUDA = torch.device("cuda", 0)
KEPT_BY_DEVICE = tuple(
    value
    for module in (masked_crops, region_resize)
    for value in vars(module).values()
    if hasattr(value, "cache_clear")
)


class FakeCuda(TorchDispatchMode):
    """A context in which ``cuda`` can be named as a device, in autocast too.

    A read gives ones. Every condition holds everywhere: its
    sum is the number of its elements, ``nonzero`` has a row for each, and a selection by it selects all.

    Attributes:
        waits: How often the host would wait for the device, by reason: it reads numbers from there, or copies some to
            there in a way that waits for all that is queued (`host_to_device`).
    """

    def __init__(self):
        super().__init__()
        self.waits = Counter()
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)

    def __enter__(self):
        self._stack = ExitStack()
        # Constants that code keeps by device: those of this one have no numbers, and are of no use outside.
        for kept in KEPT_BY_DEVICE:
            kept.cache_clear()
            self._stack.callback(kept.cache_clear)
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
        if operation.overloadpacket.__name__ in ("pin_memory", "_pin_memory"):  # would need CUDA's driver
            with unset_fake_temporarily():
                pinned = args[0].clone()
            pinned.is_fake_pinned = True
            return pinned
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
        self._count_sent(name, args, kwargs)
        if not on_device and (target is None or torch.device(target).type == "cpu"):
            with unset_fake_temporarily():
                return operation(*args, **kwargs)
        if on_device and name == "_to_copy" and target is not None and torch.device(target).type == "cpu":
            self.waits["to the host"] += 1
            return self._read(args[0].shape, kwargs.get("dtype") or args[0].dtype)
        if on_device and name == "copy_" and not isinstance(args[0], FakeTensor):
            self.waits["to the host"] += 1
            with unset_fake_temporarily():
                return args[0].copy_(self._read(args[1].shape, args[1].dtype))
        if on_device and name in SELECTIONS:
            self.waits[name] += 1
            return SELECTIONS[name](*args, **kwargs)
        if on_device and name in ("item", "_local_scalar_dense", "equal", "is_nonzero"):
            self.waits["to the host"] += 1
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

    def _count_sent(self, name, args, kwargs):
        """Count copies from the host that wait: blocking ones, and those of more than CUDA takes of pageable memory."""
        non_blocking, sent = kwargs.get("non_blocking", False), []
        if name == "_to_copy" and torch.device(kwargs.get("device") or "cpu").type == "cuda":
            sent = args[:1]
        elif name == "copy_" and isinstance(args[0], FakeTensor):
            sent, non_blocking = args[1:2], non_blocking or args[2:] == (True,)
        elif name in ("index", "index_put", "index_put_") and isinstance(args[0], FakeTensor):
            sent = [index for index in args[1] if index is not None]
        for values in sent:
            pageable = values.nbytes > TAKEN_AT_ONCE_BYTES and not hasattr(values, "is_fake_pinned")
            if not isinstance(values, FakeTensor) and (pageable or not non_blocking):
                self.waits["to the device"] += 1

    def _read(self, shape, dtype):
        """Return what the host gets to see of a tensor."""
        with unset_fake_temporarily():
            return torch.ones(tuple(shape), dtype=dtype)

    def _positions(self, index):
        """Turn a condition on the device into the positions that it selects, one tensor for each of its dimensions."""
        if index is None or index.dtype is not torch.bool:
            return [index]
        self.waits["selection by a condition"] += 1
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
