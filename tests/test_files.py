from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from relqa_loss.files import whole_files, write_atomically, write_whole


def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_atomically(path, lambda temporary: temporary.write_text("old"))

    def fail(temporary: Path) -> None:
        temporary.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert {entry.name: entry.read_text() for entry in path.parent.iterdir()} == {"file": "old"}
    write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert {entry.name: entry.read_text() for entry in path.parent.iterdir()} == {"file": "new"}


def test_a_file_is_on_the_disk_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append("fsync"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda old, new: (done.append("replace"), replace(old, new)))
    write_atomically(tmp_path / "file", lambda temporary: temporary.write_text("new"))
    assert done == ["fsync", "replace"]
    assert (tmp_path / "file").read_text() == "new"
    done.clear()
    with whole_files(tmp_path) as scratch:
        for name in ("a", "b"):
            (scratch / name).write_text("new")
    assert done == ["fsync", "fsync", "replace", "replace"]


def test_files_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(OSError, match="disk"), whole_files(tmp_path) as scratch:
        (scratch / "a.txt").write_text("half")
        raise OSError("disk full")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "old"}
    with whole_files(tmp_path) as scratch:
        (scratch / "a.txt").write_text("new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "new"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_written_into_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_whole(pipe, "é")
        assert os.read(reader, 10) == "é".encode()
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far" / "file")
    for text in ("first", "second"):
        write_whole(tmp_path / "link", text)
        assert (tmp_path / "link").is_symlink() and (tmp_path / "far" / "file").read_text() == text


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="no /dev/stdout here")
def test_standard_output_that_goes_into_a_file_is_written_into(tmp_path: Path) -> None:
    code = (
        "import pathlib, relqa_loss.files as files; print(1); "
        "files.write_whole(pathlib.Path('/dev/stdout'), '2'); print(3)"
    )
    (tmp_path / "out").write_text("0\n")
    for mode, wanted in (("ab", "0\n1\n23\n"), ("wb", "1\n23\n")):
        with (tmp_path / "out").open(mode) as out:
            subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
        assert (tmp_path / "out").read_text() == wanted and Path("/dev/stdout").is_symlink()


def test_json_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: (order.append(Path(new).name), replace(old, new)))
    with whole_files(tmp_path / "new") as scratch:
        for name in ("b.json", "a.txt", "c.png"):
            (scratch / name).touch()
    assert order == ["a.txt", "c.png", "b.json"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot write into the folder"), whole_files(tmp_path / "file" / "deep"):
        raise AssertionError("unreachable")
