import contextlib
import json

import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from core import Episodes, TrainConfig, list_runs, load_run, meta_train
from core.errors import UserError
from core.runs import CURVE_COLUMNS, load_tensors, read_config, save_tensors


@pytest.fixture
def run(tiny_config, tmp_path):
    return meta_train(tiny_config(), results=tmp_path, progress=False, device="cpu")


def test_a_loaded_run_is_the_saved_one(run):
    again = load_run(run.path)
    assert again.config == run.config
    assert again.id == run.id
    assert again.info == run.info
    for name in run.theta:
        assert torch.equal(again.theta[name], run.theta[name])
    for name in run.xi:
        assert torch.equal(again.xi[name], run.xi[name])
    pd.testing.assert_frame_equal(again.curve, run.curve)
    assert {name: str(dtype) for name, dtype in again.curve.dtypes.items()} == CURVE_COLUMNS


def test_a_loaded_run_adapts_as_the_saved_one(run):
    episodes = run.tasks(seed=7).sample("test", 4)
    pd.testing.assert_frame_equal(load_run(run.path).evaluate(episodes), run.evaluate(episodes))
    assert len(run.evaluate(episodes, steps=5)) == 4 * 6 * 2


def test_a_change_of_a_run_that_there_is_not_is_told(run):
    episodes = run.tasks().sample("test", 2)
    with pytest.raises(UserError, match=r"unknown change 'adapt_lr'; known: adapted, lr, lr_scope, steps, tasks_per_"):
        run.evaluate(episodes, adapt_lr=0.1)
    assert len(run.evaluate(episodes, tasks_per_chunk=1, lr=0.1)) == 2 * 2 * (1 + run.config.steps)


def test_the_folder_holds_no_pickle(run):
    names = {path.name for path in run.path.iterdir()}
    assert names == {"config.json", "run.json", "curve.parquet", "weights.safetensors"}
    assert all(json.loads((run.path / name).read_text())["format"] == 1 for name in ("config.json", "run.json"))


def test_runs_are_listed_whatever_their_state(run, tmp_path):
    broken = tmp_path / "runs" / "broken"
    broken.mkdir()
    unfinished = tmp_path / "runs" / "unfinished"
    unfinished.mkdir()
    (unfinished / "config.json").write_text((run.path / "config.json").read_text())
    table = list_runs(tmp_path).set_index("id")
    assert table.loc[run.id, "status"] == "ok"
    assert table.loc[run.id, "method"] == "klin"
    assert table.loc["unfinished", "status"] == "unfinished"
    assert table.loc["broken", "status"].startswith("unreadable: ")
    assert str(table.loc[run.id, "iterations"]) == str(run.config.iterations), "whole, though one run has none"
    assert len(list_runs(tmp_path / "nowhere")) == 0


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other_version(path):
    text = json.loads(path.read_text())
    path.write_text(json.dumps({**text, "format": 99}))


def of_another_run(path):
    tensors, metadata = load_tensors(path)
    save_tensors(path, tensors, {**metadata, "id": "other"})


def of_another_shape(path):
    tensors, metadata = load_tensors(path)
    save_tensors(path, {**tensors, "theta.fc.weight": torch.ones(2, 2)}, metadata)


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("config.json", lambda p: p.unlink(), "is no run: it has no config.json"),
        ("config.json", cut, "config.json is not valid JSON"),
        ("config.json", other_version, "config.json has format 99; this version of adaptlens reads format 1"),
        ("run.json", other_version, "run.json has format 99"),
        ("run.json", lambda p: p.unlink(), "is not finished; continue it with"),
        ("weights.safetensors", lambda p: p.unlink(), "weights.safetensors does not exist"),
        ("weights.safetensors", cut, "weights.safetensors is damaged"),
        ("weights.safetensors", lambda p: save_file({"a": torch.ones(1)}, p), "damaged, or no file of adaptlens"),
        ("weights.safetensors", of_another_run, "weights.safetensors is of run 'other', not of synthetic-"),
        ("weights.safetensors", of_another_shape, r"theta\['fc.weight'\] has shape \(2, 2\), but model 'lr' needs"),
        ("curve.parquet", cut, "curve.parquet is truncated, damaged"),
        ("curve.parquet", lambda p: p.unlink(), "curve.parquet is missing or damaged"),
    ],
)
def test_damage_is_told_in_one_sentence(run, file, damage, message):
    damage(run.path / file)
    with pytest.raises(UserError, match=message) as caught:
        load_run(run.path)
    assert "\n" not in str(caught.value)


def test_a_setting_of_another_version_is_named(run):
    text = json.loads((run.path / "config.json").read_text())
    text["config"]["warp"] = 9
    (run.path / "config.json").write_text(json.dumps(text))
    with pytest.raises(UserError, match="unknown setting 'warp'"):
        read_config(run.path)


def test_what_is_measured_otherwise_than_trained_is_named(run):
    episodes = run.tasks().sample("test", 2, 0)
    as_trained = run.evaluate(episodes)
    assert as_trained.attrs["differs"] == {}
    assert not [name for name in as_trained if name.startswith(("trained", "measured"))]
    table = run.evaluate(episodes, steps=3, lr=0.5, lr_scope="xi")
    assert table.attrs["differs"] == {"steps": (2, 3), "adapt_lr": (1.0, 0.5), "lr_scope": ("both", "xi")}
    assert set(table["trained_steps"]) == {2}
    assert set(table["measured_steps"]) == {3}
    assert set(table["measured_lr_scope"]) == {"xi"}
    assert run.evaluate(run.tasks(points=9).sample("test", 2, 0)).attrs["differs"] == {"points": (8, 9)}


def test_images_of_another_size_than_trained_are_named(tiny_config):
    config = tiny_config(
        dataset="glyphs", model="cnn", method="maml", ways=3, shots=2, depth=1, filters=2, points=None, iterations=0
    )
    run = meta_train(config, results=None, progress=False, device="cpu")
    larger = run.tasks().sample("test", 2, 0).map(lambda x: nn.functional.pad(x, (1, 1)) if x.ndim == 5 else x)
    assert run.evaluate(larger).attrs["differs"] == {"example_shape": ("1 x 28 x 28", "1 x 28 x 30")}


def test_the_curve_of_another_run_is_refused(run, tiny_config, tmp_path):
    """It is whole, and nothing in it says whose it is."""
    other = meta_train(tiny_config(seed=1), results=tmp_path, progress=False)
    (run.path / "curve.parquet").write_bytes((other.path / "curve.parquet").read_bytes())
    with pytest.raises(UserError, match=r"curve\.parquet .*: it is not the one that was written with"):
        load_run(run.path)
    assert "curve_digest" not in other.info


def test_other_ways_shots_and_layers_than_trained_are_named(tiny_config):
    config = tiny_config(
        dataset="glyphs", model="linnet", hidden=(4,), method="maml", ways=3, shots=2, points=None, iterations=0
    )
    run = meta_train(config, results=None, progress=False, device="cpu")
    names = list(run.theta)
    table = run.evaluate(run.tasks(ways=2, shots=1).sample("test", 2, 0), adapted=names[-1:])
    assert table.attrs["differs"] == {"ways": (3, 2), "shots": (2, 1), "adapted": (", ".join(names), names[-1])}
    assert run.evaluate(run.tasks().sample("test", 2, 0), adapted=names).attrs["differs"] == {}


def test_modes_that_are_not_those_of_training_are_named(tiny_config):
    config = tiny_config(dataset="own:tasks", model="own:net", method="maml", points=None, iterations=0, eval_tasks=1)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    x, y = torch.randn(4, 2, 4, 3), torch.tensor([0, 1, 0, 1]).expand(2, -1)
    pools = {"train": Episodes(x[0], y, x[1], y), "test": Episodes(x[2], y, x[3], y)}
    run = meta_train(config, model=module, tasks=pools, results=None, progress=False, device="cpu")
    assert run.evaluate(pools["test"]).attrs["differs"] == {}
    run.model.eval()
    assert run.evaluate(pools["test"]).attrs["differs"] == {"modules_in_training": (", 0, 1", "")}


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("run.json", {"example_shape": [10**12]}, r"theta\['fc.weight'\] has shape"),
        ("run.json", {"example_shape": [10**30]}, "describes a model that cannot be made"),
        ("run.json", {"example_shape": [0]}, "describes a layer of no width"),
        ("run.json", {"example_shape": "a"}, "run.json is incomplete: status must be a word, example_shape"),
        ("run.json", {"num_outputs": 1.5}, "run.json is incomplete: status must be a word, example_shape"),
        ("run.json", {"status": 1}, "run.json is incomplete: status must be a word"),
        (
            "config.json",
            {"model": "linnet", "hidden": [2] * 100},
            "describes more layers than .*weights.safetensors holds",
        ),
        ("config.json", {"model": "linnet", "hidden": [10**9]}, "weights.safetensors: theta lacks layers.0.weight"),
        ("config.json", {"rule_depth": 10**9}, "describes more layers than .*weights.safetensors holds"),
        ("config.json", {"adapt_lr": 10**400}, "config.json: adapt_lr must be a finite number"),
    ],
)
def test_a_run_cannot_ask_for_more_than_its_weights(run, file, changes, message):
    text = json.loads((run.path / file).read_text())
    (text["config"] if file == "config.json" else text).update(changes)
    text.pop("digest", None)
    if file == "config.json":
        with contextlib.suppress(UserError):
            text["id"] = TrainConfig.from_dict(text["config"]).id
    (run.path / file).write_text(json.dumps(text))
    if file == "config.json":
        with contextlib.suppress(UserError):
            tensors, metadata = load_tensors(run.path / "weights.safetensors")
            metadata["id"] = read_config(run.path).id
            save_tensors(run.path / "weights.safetensors", tensors, metadata)
    with pytest.raises(UserError, match=message) as caught:
        load_run(run.path)
    assert str(caught.value).isprintable()


def test_whole_numbers_cannot_adapt(run):
    tensors, metadata = load_tensors(run.path / "weights.safetensors")
    save_tensors(run.path / "weights.safetensors", {name: each.long() for name, each in tensors.items()}, metadata)
    with pytest.raises(UserError, match=r"of torch\.int64, which cannot adapt"):
        load_run(run.path)


@pytest.mark.parametrize("name", ["weights.safetensors", "curve.parquet", "run.json", "config.json"])
def test_a_changed_number_is_not_read_as_what_was_written(tiny_config, tmp_path, name):
    run = meta_train(tiny_config(), results=tmp_path, progress=False)
    path = run.path / name
    content = bytearray(path.read_bytes())
    if path.suffix == ".json":
        place = content.index(b'"iterations_done": 6' if name == "run.json" else b'"points": 8') + 18
        place = next(k for k in range(place - 8, len(content)) if chr(content[k]).isdigit())
    else:
        place = len(content) - 2 if name == "weights.safetensors" else content.index(b"PAR1") + 40
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"damaged|lacks|unknown|must"):
        load_run(run.path)


def test_files_of_versions_without_digests_are_read(tiny_config, tmp_path):
    run = meta_train(tiny_config(), results=tmp_path, progress=False)
    text = json.loads((run.path / "run.json").read_text())
    assert text.pop("digest")
    (run.path / "run.json").write_text(json.dumps(text))
    with safe_open(run.path / "weights.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert metadata.pop("digest")
    save_file(load_file(run.path / "weights.safetensors"), run.path / "weights.safetensors", metadata=metadata)
    again = load_run(run.path)
    assert all(torch.equal(again.theta[name], tensor) for name, tensor in run.theta.items())


def test_a_device_that_is_not_here_is_told(run):
    with pytest.raises(UserError, match="there is no device 'cuda:63' here"):
        load_run(run.path, device="cuda:63")


def test_a_run_is_itself(run):
    again = load_run(run.path)
    assert run == run
    assert run != again
    assert {run: 1, again: 2}[again] == 2
