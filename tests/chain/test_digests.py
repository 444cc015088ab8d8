import os

from chain.digests import digest_of


def test_a_digest_is_of_the_content(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"a")
    other.write_bytes(b"a")
    os.utime(other, (1e9, 1e9))
    assert digest_of(one) == digest_of(other) != ""
    other.write_bytes(b"b")
    assert digest_of(one) != digest_of(other)


def test_what_cannot_be_read_has_none(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert digest_of(tmp_path / "absent") == digest_of(tmp_path / "pipe") == digest_of(tmp_path) == ""
