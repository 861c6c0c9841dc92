"""--results: a directory that is one job's own, and nothing in it that is not of this run of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from invoke import Context

from hardway.errors import Failed, HardwayError, UsageError
from hardway.pmap import arguments, folder, job_list, job_paths
from hardway.pmap.folder import Folder
from hardway.pmap.job import Job, keys_of, read_asked
from hardway.system.paths import put
from tasks import mapreduce
from tests.pmap.conftest import Pmap


@pytest.fixture
def run(home: Path) -> Iterator[Callable[[str, list[bytes], Path], set[str]]]:
    """Have a job of this name write the results of these arguments; the names of what is in the directory then."""

    def write(name: str, items: list[bytes], to: Path) -> set[str]:
        path = job_paths.jobs_path() / name
        folder.check(to, read_asked(path) if path.exists() else None)
        with Job(path) if path.exists() else Job.create("cat", name=name) as job:
            for item, number in zip(items, job.number(keys_of(items), items), strict=True):
                if number not in job.history.results:
                    job.started(number, 1, "i-1")
                    job.done(number, job.ended(number, 1, "i-1", 0, 0, 0.5, item, b""))
            job.flush()
            Folder(job, job.number(keys_of(items)), to)
        return {path.name for path in to.iterdir()}

    yield write


def names(count: int, width: int = 1) -> set[str]:
    kinds = ("stdout", "stderr", "json")
    return {f"{n:0{width}}.{kind}" for n in range(1, count + 1) for kind in kinds} | {folder.MARK}


def test_a_directory_is_one_jobs_own(run: Callable[[str, list[bytes], Path], set[str]], tmp_path: Path) -> None:
    items = [b"%d\n" % n for n in range(12)]
    out = tmp_path / "new" / "out"
    assert run("one", items, out) == names(12, 2)
    with pytest.raises(UsageError, match="it has the results of job one; name another directory"):
        run("two", items[:5], out)
    assert {path.name for path in out.iterdir()} == names(12, 2), "nothing of it was touched"
    (out / "notes.txt").write_text("a person's own")
    assert run("one", items[7:], out) == names(5) | {"notes.txt"}, "what has no place any more is gone"
    assert (out / "1.stdout").read_bytes() == b"7\n"
    job_list.remove(job_paths.jobs_path() / "one")
    with pytest.raises(UsageError, match="it has the results of job one"):
        run("one", items, out)
    (out / folder.MARK).unlink()
    with pytest.raises(UsageError, match="it has results of no known job, such as "):
        run("two", items, out)


def test_what_a_killed_run_left_is_removed(run: Callable[[str, list[bytes], Path], set[str]], tmp_path: Path) -> None:
    killed = """if True:
        import os, pathlib, signal, sys
        from hardway.system.paths import put

        def pieces():
            yield b"half"
            os.kill(os.getpid(), signal.SIGKILL)

        put(pathlib.Path(sys.argv[1]), pieces())
    """
    out = tmp_path / "out"
    assert run("one", [b"x"], out) == names(1)
    subprocess.run([sys.executable, "-c", killed, out / "1.stdout"], check=False)
    assert len({path.name for path in out.iterdir()} - names(1)) == 1
    assert run("one", [b"x"], out) == names(1)
    assert (out / "1.stdout").read_bytes() == b"x"


def test_what_is_no_directory_of_a_persons_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("/dev")
    refused = {"/dev": "the system's", "/proc/self/x": "the system's", str(tmp_path / "link"): "the system's"}
    refused |= {str(tmp_path / "file"): "it is not a directory"}
    refused |= {"~nosuch/x": "there is no user nosuch", "a\0": "no NUL"}
    for path, said in refused.items():
        with pytest.raises(UsageError, match=said):
            folder.check(path, None)
    assert folder.check("/dev/shm/results", None) == Path("/dev/shm/results")


def test_what_is_no_regular_file_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        put(tmp_path / "full", [b"x"])
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="No such device or address"):
        put(tmp_path / "fifo", [b"x"])
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    put(tmp_path / "fifo", [b"x"])
    assert os.read(reader, 10) == b"x"
    os.close(reader)
    (tmp_path / "other").write_text("a person's")
    (tmp_path / "1.stdout.new").symlink_to(tmp_path / "other")  # no name that is ours while a file is not whole
    put(tmp_path / "1.stdout", [b"x", b"y"])
    assert (tmp_path / "1.stdout").read_bytes() == b"xy"
    assert (tmp_path / "other").read_text() == "a person's"

    def broken() -> Iterator[bytes]:
        yield b"half"
        raise Failed("no more")

    with pytest.raises(Failed):
        put(tmp_path / "1.stdout", broken())
    assert (tmp_path / "1.stdout").read_bytes() == b"xy"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.stdout", "1.stdout.new", "fifo", "full", "other"]


def test_each_path_is_a_line(pmap: Pmap, tmp_path: Path) -> None:
    done = pmap("a\nb", "cat", "--results", str(tmp_path / "out"))
    assert done.stdout == f"{tmp_path}/out/1.stdout\n{tmp_path}/out/2.stdout\n"
    refused = pmap("a", "cat", "--results", str(tmp_path / "out"))
    assert (refused.code, refused.stdout) == (2, "")


def test_a_report_to_a_device_leaves_the_device(home: Path, tmp_path: Path) -> None:
    Job.create("cat", name="told").close()
    for path in ("/dev/null", "/dev/stdout"):
        before = os.lstat(path)
        mapreduce.report(Context(), "told", to=path)
        assert os.lstat(path).st_ino == before.st_ino
    with pytest.raises(UsageError, match="the directory is the system's"):
        mapreduce.report(Context(), "told", to="/dev/page.html")


def test_arguments_that_can_not_be_read_are_said_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"caf\xe9\n")
    kept = tmp_path / ("arguments-" + "0" * 32)
    kept.write_text("x\n")
    wrong: list[object] = ["@~nosuch/x", f"@{tmp_path}", f"@{tmp_path}/none", "@a\0b", f"@{kept}", 7, None]
    with (tmp_path / "latin").open(encoding="utf-8") as file:
        for args in [*wrong, file]:
            with pytest.raises(HardwayError) as error:
                arguments.read(args)  # type: ignore[arg-type]
            assert error.value.code == 2
            assert "\n" not in str(error.value)
    assert arguments.read(f"@{tmp_path / 'latin'}").items == [b"caf\xe9\n"]
    with (tmp_path / "latin").open("rb") as binary:
        assert arguments.read(binary).items == [b"caf\xe9\n"]


@pytest.mark.parametrize("null", [False, True])
def test_arguments_that_are_kept_are_read_as_they_were(tmp_path: Path, null: bool) -> None:
    for items in ([b"a\n", b"b c\n"], [b"two\nlines\n", b"one\n"], [b"no newline", b"\xff\n"], [b"\n", b"x\n"]):
        given = arguments.read(items, null)
        data, kept_null = given.kept(null)
        (tmp_path / "kept").write_bytes(data)
        assert arguments.read(f"@{tmp_path / 'kept'}", kept_null).items == given.items
    assert arguments.Arguments([b"a\0\n", b"two\nlines\n"]).kept(False) == (b"", False)


def test_names_of_jobs_are_checked_here(home: Path) -> None:
    for name in ("é", "x" * 101, "a/b", "a b", "a\n", "..", "-x"):
        with pytest.raises(UsageError, match="a job's name has"):
            job_paths.check_name(name)
        with pytest.raises(UsageError):
            read_asked(job_paths.named(name))
    job_paths.check_name("x" * 100)
