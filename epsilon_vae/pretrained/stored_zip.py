"""Zips whose members lie in them as they are: torch's files, and NumPy's .npz."""

import io
import pathlib
import zipfile
from typing import BinaryIO


def open_zip(file: BinaryIO | pathlib.Path) -> zipfile.ZipFile:
    """Opens a zip of which all members together take no more memory than the file has bytes.

    Raises:
      ValueError: members are compressed, which may be to a thousandth, or lie in one another, or
        some are missing.
      zipfile.BadZipFile: it is broken.
    """
    archive = zipfile.ZipFile(file)
    members = archive.infolist()
    for member in members:
        is_stored = member.compress_type == zipfile.ZIP_STORED
        if not is_stored or member.file_size != member.compress_size:
            raise ValueError(f"its member {member.filename!r} is compressed")
    end = archive.fp.seek(-22, io.SEEK_END)
    if sum(member.file_size for member in members) > end:
        raise ValueError("its members are larger than the file")
    count = int.from_bytes(archive.fp.read(22)[10:12], "little")
    if count != min(len(members), 2**16 - 1):  # the largest stands for more
        raise ValueError(f"it has {len(members)} of {count} members")
    return archive
