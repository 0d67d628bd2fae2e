"""Files that are whole, whoever writes them."""

import threading

import pytest

from rare_gems.storage.atomic import write_whole


def test_two_threads_write_one_file_and_it_is_one_of_theirs(tmp_path):
    """They have one process number, as processes in two containers may have."""
    path, contents = tmp_path / "a", (b"a" * 400_000, b"b" * 200_000)
    failed = []

    def write(data):
        try:
            write_whole(path, data)
        except OSError as error:
            failed.append(error)

    for _ in range(20):
        threads = [threading.Thread(target=write, args=(data,)) for data in contents]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert path.read_bytes() in contents
    assert not failed
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_what_cannot_be_written_is_named_and_leaves_nothing(tmp_path):
    (tmp_path / "folder" / "a").mkdir(parents=True)
    with pytest.raises(OSError, match="folder/a"):
        write_whole(tmp_path / "folder" / "a", b"x")
    assert [file.name for file in (tmp_path / "folder").iterdir()] == ["a"]
