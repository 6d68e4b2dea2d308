"""The Hugging Face Hub: the files of a repository at one commit, and files into a repository in one commit.

Failures come as one clear error of a built-in kind: ``ValueError`` for a name that stands for nothing,
``PermissionError`` for a refusal, ``ConnectionError`` where the Hub cannot be reached and the cache does not help,
``OSError`` for the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import huggingface_hub

_NAME = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>\S+))?")


class HubName(NamedTuple):
    """A repository ``owner/name`` on the Hub, at a branch, tag or commit, or at its main branch."""

    repo: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubName | None:
        """From ``owner/name`` or ``owner/name@revision``; None for what does not look like one."""
        match = _NAME.fullmatch(text)
        return None if match is None else cls(match["repo"], match["revision"])

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"


class Snapshot(NamedTuple):
    """Files of a repository in the client's cache.

    Attributes:
        folder: with the files; read only.
        commit: hexadecimal id of the commit they are from.
        cache: folder of all that is cached of the repository; to be removed where it is damaged.
    """

    folder: Path
    commit: str
    cache: Path


def download(name: HubName, files: Iterable[str]) -> Snapshot:
    """Files of a repository, those of them that it has, from the cache where they have been loaded before.

    Without a network, and with ``HF_HUB_OFFLINE=1``, it is the cached state of the revision.

    Args:
        name: repository and revision.
        files: names of the files.

    Raises:
        ValueError: no such repository or revision, or none that this user may know of.
        PermissionError: access is not granted, or the token is not valid.
        ConnectionError: the Hub cannot be reached, and the cache does not hold (all of) the files.
        OSError: another failure, e.g. a download that came to an end too early.
    """
    from huggingface_hub.errors import HTTPError

    try:
        found = huggingface_hub.snapshot_download(name.repo, revision=name.revision, allow_patterns=list(files))
    except (OSError, ValueError, HTTPError) as error:
        raise _in_plain_words(error, f"{name} from the Hub") from error
    # Layout of the client's cache: models--owner--name/snapshots/<commit>.
    folder = Path(found)
    return Snapshot(folder, folder.name, folder.parents[1])


def upload(
    repo: str,
    files: Mapping[str, bytes],
    *,
    remove: Iterable[str] = (),
    revision: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    message: str,
) -> str:
    """Put files into a repository in one commit: where something fails, the branch stays as it was.

    Args:
        repo: ``owner/name``; created where it does not exist.
        files: content by name.
        remove: names of files that are to go, where the branch has them.
        revision: branch, created from the main one where it does not exist; the main branch if None.
        private: whether a repository that is created is private; None for the owner's default.
        token: of the Hub; that of ``hf auth login`` or ``HF_TOKEN`` if None.
        message: of the commit.

    Returns:
        The commit's address.

    Raises:
        ValueError: ``repo`` is not of the form ``owner/name``, or the Hub does not accept it.
        PermissionError: no token, or one that may not write there.
        OSError: another failure, among them ``ConnectionError``.
    """
    from huggingface_hub.errors import HTTPError

    name = HubName.parse(repo)
    if name is None or name.revision is not None:
        raise ValueError(f"repo_id must be owner/name on the Hub, with a branch in revision, got {repo!r}")
    api = huggingface_hub.HfApi(token=token)
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(repo, branch=revision, exist_ok=True)
        gone = [path for path in remove if api.file_exists(repo, path, revision=revision)]
        # Not upload_folder, which splits what it uploads into several commits.
        commit = api.create_commit(
            repo,
            [
                *(huggingface_hub.CommitOperationAdd(path, content) for path, content in files.items()),
                *(huggingface_hub.CommitOperationDelete(path) for path in gone),
            ],
            commit_message=message,
            revision=revision,
        )
    # The client turns a failed upload of a large file into a RuntimeError.
    except (OSError, ValueError, RuntimeError, HTTPError) as error:
        raise _in_plain_words(error, f"{HubName(repo, revision)} to the Hub", cached=False) from error
    return str(commit.commit_url)


def _in_plain_words(error: Exception, subject: str, *, cached: bool = True) -> Exception:
    """What happened, in one line; ``cached``: the cache could have helped, since it was a download."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # These two are wrapped around what really happened.
    wrapped = isinstance(error, LocalEntryNotFoundError | RuntimeError) and isinstance(error.__cause__, Exception)
    cause = error.__cause__ if wrapped else error
    said = " ".join(str(cause).split())
    missed = ", and the cache does not hold it" if cached else ""
    if isinstance(cause, HfHubHTTPError):
        said = f"HTTP {cause.response.status_code}, {cause.server_message or said}"
    if isinstance(cause, RevisionNotFoundError):
        return ValueError(f"{subject}: the repository has no such revision")
    if isinstance(cause, GatedRepoError):
        return PermissionError(f"{subject}: access has to be asked for on the repository's page ({said})")
    if isinstance(cause, RepositoryNotFoundError):
        return ValueError(
            f"{subject}: no such repository there, or a private one: for that, `hf auth login` or HF_TOKEN"
        )
    if isinstance(cause, HfHubHTTPError):
        refused = cause.response.status_code in (401, 403)
        return PermissionError(f"{subject}: refused ({said})") if refused else OSError(f"{subject}: {said}")
    if isinstance(cause, OfflineModeIsEnabled):
        return ConnectionError(f"{subject}: offline mode is on (HF_HUB_OFFLINE){missed}")
    # Clients before 1.0 speak through requests, whose errors of transport have no ancestor in the client's own.
    # An address that is none is a ValueError of theirs: unreachable would be the wrong word for it.
    through_requests = type(cause).__module__ == "requests.exceptions" and not isinstance(cause, ValueError)
    transport = isinstance(cause, HTTPError | ConnectionError) or through_requests
    if transport or isinstance(error, LocalEntryNotFoundError):
        return ConnectionError(f"{subject}: the Hub cannot be reached{missed} ({said})")
    kind = ValueError if isinstance(cause, ValueError) else OSError
    return kind(f"{subject}: {said}")
