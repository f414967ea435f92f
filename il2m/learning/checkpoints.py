"""Checkpoints: a training under way, in one file, so that it goes on after its last stored epoch. A file is a SHA-256
hash and what torch.save made of the training's state (torch.load alone takes flipped bits for weights). It is for this
installation and this one training only; what is to last is in a run's state folders."""

import hashlib
import io
import warnings
from pathlib import Path
from typing import Any

import torch

from il2m.system.files import write_atomically
from il2m.system.hashes import short_hash


def write_checkpoint(path: Path, training: dict[str, Any], state: dict[str, Any]) -> None:
    """Store ``state`` (plain values and tensors), all or nothing. training: JSON-like, what tells it from any other."""
    buffer = io.BytesIO()
    torch.save({**state, "training": short_hash(training)}, buffer)
    content = buffer.getvalue()
    write_atomically(path, hashlib.sha256(content).digest() + content)


def read_checkpoint(path: Path, training: dict[str, Any]) -> dict[str, Any] | None:
    """The state stored for ``training``, tensors on the CPU; None, with a warning, for a damaged or another's one."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    problem = "is damaged"
    if hashlib.sha256(content[32:]).digest() == content[:32]:
        state = torch.load(io.BytesIO(content[32:]), map_location="cpu", weights_only=True)
        if state.pop("training") == short_hash(training):
            return state
        problem = "is of another training, or of another version of torch"
    warnings.warn(f"{path} {problem}: this training starts again at epoch 1.", stacklevel=3)
    return None


def weights_hash(model: torch.nn.Module) -> str:
    """Hash of a model's weights and buffers."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().data)
    return digest.hexdigest()
