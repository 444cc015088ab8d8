"""What is fuzzed: each loader, on a file of any bytes.

A target takes the bytes and an empty folder, and returns nothing. What it checks is the same for all: the loader
returns, or it raises the error that it documents, with a message in one line that names the file. It calls nothing of
the system, and writes no file.
"""

import gzip
import io
import json
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch

import analysis.files
import core.files
from analysis.errors import StudyError
from analysis.schemas import SCHEMAS
from analysis.store import METADATA_KEY, read_provenance, read_table
from chain.drawing import is_drawn, record_path
from chain.plan import digests_of_runs
from core import TrainConfig, load_run, load_weights, states
from core.errors import UserError
from core.runs import list_runs, load_tensors, read_config
from core.tasks import cache, pickles
from figures.errors import FigureError
from figures.fig_a2 import traces

# The package has functions of these names.
cifar_fs, mini_imagenet, omniglot = (
    sys.modules[f"core.tasks.{name}"] for name in ("cifar_fs", "mini_imagenet", "omniglot")
)
Target = Callable[[bytes, Path], None]
SEEDS = Path(__file__).with_name("corpus")
CONFIG = TrainConfig(
    dataset="synthetic", model="linnet", method="meta_sgd", steps=1, adapt_lr=0.5, first_order=False, hidden=(2,),
    meta_optimizer="adam", meta_lr=0.01, iterations=2, tasks_per_iteration=1, points=4, eval_every=1, eval_tasks=2,
)  # fmt: skip
PARTS = ("run.json", "weights.safetensors", "curve.parquet")


class Broken(AssertionError):
    """A promise that a loader did not keep."""


@contextmanager
def refused(*kinds: type[Exception], name: str) -> Iterator[None]:
    """Let errors of these kinds pass, if they are told in one line that names the file."""
    try:
        yield
    except kinds as error:
        text = str(error)
        if len(text) > 1500 or not text.isprintable() or name not in text:
            raise Broken(f"an error is not told in a line that names {name}: {text[:300]!r}") from error


def write(path: Path, data: bytes) -> Path:
    """Make a loader's file; nobody watches meanwhile."""
    was, _watching[:] = _watching[:], []
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    _watching[:] = was
    return path


def must(condition: object, what: str) -> None:
    if not condition:
        raise Broken(what)


def read_json(data: bytes, folder: Path) -> None:
    path = write(folder / "x.json", data)
    found = []
    with refused(UserError, name="x.json"):
        found.append(core.files.read_json(path))
    with refused(StudyError, name="x.json"):
        found.append(analysis.files.read_json(path))
    must(len(found) != 1, "the twins do not agree")
    if found:
        again = json.dumps(found[0])
        must(again == json.dumps(found[1]) == json.dumps(json.loads(data)), "the value is another than Python's")


def read_configuration(data: bytes, folder: Path) -> None:
    write(folder / "config.json", data)
    with refused(UserError, name="config.json"):
        config = read_config(folder)
        again = TrainConfig.from_dict(json.loads(json.dumps(asdict(config))))
        must(again == config and again.id == config.id, "the configuration is another when it was written and read")
        must("/" not in config.id and config.id.isprintable(), "the id names another folder")
    list_runs(folder.parent)


def _run_with(part: str, data: bytes, folder: Path) -> None:
    for name in ("config.json", *PARTS):
        content = data if name == part else (SEEDS / "run" / name).read_bytes()
        write(folder / "runs" / CONFIG.id / name, content)
    with refused(UserError, name=CONFIG.id):
        run = load_run(folder / "runs" / CONFIG.id)
        must(run.config == CONFIG, "another run")
        must(set(run.theta) == {"layers.0.weight", "layers.1.weight"}, "other parameters")
        repr(run)
        if all(tensor.dtype == torch.float32 for tensor in (*run.theta.values(), *run.xi.values())):
            theta = run.model.state_dict()
            must(
                all(torch.equal(theta[name], run.theta[name]) or run.theta[name].isnan().any() for name in theta),
                "theta",
            )
    must(len(list_runs(folder)) == 1, "not listed")


def _part(name: str) -> Target:
    return lambda data, folder: _run_with(name, data, folder)


def read_state(data: bytes, folder: Path) -> None:
    path = write(folder / "state.safetensors", data)
    with refused(UserError, name="state.safetensors"):
        _, metadata = states.read_state(path, CONFIG)
        must(0 <= metadata["iteration"] <= CONFIG.iterations, "a place that the training never is at")


def _held(tensors: dict[str, Any], data: bytes) -> None:
    for name, tensor in tensors.items():
        must(
            isinstance(name, str) and tensor.numel() * tensor.element_size() <= len(data), "numbers that are not there"
        )
        tensor.reshape(-1).to(torch.complex128 if tensor.is_complex() else torch.float64).sum()  # reads each of them


def read_safetensors(data: bytes, folder: Path) -> None:
    path = write(folder / "w.safetensors", data)
    with refused(UserError, name="w.safetensors"):
        _held(load_weights(path), data)
    with refused(UserError, name="w.safetensors"):
        tensors, metadata = load_tensors(path)
        _held(tensors, data)
        must(isinstance(metadata, dict), "metadata")


def read_torch(data: bytes, folder: Path) -> None:
    path = write(folder / "w.pt", data)
    with refused(UserError, name="w.pt"):
        found = load_weights(path)
        must(all(isinstance(tensor, torch.Tensor) for tensor in found.values()), "something else than tensors")
        if all(tensor.layout == torch.strided and not tensor.is_quantized for tensor in found.values()):
            _held(found, data)


def read_inside_torch(data: bytes, folder: Path) -> None:
    """The bytes as the pickle in a PyTorch file, whose checksum would not survive a change."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, content in {"data.pkl": data, "byteorder": b"little", "data/0": bytes(64), "version": b"3\n"}.items():
            archive.writestr(zipfile.ZipInfo(f"w/{name}"), content)
    read_torch(sink.getvalue(), folder)


def read_a_table(data: bytes, folder: Path) -> None:
    path = write(folder / "x.parquet", data)
    with refused(StudyError, name="x.parquet"):
        frame = read_table(path)
        provenance = frame.attrs["provenance"]
        schema = SCHEMAS[provenance["study"]]
        must(list(frame.columns) == list(schema), "other columns")
        for name, column in schema.items():
            dtype = pd.StringDtype(na_value=np.nan) if column.dtype == "str" else column.dtype
            must(frame[name].dtype == dtype, f"{name} is {frame[name].dtype}")
        must(read_provenance(path) == provenance or "NaN" in json.dumps(provenance), "another provenance")


def draw_from_provenance(data: bytes, folder: Path) -> None:
    """Any provenance in a table that is well, and what a figure makes of it."""
    table = pq.read_table(SEEDS / "table" / "training_curves.parquet")
    path = folder / "training_curves" / "glyphs-cnn-maml-s0-0.parquet"
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: data}), sink)
    write(path, sink.getvalue())
    with refused(StudyError, name="glyphs-cnn-maml-s0-0"):
        read_table(path)
        with refused(FigureError, name=""):  # a figure may name the runs that it lacks
            traces(folder)


def read_a_pickle(data: bytes, folder: Path) -> None:
    with refused(UserError, name="x.pkl"):
        pickles.read_pickle(io.BytesIO(data), "x.pkl", len(data))


def read_cifar(data: bytes, folder: Path) -> None:
    """The bytes as one of the files, and as the archive before it was compressed."""
    for name in cifar_fs.FILES:
        write(folder / "files" / name, data)
    with refused(UserError, name="files"):
        cifar_fs._rows(cifar_fs._read(folder / "files")["train"], "train in files")
    path = write(folder / cifar_fs.ARCHIVE, gzip.compress(data, 1))
    with refused(UserError, name=cifar_fs.ARCHIVE):
        values = cifar_fs._read(path)
        must(set(values) == set(cifar_fs.FILES), "other files")
    if data[:2] == b"\x1f\x8b":
        write(path, data)
        with refused(UserError, name=cifar_fs.ARCHIVE):
            cifar_fs._read(path)


def read_mini_imagenet(data: bytes, folder: Path) -> None:
    path = write(folder / "mini-imagenet-cache-train.pkl", data)
    with refused(UserError, name=path.name):
        names, images = mini_imagenet._read(path)
        must(len(names) == len(images) and images.numel() <= len(data), "images that are not there")


def read_omniglot(data: bytes, folder: Path) -> None:
    path = write(folder / "images_background.zip", data)
    drawings: dict[str, dict[str, bytes]] = {}
    with refused(UserError, name=""):
        with refused(UserError, name="images_background.zip"):
            omniglot._read_archive(path, data, drawings)
        if drawings:
            arrays = omniglot._decode(drawings)
            must(arrays["images"].dtype == np.uint8 and len(arrays["names"]) == len(arrays["images"]), "images")


def read_drawing(data: bytes, folder: Path) -> None:
    for content in (data, with_checksums(data)):
        with refused(UserError, name="x.png"):
            image = omniglot._decode_drawing(content, "x.png")
            must(image.shape == (28, 28) and image.dtype == np.uint8, "not a drawing")


def with_checksums(png: bytes) -> bytes:
    """A PNG file whose parts have the checksums that they should, whatever is in them."""
    parts, at = [png[:8]], 8
    while at + 12 <= len(png):
        end = at + 8 + int.from_bytes(png[at : at + 4], "big")
        parts += [png[at:end], zlib.crc32(png[at + 4 : end]).to_bytes(4, "big")]
        at = end + 4
    return b"".join(parts)


def read_cache(data: bytes, folder: Path) -> None:
    """The bytes as a cached file, and as an array in it, whose checksum would not survive a change."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name in ("images", "names"):
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), data)
    for content in (data, sink.getvalue()):
        arrays = cache._read(write(folder / "x.npz", content), ("images", "names"))
        held = 0 if arrays is None else sum(array.nbytes for array in arrays.values())
        must(held <= len(content), "numbers that are not there")


def read_record(data: bytes, folder: Path) -> None:
    """What the chain wrote down of a figure and of a group of runs: anything else counts as nothing."""
    write(record_path(folder, "fig1"), data)
    must(is_drawn(folder, "fig1", ()) in (True, False), "neither drawn nor not")
    must(all(isinstance(digest, str) for digest in digests_of_runs(record_path(folder, "fig1")).values()), "a digest")


TARGETS: dict[str, Target] = {
    "json": read_json,
    "config": read_configuration,
    "run": _part("run.json"),
    "weights": _part("weights.safetensors"),
    "curve": _part("curve.parquet"),
    "state": read_state,
    "safetensors": read_safetensors,
    "torch": read_torch,
    "inside_torch": read_inside_torch,
    "table": read_a_table,
    "provenance": draw_from_provenance,
    "pickle": read_a_pickle,
    "cifar_fs": read_cifar,
    "mini_imagenet": read_mini_imagenet,
    "omniglot": read_omniglot,
    "drawing": read_drawing,
    "cache": read_cache,
    "record": read_record,
}
"""By name, which is that of its folder of seeds, too."""

# What no loader has to do; Python tells of each before it does it.
_FORBIDDEN = (
    "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "subprocess.Popen", "socket.connect",
    "ctypes.dlopen", "pickle.find_class", "os.remove", "os.rename", "os.rmdir", "os.mkdir",
    "os.link", "os.symlink", "os.chmod",
)  # fmt: skip
_watching: list[str] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    if event == "open":
        _, mode, flags = arguments
        if (isinstance(mode, str) and set(mode) & set("wax+")) or (isinstance(flags, int) and flags & 3):
            _watching.append(f"it opens {arguments[0]!r} to write")
    elif event in _FORBIDDEN:
        _watching.append(f"it calls {event}{arguments!r}"[:300])


_hooks: list[Callable[[str, tuple[Any, ...]], None]] = []


@contextmanager
def watched() -> Iterator[None]:
    """See that nothing but reading is done in a block.

    Raises:
        Broken: if it is.
    """
    if not _hooks:  # a hook stays for the life of the process
        _hooks.append(_watch)
        sys.addaudithook(_watch)
    _watching.append("")
    try:
        yield
    finally:
        done = [each for each in _watching if each]
        _watching.clear()
    must(not done, "; ".join(done))
