"""Train a small net to name masked crops, on mined pairs: torch, pyarrow and Pillow, nothing of this project.

python examples/train_on_pairs.py PAIRS [EPOCHS]
"""

import io
import sys
from pathlib import Path

import numpy
import pyarrow.parquet
import torch
from PIL import Image

SIDE_PX = 48


class Pairs(torch.utils.data.Dataset):
    """Crop, grey outside its mask, as [3 48 48] in 0 to 1, and the place of its noun among all nouns."""

    def __init__(self, directory: Path) -> None:
        """Read the tables, and no picture."""
        columns, usable = ["noun", "crop", "crop_mask"], [("status", "=", "ok")]
        self.rows = [
            (path.with_suffix(".tar"), row)
            for path in sorted(directory.glob("shard-*.parquet"))
            for row in pyarrow.parquet.read_table(path, columns=columns, filters=usable).to_pylist()
        ]
        self.nouns = sorted({row["noun"] for _, row in self.rows})

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        tar, row = self.rows[number]
        with tar.open("rb") as file:  # each row says where in the tar its two pictures are
            crop, mask = (self._picture(file, row[member]) for member in ("crop", "crop_mask"))
        grey = Image.new("RGB", crop.size, (128, 128, 128))
        values = numpy.asarray(Image.composite(crop, grey, mask).resize((SIDE_PX, SIDE_PX)))
        return torch.from_numpy(values.copy()).permute(2, 0, 1) / 255, self.nouns.index(row["noun"])

    @staticmethod
    def _picture(file: io.BufferedReader, member: dict[str, int]) -> Image.Image:
        file.seek(member["offset"])
        picture = Image.open(io.BytesIO(file.read(member["size_bytes"])))
        return picture.convert("RGB" if picture.mode == "RGB" else "L")


pairs = Pairs(Path(sys.argv[1]))
epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 5
torch.manual_seed(0)
loader = torch.utils.data.DataLoader(pairs, batch_size=32, shuffle=True)
net = torch.nn.Sequential(
    *(torch.nn.Conv2d(3, 32, 5, stride=3), torch.nn.ReLU()),
    *(torch.nn.Conv2d(32, 64, 3, stride=2), torch.nn.ReLU()),
    *(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(256, len(pairs.nouns))),
)
optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)

print(f"{len(pairs)} pairs, {len(pairs.nouns)} nouns")
for epoch in range(1, epochs + 1):
    losses = []
    for crops, nouns in loader:
        loss = torch.nn.functional.cross_entropy(net(crops), nouns)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(f"epoch {epoch}: loss {sum(losses) / len(losses):.3f}")
