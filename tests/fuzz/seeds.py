"""Makes the seeds of `corpus`: small files that each loader reads, and some that once broke a loader.

`python -m tests.fuzz.seeds` writes them anew; those that fuzzing found (`found-*`) stay as they are.
"""

import io
import json
import pickle
import struct
import tarfile
import tempfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import save

from analysis.store import provenance, write_table
from core import meta_train
from tests.fuzz.targets import CONFIG, SEEDS


def main() -> None:
    seeds = {**of_json(), **of_tensors(), **of_pickles(), **of_archives()}
    with tempfile.TemporaryDirectory() as folder:
        seeds |= of_runs(Path(folder)) | of_tables(Path(folder))
    for name, content in seeds.items():
        path = SEEDS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    size = sum(path.stat().st_size for path in SEEDS.rglob("*") if path.is_file())
    print(f"{len(seeds)} seeds; {size / 1000:.0f} kB in all")


def of_json() -> dict[str, bytes]:
    record = {"tables": [], "files": ["fig1.png"], "code": "0", "runs": {"a": "0"}}
    return {
        "json/plain": b'{"a": [1, -2.5e3, "text \\u00e9 \\n", true, null, {"b": []}], "c": NaN}',
        "json/deep": b"[" * 5_000,
        "json/half_a_character": b'{"a": "\\ud800"}',
        "json/long_number": b"1" * 5000,
        "config/beyond_floats": config(adapt_lr=10**400),
        "config/words": config(adapted=["FC", "*\n"], method="kfc", rule_depth=2),
        "config/other": config(dataset=["a"], hidden=[[]], steps="1"),
        "record/plain": json.dumps(record).encode(),
        "record/of_other_kinds": b'{"tables": [], "files": [1, null, ["a"]], "runs": {"a": {}}}',
    }


def config(**changes: object) -> bytes:
    from dataclasses import asdict

    return json.dumps({"format": 1, "id": "x", "config": {**asdict(CONFIG), **changes}}).encode()


def of_runs(folder: Path) -> dict[str, bytes]:
    meta_train(CONFIG, results=folder, progress=False, device="cpu")
    run = folder / "runs" / CONFIG.id
    found = {f"run/{path.name}": path.read_bytes() for path in run.iterdir()}
    about = json.loads(found["run/run.json"])
    about |= {"code_version": "0", "dataset_fingerprint": "0"}  # the same wherever the seeds are made
    found["run/run.json"] = json.dumps(about, sort_keys=True).encode()
    found["weights/plain"] = found["run/weights.safetensors"]
    found["curve/plain"] = found["run/curve.parquet"]
    found["config/plain"] = found["run/config.json"]
    for name, change in {
        "large": {"example_shape": [10**15]}, "empty": {"example_shape": []}, "of_words": {"example_shape": ["a"]},
        "endless": {"num_outputs": 10**30}, "no_status": {"status": None},
    }.items():  # fmt: skip
        found[f"run/{name}"] = json.dumps({**about, **change}).encode()
    found["state/plain"] = state()
    found["state/other"] = state(curve=[[1]], optimizer={"step": []})
    return found


def state(**changes: object) -> bytes:
    metadata = {
        "format": 1, "id": CONFIG.id, "iteration": 1, "seconds": 0.1, "curve": [[0, "test", 0.5, 0.5, 2]],
        "optimizer": {"step": 1.0}, **changes,
    }  # fmt: skip
    return save({"theta.layers.0.weight": torch.ones(2, 2)}, {"adaptlens": json.dumps(metadata)})


def of_tables(folder: Path) -> dict[str, bytes]:
    frame = pd.DataFrame(
        {
            "run": "glyphs-cnn-maml-s0-0", "dataset": "glyphs", "model": "cnn", "method": "maml", "seed": 0,
            "status": "ok", "iteration": [0, 0, 5, 5], "split": ["train", "test"] * 2, "loss": [2.0, 2.1, 1.0, 1.1],
            "accuracy": [0.1, 0.1, 0.5, 0.4], "num_tasks": 10,
        }
    )  # fmt: skip
    settings = {
        "dataset": "glyphs", "model": "cnn", "method": "maml", "seed": 0, "ways": 10, "shots": 5, "steps": 4,
        "adapt_lr": 0.5, "iterations": 5, "tasks_per_iteration": 4, "filters": 64, "depth": None, "norm_mode": None,
        "downsample": None, "eval_every": 5, "eval_tasks": 10,
    }  # fmt: skip
    origin = {**provenance(config=settings, command="x"), "code_version": "0", "packages": {}, "date": "2026-01-01"}
    path = write_table(folder, "training_curves", "glyphs-cnn-maml-s0-0", frame, origin)
    table = pq.read_table(path)
    found = {"table/training_curves.parquet": path.read_bytes()}
    for name, options in {
        "no_checksum": {}, "plain": {"use_dictionary": False}, "pages_2": {"data_page_version": "2.0"},
        "zstd": {"compression": "zstd"}, "unpacked": {"compression": "none"},
    }.items():  # fmt: skip
        found[f"table/{name}"] = parquet(table, **options)
    found["table/bomb"] = parquet(table.select(["run"]).take([0] * 300_000), compression="zstd")
    found["curve/no_columns"] = parquet(pa.table({"split": ["a"]}))
    found["curve/missing_numbers"] = parquet(
        pa.table(
            {
                "iteration": [None, 1],
                "split": ["a", None],
                "loss": [0.1, None],
                "accuracy": [1.0, 1],
                "num_tasks": [1, 2],
            }
        )
    )
    found["provenance/plain"] = table.schema.metadata[b"adaptlens"]
    for name, change in {
        "no_model": {},
        "other_kinds": {**settings, "model": ["cnn"], "ways": {}, "depth": "a"},
    }.items():
        found[f"provenance/{name}"] = json.dumps(
            {**json.loads(table.schema.metadata[b"adaptlens"]), "config": change or {"a": 1}}
        ).encode()
    return found


def parquet(table: pa.Table, **options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def of_tensors() -> dict[str, bytes]:
    tensors = {"a.weight": torch.arange(6.0).view(2, 3), "a.count": torch.tensor(3)}
    whole = save(tensors, {"adaptlens": '{"id": "x"}'})
    found = {
        "safetensors/plain": whole,
        "safetensors/two_terabytes": struct.pack("<Q", 1 << 41) + whole[8:],
        "safetensors/large_shape": whole.replace(b"[2,3]", b"[9,9]"),
    }
    for form, new in (("new", True), ("old", False)):
        for name, value in {
            "plain": tensors, "checkpoint": {"model": tensors, "epoch": 3, "seen": {1}, "lr": [0.1]},
            "views": OrderedDict(a=torch.ones(4)[::2], b=torch.nn.Parameter(torch.ones(2, dtype=torch.float64))),
        }.items():  # fmt: skip
            found[f"torch/{name}_{form}"] = torch_file(value, new)
    for name, value in {"plain": tensors, "checkpoint": {"m": {"a": torch.ones(3).half()}, "n": [{"b": 1.5}]}}.items():
        with zipfile.ZipFile(io.BytesIO(torch_file(value, True))) as archive:
            found[f"inside_torch/{name}"] = archive.read("archive/data.pkl")
    found["inside_torch/bytearray"] = BYTEARRAY
    small = torch_file({"a": torch.ones(2)}, True)
    found["torch/more_than_there_is"] = rezipped(small, lambda name, data: data.replace(b"K\x02", b"K\x7f"))
    found["torch/bytearray"] = rezipped(small, lambda name, data: BYTEARRAY if name.endswith(".pkl") else data)
    found["torch/compressed"] = rezipped(small, lambda name, data: data + bytes(200_000), zipfile.ZIP_DEFLATED)
    return found


BYTEARRAY = b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x04\x85R."  # of 16 GiB


def torch_file(value: object, new: bool) -> bytes:
    sink = io.BytesIO()
    torch.save(value, sink, _use_new_zipfile_serialization=new)
    return sink.getvalue()


def rezipped(content: bytes, change, compression: int = zipfile.ZIP_STORED) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(sink, "w", compression) as new:
        for name in old.namelist():
            new.writestr(zipfile.ZipInfo(name), change(name, old.read(name)), compression)
    return sink.getvalue()


def of_pickles() -> dict[str, bytes]:
    arrays = {"data": np.arange(6, dtype=np.uint8).reshape(2, 3), "n": [1, "a", 2.5, None], "s": np.float32(1)}
    found = {f"pickle/protocol_{protocol}": pickle.dumps(arrays, protocol) for protocol in (0, 2, 4, 5)}
    found |= {
        # Ten bytes each, for memory of gigabytes: a place in the list of values, a length of bytes, of an array of
        # bytes, of a frame.
        "pickle/place": b"\x80\x02Nr\xff\xff\xff\x7f.",
        "pickle/length": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 34) + b"a.",
        "pickle/array_of_bytes": b"\x80\x05\x96" + struct.pack("<Q", 1 << 34) + b"a.",
        "pickle/frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 34) + b"N.",
        "pickle/lists_of_the_same": b"\x80\x02]q\x00" + b"".join(
            b"]q%c(h%ch%ce" % (n, n - 1, n - 1) for n in range(1, 60)
        ) + b".",
        "pickle/copies": b"\x80\x02c_codecs\nencode\nq\x00X" + struct.pack("<I", 4000) + b"a" * 4000
        + b"q\x01X\x06\x00\x00\x00latin1q\x02\x86q\x030]q\x04(" + b"h\x00h\x03R" * 2000 + b"e.",
        "pickle/code": b"cos\nsystem\n(S'true'\ntR.",
    }  # fmt: skip
    rows = {"data": np.zeros((2, 3072), np.uint8), "fine_labels": [0, 99], "filenames": ["a", "b"]}
    found["cifar_fs/file"] = pickle.dumps(rows, 2)
    found["cifar_fs/labels"] = pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "fine_labels": [[0]]}, 2)
    found["cifar_fs/archive"] = tar({"meta": {"fine_label_names": [[]]}, "test": rows, "train": rows})
    image = np.zeros((2, 84, 84, 3), np.uint8)
    found["mini_imagenet/file"] = pickle.dumps({"image_data": image[:1], "class_dict": {"n01": [0]}}, 2)
    found["mini_imagenet/repeated"] = pickle.dumps({"image_data": image[:1], "class_dict": {"n01": [0] * 5000}}, 2)
    return found


def tar(files: dict[str, object]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, value in files.items():
            content = pickle.dumps(value, 2)
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return sink.getvalue()


def png(size: tuple[int, int] = (105, 105), mode: str = "1") -> bytes:
    sink = io.BytesIO()
    image = Image.new(mode, size, 1)
    image.paste(0, (20, 20, 60, 50))
    image.save(sink, "PNG")
    return sink.getvalue()


def of_archives() -> dict[str, bytes]:
    drawing = png()
    large = bytearray(drawing)
    large[16:24] = struct.pack(">II", 50_000, 50_000)
    found = {
        "drawing/plain": drawing, "drawing/colours": png((20, 30), "RGB"), "drawing/palette": png((20, 30), "P"),
        "drawing/grey": png((20, 30), "I;16"), "drawing/large": bytes(large),
    }  # fmt: skip
    names = [f"images_background/Greek/character0{c}/{c}_{d}.png" for c in (1, 2) for d in (1, 2)]
    found["omniglot/plain"] = zipped(dict.fromkeys(names, drawing))
    found["omniglot/uneven"] = zipped(dict.fromkeys(names[:3], drawing))
    found["omniglot/names"] = zipped({"../../../a/b/../c.png": drawing, "/x/y/z.png": drawing, "a\n/b/c.png": b""})
    found["omniglot/lies"] = lying(zipped({names[0]: bytes(5_000_000)}), 5_000_000, 1000)
    arrays = {"images": np.zeros((2, 1, 1, 28, 28), np.uint8), "names": np.array(["a", "b"])}
    sink = io.BytesIO()
    np.savez(sink, **arrays)
    found["cache/plain"] = sink.getvalue()
    sink = io.BytesIO()
    np.savez_compressed(sink, **arrays)
    sink_of_one = io.BytesIO()
    np.save(sink_of_one, arrays["images"])
    found["cache/array"] = sink_of_one.getvalue()
    found["cache/compressed"] = sink.getvalue()
    found["cache/large_shape"] = found["cache/plain"].replace(b"(2, 1, 1, 28, 28)", b"(2, 1, 1, 28, 10**9)"[:17])
    return found


def zipped(files: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return sink.getvalue()


def lying(archive: bytes, size: int, told: int) -> bytes:
    """An archive that says of a file of `size` bytes that it has `told`."""
    return archive.replace(struct.pack("<I", size), struct.pack("<I", told))


if __name__ == "__main__":
    main()
