"""First inputs of each target, from what the format's own writer and its tests know to be interesting."""

from __future__ import annotations

import io
import pickle
import zipfile
from itertools import product

import msgpack
import numpy as np

from fuzz.bases import BASES, SAMPLER, file_of, pieces_of
from fuzz.fkd_files import LABEL_TYPES, RAW
from fuzz.script import CHANGES, INDEX_CHANGES, METADATA_KEYS, VALUES

CODEC_STRINGS = (
    *(base.codec for base in BASES),
    "dense:f16",
    "marginal_smoothing,k=5",
    "smoothing: values = log8 , step=1/4",
    "marginal_renorm:t=1e-3",
    "marginal_renorm:t=.5,step=0.04",
    "marginal_smoothing:k=65535,values=f32,tail=65535",
    "marginal_smoothing:tail=all,mean=log,k=5",
    "marginal_smoothing:t=3.0517578125e-05,tail=1,step=0.5",
    "field:step=1/4,cost=1e-4",
    "field,cost=.1",
    "marginal_smoothing:gain=1/64,tail=9,step=0.25",
)


def seeds(target: str) -> list[bytes]:
    """Return the first inputs of a target."""
    return {
        "header": lambda: [file_of(0)[:32], file_of(0)[:9], b"", b"\x89SLC", file_of(0)[:10] + bytes(22)],
        "metadata": _metadata,
        "codec_string": lambda: [text.encode() for text in CODEC_STRINGS],
        "block": _blocks,
        "index_and_trailer": lambda: _scripts(len(INDEX_CHANGES)),
        "whole_file": lambda: _scripts(len(CHANGES)),
        "fkd": _fkd,
        "imports": _imports,
    }[target]()


def _metadata() -> list[bytes]:
    found = [pieces_of(number).metadata for number in (0, 12, 17, 18, 20)]
    usual = {"num_classes": 5, "codec": "hard", "crops": "pixels", "metadata": {}}
    nested: object = []
    for _ in range(40):
        nested = [nested]
    changes = [*product(METADATA_KEYS, (*VALUES[1:16], SAMPLER.describe(), nested)), ("crop_sampler", {**SAMPLER.describe(), "seed": -1})]
    return found + [msgpack.packb({**usual, key: value}) for key, value in changes[::3]]


def _blocks() -> list[bytes]:
    """Return blocks as our writer makes them, with a few bytes changed here and there, and one that is as uniform as it may be."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(len(BASES)):
        for content in [pieces_of(number).content(place) for place in range(len(pieces_of(number).payloads))][:2]:
            found.append(bytes([number]) + content)
            for _ in range(3):
                changed = bytearray(content)
                changed[rng.integers(min(40, len(content)))] ^= 1 << rng.integers(8)
                found.append(bytes([number]) + bytes(changed[: rng.integers(20, len(content) + 1)]))
    return found


def _scripts(num_changes: int) -> list[bytes]:
    rng = np.random.default_rng(0)
    bases = [bytes([number]) for number in range(len(BASES))]
    once = [bytes([number % len(BASES), number % num_changes]) + rng.bytes(8) for number in range(4 * num_changes)]
    blocks = [bytes([number, 0, 0, 0, number % 60, 0, 1 << number % 8]) for number in range(len(BASES))]
    return bases + once + blocks


def _imports() -> list[bytes]:
    from fuzz.import_files import first_inputs

    return first_inputs()


def _fkd() -> list[bytes]:
    import torch

    rng = np.random.default_rng(0)
    found = []
    for number, name in enumerate(LABEL_TYPES):
        shape = {"hard": (2,), "smoothing": (2, 2)}.get(name, (2, 2, int(name[-1]) if name[-1].isdigit() else 1))
        labels = np.round(rng.uniform(0, 1, shape), 2).astype("f4") if name != "hard" else np.array([3, 4])
        if labels.ndim > 1:
            labels[:, 0] = np.arange(labels[:, 0].size).reshape(labels[:, 0].shape)
        out = io.BytesIO()
        torch.save([rng.uniform(0, 1, (2, 4)).astype("f4"), np.array([True, False]), labels], out)
        with zipfile.ZipFile(out) as archive:
            found.append(bytes([number]) + archive.read("archive/data.pkl"))
        found.append(bytes([RAW + number]) + out.getvalue())
    out = io.BytesIO()
    torch.save([torch.zeros(1, 4), torch.tensor([True]), torch.tensor([3])], out)
    with zipfile.ZipFile(out) as archive:
        found.append(b"\0" + archive.read("archive/data.pkl"))
    evil = [b"cos\nsystem\n(S'true'\ntR.", b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.", pickle.dumps(np.zeros(3), 2)]
    return found + [b"\0" + text for text in evil] + [bytes([RAW]) + text for text in evil]
