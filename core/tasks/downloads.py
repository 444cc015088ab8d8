"""Large files from public addresses, whole or not at all."""

import hashlib
import http.client
import urllib.request
from pathlib import Path

from bounds import MAX_PICKLED_BYTES, check
from bounds.whole import write_whole
from core.errors import UserError
from core.progress import progress_bar

SECONDS = 30  # without a byte, after which a server is given up
_PART = 1 << 20  # bytes


def download(url: str, path: Path, md5: str) -> None:
    """Fetch `url` into `path`, with a progress bar, and check it.

    What a process leaves that is killed meanwhile, the next download into the folder removes.

    Raises:
        UserError: without a network, for another digest, or a folder that cannot be written.
    """
    try:
        write_whole(path, lambda temporary: _fetch(url, temporary, md5))
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: no address, or another digest
        raise UserError(f"cannot download {url} into {path.parent}: {error}") from error


def _fetch(url: str, path: Path, md5: str) -> None:
    digest, done = hashlib.md5(usedforsecurity=False), 0
    request = urllib.request.Request(url, headers={"User-Agent": "adaptlens"})
    with urllib.request.urlopen(request, timeout=SECONDS) as response, open(path, "wb") as file:
        with progress_bar(shown=True, total=response.length, unit="B", unit_scale=True, desc=path.name) as bar:
            while part := response.read(_PART):
                done += len(part)
                check(url, done, MAX_PICKLED_BYTES, "bytes or more")
                file.write(part)
                digest.update(part)
                bar.update(len(part))
    if digest.hexdigest() != md5:
        raise ValueError(f"it has MD5 {digest.hexdigest()}, not {md5}, and was not kept")
