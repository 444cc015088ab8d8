"""Files of tensors that announce more than they hold, or hold more than tensors."""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save

from bounds import MAX_TENSOR_HEADER, Refused
from bounds.tensors import check_safetensors, check_torch, check_zip_directory, open_zip
from core import load_weights
from core.errors import UserError
from tests.fuzz.seeds import BYTEARRAY, rezipped, torch_file

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.complex64, torch.uint16, torch.float8_e4m3fn,
]  # fmt: skip


@pytest.fixture(params=[True, False], ids=["new", "old"])
def saved(request, tmp_path):
    """A PyTorch file of a value, in the form since 1.6 or before."""

    def save_it(value):
        path = tmp_path / "w.pt"
        path.write_bytes(torch_file(value, request.param))
        return path

    return save_it


def test_state_dicts_and_checkpoints_are_let_through(saved):
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 1, 4, 4)).sum().backward()
    optimizer.step()
    for value in (
        network.state_dict(),
        {"model": network.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "names": {"a"}, "at": 1.7e9},
        OrderedDict(a=torch.nn.Parameter(torch.ones(3, 4).t()), b=torch.ones(9)[2:5], c=torch.ones(0, 3)),
        {str(dtype): torch.zeros(3).to(dtype) for dtype in DTYPES},
    ):
        check_torch(saved(value))


@pytest.mark.parametrize("value", [{"a": complex}, {"a": print}, torch.nn.Linear(1, 1), {"a": slice(1)}])
def test_what_is_more_than_tensors_is_named(saved, value):
    with pytest.raises(
        Refused, match=r"w\.pt is damaged, or holds more than tensors, and is not opened \(it names .+\)"
    ):
        check_torch(saved(value))


def test_numbers_that_are_not_there_are_refused(tmp_path):
    path, small = tmp_path / "w.pt", torch_file({"a": torch.ones(2)}, True)
    for old, new in ((b"K\x02", b"K\x7f"), (b"K\x02", b"M\xff\xff"), (b"K\x02\x85", b"J\xff\xff\xff\x7f\x85")):
        path.write_bytes(rezipped(small, lambda name, data, old=old, new=new: data.replace(old, new)))
        with pytest.raises(UserError, match=r"w\.pt is damaged"):
            load_weights(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ([b"K\x02\x85", b"K\x01\x85"], b"(" + b"K\x01" * 65 + b"t"),
        ([b"K\x01\x85"], b"\x8a\x09" + bytes(8) + b"\x01\x85"),
    ],
    ids=["axes", "stride"],
)
def test_shapes_of_many_axes_or_long_numbers_are_not_multiplied(tmp_path, old, new):
    path, small = tmp_path / "w.pt", torch_file({"a": torch.ones(2)}, True)

    def change(name, data):
        for each in old:
            data = data.replace(each, new)
        return data

    path.write_bytes(rezipped(small, change))
    with pytest.raises(Refused, match="a tensor of an impossible shape"):
        check_torch(path)


def test_a_storage_of_a_long_number_is_refused(tmp_path):
    path, small = tmp_path / "w.pt", torch_file({"a": torch.ones(0)}, True)
    long = b"\x8a\x09" + bytes(8) + b"\x01"
    path.write_bytes(rezipped(small, lambda name, data: data.replace(b"K\x00tq", long + b"tq")))
    with pytest.raises(Refused, match="numbers of an unknown kind"):
        check_torch(path)


class Called:
    """Pickled as a call."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("key", [(1,), frozenset({1}), torch.float32], ids=str)
def test_what_takes_years_to_hash_is_no_key(tmp_path, key):
    path = tmp_path / "w.pt"
    for value in ({key: 1}, {key}, Called(OrderedDict, ([[key, 1]],)), OrderedDict({key: 1})):
        for protocol in (0, 2, 4):
            content = pickle.dumps(value, protocol)
            if b"frozenset" in content:  # is called there, which is refused in itself
                continue
            path.write_bytes(rezipped(torch_file({}, True), lambda name, data, new=content: new))
            with pytest.raises(Refused, match=r"a \w+ is the key of a dict, or in a set"):
                check_torch(path)


def test_what_a_name_is_called_with_is_counted(tmp_path):
    path = tmp_path / "w.pt"
    content = b"\x80\x02ctorch\nSize\nq\x00(" + b"N" * 1000 + b"tq\x010]q\x02(" + b"h\x00h\x01R0" * 1000 + b"e."
    path.write_bytes(rezipped(torch_file({}, True), lambda name, data: content))
    with pytest.raises(Refused, match="copies the same values"):
        check_torch(path)


def test_an_array_of_bytes_is_not_made(tmp_path):
    path = tmp_path / "w.pt"
    path.write_bytes(rezipped(torch_file({"a": torch.ones(2)}, True), lambda name, data: BYTEARRAY))
    with pytest.raises(UserError, match=r"holds more than tensors, and is not opened \(it names builtins\.bytearray\)"):
        load_weights(path)


def test_compressed_parts_are_refused(tmp_path):
    path = tmp_path / "w.pt"
    whole = torch_file({"a": torch.ones(2)}, True)
    path.write_bytes(rezipped(whole, lambda name, data: data + bytes(1 << 24), zipfile.ZIP_DEFLATED))
    with pytest.raises(UserError, match=r"w\.pt has compressed or encrypted parts"):
        load_weights(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (1 << 41, "announces a header of 2,199,023,255,552 bytes, and has"),
        ((1 << 64) - 1, "announces a header of"),
    ],
)
def test_a_header_of_terabytes_is_refused(tmp_path, header, message):
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", header) + save({"a": torch.ones(2)})[8:])
    with pytest.raises(UserError, match=message):
        load_weights(path)


def test_a_header_that_is_there_and_too_large_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", MAX_TENSOR_HEADER + 1))
        file.truncate(MAX_TENSOR_HEADER + 100)
    with pytest.raises(Refused, match="bytes in its header, more than the"):
        check_safetensors(path)


@pytest.mark.parametrize(
    "header", ['{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,8]}}', '{"a":' * 1000]
)
def test_a_header_that_lies_is_refused(tmp_path, header):
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(8))
    with pytest.raises(UserError, match=r"w\.safetensors is damaged, or no safetensors file: ") as caught:
        load_weights(path)
    assert str(caught.value).isprintable()


def test_a_zip_with_two_parts_of_one_name_is_refused():
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("a", b"1")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a", b"2")
    with pytest.raises(Refused, match="two parts of one name"):
        open_zip(sink, "x")


def test_names_that_differ_in_capitals_are_refused():
    """PyTorch looks for names without regard to them."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("a/data.pkl", b"1")
        archive.writestr("a/DATA.pkl", b"2")
    with pytest.raises(Refused, match="two parts of one name"):
        open_zip(sink, "x")


def test_a_zip_with_two_lists_of_parts_is_refused():
    """Python would take that before the end, PyTorch that where the end says."""
    for whole in (rezipped(torch_file({"a": torch.ones(2)}, True), lambda name, data: data), torch_file({}, True)):
        open_zip(io.BytesIO(whole), "x").close()
        start = whole.index(b"PK\1\2")
        end = max(whole.rfind(b"PK\6\6"), 0) or len(whole) - 22  # PyTorch writes the records of large files
        for changed in (
            whole[:end] + whole[start:end] + whole[end:],
            whole[:start] + bytes(8) + whole[start:],
            bytes(8) + whole,
            whole[:-2] + b"\x04\0text",
            whole[:-22] + b"PK\6\7" + bytes(16) + whole[-22:],
        ):
            with pytest.raises(Refused, match="x is damaged: the list of its parts is not where its end says"):
                open_zip(io.BytesIO(changed), "x")


def test_the_records_of_a_large_zip_agree_with_each_other():
    whole = torch_file({"a": torch.ones(2)}, True)
    locator = len(whole) - 22 - 20
    assert whole[locator : locator + 4] == b"PK\6\7"
    other = bytearray(whole)
    other[locator + 8] ^= 1
    with pytest.raises(Refused, match="is not where its end says"):
        open_zip(io.BytesIO(other), "x")
    large = bytearray(whole)
    large[locator - 16 : locator - 8] = struct.pack("<Q", 1 << 40)  # the other record still says the true length
    with pytest.raises(Refused, match="x has 1,099,511,627,776 bytes in its list of parts"):
        check_zip_directory(io.BytesIO(large), "x")


def test_a_long_list_of_parts_is_refused(monkeypatch):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name in "abc":
            archive.writestr(name, b"")
    open_zip(sink, "x").close()
    monkeypatch.setattr("bounds.tensors.MAX_ZIP_DIRECTORY", 100)
    with pytest.raises(Refused, match="x has 141 bytes in its list of parts, more than the 100"):
        open_zip(sink, "x")
