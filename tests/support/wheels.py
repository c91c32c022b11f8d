"""Wheels made by hand: a package of one model, whole or wrong in one respect."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path

MODULE = '''
"""A model of a package: two linear layers."""
from __future__ import annotations
from pathlib import Path
from typing import Literal
import torch
from torch import nn
from unisono.methods.training.models.base import ModelSpec

Path(__file__).with_name("imported").touch()

class RetinaNet(ModelSpec):
    kind: Literal["retina-net"] = "retina-net"
    width: int = 3

    def build(self, inputs, outputs):
        return Net(self.width, len(inputs.numbers), outputs)

class Net(nn.Module):
    def __init__(self, width, inputs, outputs):
        super().__init__()
        self.body = nn.Linear(inputs, width)
        self.head = nn.Linear(width, outputs)

    def forward(self, batch):
        return self.head(torch.tanh(self.body(batch.numbers)))
'''
POINTS = "[unisono.models]\nretina-net = retina_models:RetinaNet\n"


def wheel(
    folder: Path,
    name: str = "retina_models",
    version: str = "1.0",
    *,
    files: Mapping[str, str] | None = None,
    points: str | None = POINTS,
    requires: str = "",
    file: str | None = None,
) -> Path:
    """A wheel in `folder`, as a build tool makes one. files: beside its metadata, by path. points: entry_points.txt."""
    info = f"{name}-{version}.dist-info"
    members = dict(files if files is not None else {f"{name}/__init__.py": MODULE})
    members[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n{requires}"
    )
    members[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    if points is not None:
        members[f"{info}/entry_points.txt"] = points
    lines = [f"{path},sha256={_hash(text)},{len(text.encode())}" for path, text in members.items()]
    members[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,"]) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (file or f"{name}-{version}-py3-none-any.whl")
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in members.items():
            archive.writestr(zipfile.ZipInfo(member, (2026, 1, 1, 0, 0, 0)), text)
    return path


def sha256(path: Path) -> str:
    """Of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _hash(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
