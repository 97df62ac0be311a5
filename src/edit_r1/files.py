"""Files that are written whole or not at all, logs that grow by whole lines, and the errors of a disk as one line."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from edit_r1.errors import UserError

TEMPORARY_SUFFIX = ".tmp"
"""Temporary siblings are called `.<name>.<random>.tmp`; a killed process may leave one, and readers ignore it."""

_MENDS = {
    errno.ENOSPC: "the disk is full; free some space, or choose a place on another disk, and start again",
    errno.EDQUOT: "your disk quota is used up; free some space, or choose another place, and start again",
    errno.EACCES: "you may not write there; choose another place or change the permissions",
    errno.EPERM: "you may not write there; choose another place or change the permissions",
    errno.EROFS: "the disk is read-only; choose another place",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another place",
    errno.EISDIR: "it is a folder, not a file; choose another name",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}


def is_temporary(path: Path) -> bool:
    """Whether `path` is a temporary sibling that an interrupted write left behind."""
    return path.name.startswith(".") and path.name.endswith(TEMPORARY_SUFFIX)


@contextmanager
def disk_errors(path: Path) -> Generator[None]:
    """Turn the failures of a write to `path` that a person can mend (a full disk, no permission) into a `UserError`.

    Other errors pass unchanged. Libraries written in Rust (safetensors, tokenizers) report the number only in their
    text, so `(os error 28)` is read as well.
    """
    try:
        yield
    except OSError as error:
        mend = _MENDS.get(error.errno or 0)
        if mend is None:
            raise
        raise UserError(f"cannot write {path}: {mend}") from error
    except UserError:
        raise
    except Exception as error:
        mend = next((mend for number, mend in _MENDS.items() if f"(os error {number})" in str(error)), None)
        if mend is None:
            raise
        raise UserError(f"cannot write {path}: {mend}") from error


@contextmanager
def atomic_path(path: Path) -> Generator[Path]:
    """Give the path of a temporary sibling to write to; on success it takes the place of `path` in one step.

    When the block fails, by an error or by Ctrl-C, the temporary file is deleted and what was at `path` stays as it
    was. The folder of `path` must exist.

    Raises:
        UserError: the disk is full, or the place cannot be written.
    """
    with disk_errors(path):
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY_SUFFIX)
        os.close(descriptor)
        temporary = Path(name)
        try:
            yield temporary
            _make_durable(temporary)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        _flush_folder(path.parent)


def atomic_write(path: Path, content: bytes | str) -> None:
    """Write `content` (text as UTF-8) to `path` whole or not at all.

    Raises:
        UserError: the disk is full, or the place cannot be written; what was at `path` before is untouched.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def append_line(path: Path, line: str) -> None:
    """Append `line` and a line end to a file, which is made where it is missing; other readers see it at once.

    Raises:
        UserError: the disk is full; the file then ends with the last whole line.
    """
    data = f"{line}\n".encode()
    with disk_errors(path), path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, "short write")
        except OSError:
            file.truncate(size)
            raise


def drop_partial_line(path: Path) -> None:
    """Take off the unfinished last line that a killed process may have left at the end of a log."""
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        atomic_write(path, data[: data.rfind(b"\n") + 1])


def _make_durable(path: Path) -> None:
    """Give the file ordinary permissions and push it to the disk: a power cut then leaves the old or the new file."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fchmod(descriptor, 0o666 & ~_umask())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    """Push the new name to the disk. Some file systems cannot; the file itself is safe by then."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
