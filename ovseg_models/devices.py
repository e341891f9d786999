"""Which device computes: the one rule of the stages, the commands and the segmenter."""

import torch

AUTO = "auto"
"""CUDA where there is one, else the CPU."""


def chosen_device(device: str | torch.device, local_rank: int | None = None) -> torch.device:
    """Return the device of a name.

    Args:
        device: `AUTO`, or a device of torch, such as ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
        local_rank: Of several processes on this machine: the GPU of this one, where none is named.

    Raises:
        ValueError: If torch has no such device, or CUDA is asked for and there is none, or none of that number.
    """
    if device == AUTO and not torch.cuda.is_available():
        return torch.device("cpu")
    try:
        chosen = torch.device("cuda" if device == AUTO else device)
    except RuntimeError as error:
        raise ValueError(f"{device!r}, 'auto', 'cpu', 'cuda' or 'cuda:N' is expected; name one of them") from error
    if chosen.type != "cuda":
        return chosen
    if not torch.cuda.is_available():
        raise ValueError(f"{str(device)!r}, but torch sees no CUDA device; set it to 'auto' or 'cpu'")
    if str(device) in {AUTO, "cuda"} and local_rank is not None:
        chosen = torch.device("cuda", local_rank)
    if (chosen.index or 0) >= torch.cuda.device_count():
        found = f"{str(chosen)!r}, but torch sees {torch.cuda.device_count()} CUDA devices, from cuda:0 on"
        raise ValueError(
            f"{found}; {'choose one of them' if local_rank is None else 'start no more processes than that'}"
        )
    return chosen
