"""`RelationalLoss` to the Hub and back with the real client, which talks HTTP to a stand-in on this machine."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.constants as client
import pytest
import torch
from fake_hub import TOKEN, FakeHub, Repository, serving
from torch import Tensor

from relqa_loss import RelationalLoss, weights
from relqa_loss.cli import main

PairMaker = Callable[..., tuple[Tensor, Tensor]]
NAME = "me/mine"


@pytest.fixture(scope="module")
def saved(loss_fn: RelationalLoss, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return loss_fn.save_pretrained(tmp_path_factory.mktemp("hub") / "weights")


@pytest.fixture
def repository(hub: FakeHub, saved: Path) -> Repository:
    return hub.add_folder(NAME, saved)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def changed(loss_fn: RelationalLoss) -> RelationalLoss:
    """A loss with weights of its own, so that pushes and revisions can be told apart."""
    other = copy.deepcopy(loss_fn)
    other.scorer.gain.data += 0.5
    return other


# --- from the Hub ---


def test_what_is_on_the_hub_gives_the_values_it_had(
    loss_fn: RelationalLoss, hub: FakeHub, repository: Repository, make_pair: PairMaker
) -> None:
    loaded = RelationalLoss(NAME)
    for what in ("distance", "maps", "score"):
        assert torch.equal(getattr(loaded.relate(*make_pair()), what), getattr(loss_fn.relate(*make_pair()), what))
    assert loaded.model_card == loss_fn.model_card and loaded.card_figure == loss_fn.card_figure


def test_only_the_files_of_a_weights_folder_are_asked_for(hub: FakeHub, saved: Path) -> None:
    hub.add(NAME, contents(saved) | {"pytorch_model.bin": b"pickle", "notes.txt": b"of no use"})
    RelationalLoss(NAME)
    asked = {path.rsplit("/", 1)[-1] for path in hub.asked("GET", "/resolve/")}
    assert {"config.json", "README.md"} <= asked <= {*weights.FILES, weights.FIGURE_FILE}


def test_info_records_the_commit_and_the_sha256_of_each_file(repository: Repository, saved: Path) -> None:
    info = RelationalLoss(NAME).info()
    assert (info["weights"], info["revision"]) == (NAME, repository.refs["main"])
    assert info["files"] == {
        name: hashlib.sha256((saved / name).read_bytes()).hexdigest()
        for name in ("predictor.safetensors", "scorer.safetensors")
    }
    assert RelationalLoss(saved).info()["revision"] is None


def test_relqa_info_prints_the_commit(repository: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--weights", NAME]) == 0
    assert f"revision   {repository.refs['main']}\n" in capsys.readouterr().out
    assert main(["info", "--weights", f"{NAME}@{repository.refs['main'][:40]}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["revision"] == repository.refs["main"]


@pytest.mark.parametrize("kind", ["branch", "tag with a slash", "commit"])
@pytest.mark.parametrize("how", ["in the name", "as an argument"])
def test_a_revision_is_the_state_it_names(
    loss_fn: RelationalLoss, repository: Repository, tmp_path: Path, kind: str, how: str
) -> None:
    first = repository.refs["main"]
    repository.refs |= {"v1": first, "refs/pr/3": first}
    second = repository.commit(contents(changed(loss_fn).save_pretrained(tmp_path / "changed")))
    revision = {"branch": "v1", "tag with a slash": "refs/pr/3", "commit": first}[kind]
    if how == "in the name":
        loaded = RelationalLoss(f"{NAME}@{revision}")
    else:
        loaded = RelationalLoss.from_pretrained(NAME, revision=revision)
    assert loaded.info()["revision"] == first and loaded.info()["weights"] == f"{NAME}@{revision}"
    assert loaded.info()["files"] == loss_fn.info()["files"]
    newest = RelationalLoss(NAME)
    assert newest.info()["revision"] == second and newest.info()["files"] != loss_fn.info()["files"]


def test_settings_are_passed_on(repository: Repository, make_pair: PairMaker) -> None:
    loss = RelationalLoss.from_pretrained(NAME, reduction="none", data_range=(-1.0, 1.0), axis_weights={"blur": 3.0})
    assert loss(*make_pair()).shape == (2,) and loss.data_range == (-1.0, 1.0)


def test_a_second_load_takes_the_files_from_the_cache(hub: FakeHub, repository: Repository) -> None:
    RelationalLoss(NAME)
    before = len(hub.asked("GET", "/resolve/|/storage/"))
    assert before >= 4
    RelationalLoss(NAME)
    assert len(hub.asked("GET", "/resolve/|/storage/")) == before


def test_a_private_repository_is_read_with_the_users_token(
    hub: FakeHub, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_folder(NAME, saved, private=True)
    with pytest.raises(ValueError, match=r"no such repository there, or a private one: .*hf auth login.*HF_TOKEN"):
        RelationalLoss(NAME)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert RelationalLoss(NAME).info()["revision"]
    # Large files come from another host, which is not to see the token.
    assert hub.asked("GET", "/storage/") and all(one.token is None for one in hub.requests if "storage" in one.path)


# --- what can be wrong there ---


def test_a_missing_repository_is_one_error_that_says_what_was_tried(hub: FakeHub) -> None:
    message = (
        r"weights 'me/other': not bundled \(.*relqa-v1.*\), no folder of that name, and me/other from the Hub: no such"
    )
    with pytest.raises(ValueError, match=message):
        RelationalLoss("me/other")


def test_a_push_that_cannot_reach_the_hub_says_nothing_of_a_cache(
    loss_fn: RelationalLoss, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(ConnectionError, match="me/mine to the Hub: the Hub cannot be reached") as caught:
        loss_fn.push_to_hub(NAME, token=TOKEN)
    assert "cache" not in str(caught.value)


@pytest.mark.parametrize("revision", ["v9", "0" * 40])
def test_a_missing_revision_is_named(repository: Repository, revision: str) -> None:
    with pytest.raises(ValueError, match=f"{NAME}@{revision} from the Hub: the repository has no such revision"):
        RelationalLoss.from_pretrained(NAME, revision=revision)


def test_a_gated_repository_is_a_permission_error(hub: FakeHub, saved: Path) -> None:
    hub.add_folder(NAME, saved, gated=True)
    with pytest.raises(PermissionError, match=r"access has to be asked for .*restricted"):
        RelationalLoss(NAME)


def test_a_wrong_token_is_a_permission_error(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_last_year")
    with pytest.raises(PermissionError, match=f"{NAME} from the Hub: refused .*401, Invalid credentials"):
        RelationalLoss(NAME)


def test_a_name_that_the_client_refuses_is_a_value_error(hub: FakeHub) -> None:
    with pytest.raises(ValueError, match=r"weights 'me/a--b': .*me/a--b from the Hub: "):
        RelationalLoss("me/a--b")
    assert hub.requests == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"README.md": b"# Another model", "model.safetensors": b"0" * 64}, "it has no config.json"),
        ({"model.bin": b"pickle"}, "it has no config.json"),
        ({"config.json": b'{"model_type": "bert"}'}, r"config\.json does not belong to weights of relqa_loss"),
        ({"config.json": b'{"format_version": 99}'}, r"config\.json has format_version 99, this package reads 7"),
        ({"config.json": b"<html>"}, r"config\.json is not valid JSON"),
    ],
    ids=["another model", "pickle only", "another config", "a later format", "no JSON"],
)
def test_a_repository_that_is_not_ours_is_named_with_its_commit(
    hub: FakeHub, files: dict[str, bytes], message: str
) -> None:
    commit = hub.add(NAME, files).refs["main"]
    with pytest.raises(ValueError, match=rf"{NAME} on the Hub \(commit {commit}\).*{message}"):
        RelationalLoss(NAME)


@pytest.mark.parametrize("missing", ["predictor.safetensors", "scorer.safetensors"])
def test_a_missing_file_is_named(hub: FakeHub, saved: Path, missing: str) -> None:
    hub.add(NAME, {name: content for name, content in contents(saved).items() if name != missing})
    with pytest.raises(ValueError, match=rf"{NAME} on the Hub .*{missing} cannot be read"):
        RelationalLoss(NAME)


def without_gain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in tensors.items() if key != "gain"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_gain, "missing gain"),
        (lambda tensors: tensors | {"extra": torch.ones(1)}, "unexpected extra"),
        (lambda tensors: tensors | {"gain": tensors["gain"].half()}, r"gain is float16 \(\), needs float32 \(\)"),
        (lambda tensors: tensors | {"gain": torch.ones(16)}, r"gain is float32 \(16,\), needs float32 \(\)"),
    ],
    ids=["missing", "unexpected", "dtype", "shape"],
)
def test_tensors_that_do_not_fit_are_refused_though_their_digest_is_right(
    hub: FakeHub, loss_fn: RelationalLoss, tmp_path: Path, change: Callable[[dict], dict], message: str
) -> None:
    weights.save(
        tmp_path / "made",
        predictor=loss_fn.predictor.state_dict(),
        predictor_config=loss_fn.predictor.config,
        scorer=change(dict(loss_fn.scorer.state_dict())),
        scorer_config=loss_fn.scorer.config,
        provenance={},
    )
    hub.add_folder(NAME, tmp_path / "made")
    with pytest.raises(ValueError, match=rf"scorer\.safetensors does not fit RelationalScorer: .*{message}"):
        RelationalLoss(NAME)


# --- what can go wrong on the way ---


def test_a_download_that_ends_too_early_leaves_no_weights_and_can_be_repeated(
    hub: FakeHub, repository: Repository, cache: Path
) -> None:
    hub.spoil = lambda content: content[: len(content) // 2]
    with pytest.raises(OSError, match=rf"{NAME} from the Hub: .*should be of size"):
        RelationalLoss(NAME)
    assert not list(cache.rglob("*.safetensors"))
    hub.spoil = lambda content: content
    assert RelationalLoss(NAME).info()["revision"] == repository.refs["main"]
    # Some clients keep the first half, to go on from it: it must not outlive that.
    assert not list(cache.rglob("*.incomplete"))


def test_a_file_damaged_on_the_way_is_refused_with_the_way_out(
    hub: FakeHub, repository: Repository, cache: Path
) -> None:
    hub.spoil = lambda content: content[:-1] + bytes([content[-1] ^ 1])
    with pytest.raises(
        ValueError, match=rf"{NAME} on the Hub .* damaged .*sha256 .*to download it anew, remove"
    ) as caught:
        RelationalLoss(NAME)
    hub.spoil = lambda content: content
    named = Path(re.search(r"remove (\S+)$", str(caught.value))[1])
    assert named.parent == cache.resolve()
    named.rename(cache / "out-of-the-way")
    assert RelationalLoss(NAME).info()["revision"] == repository.refs["main"]


def test_a_file_cut_short_in_the_cache_is_refused(repository: Repository, cache: Path) -> None:
    RelationalLoss(NAME)
    (path,) = cache.rglob("snapshots/*/scorer.safetensors")
    content = path.read_bytes()
    path.resolve().write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=rf"scorer\.safetensors is damaged .*{len(content) // 2} bytes"):
        RelationalLoss(NAME)


# --- without a network ---


@pytest.fixture
def go_offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """To be called: offline mode, until the test ends. Clients before 1.0 ask for it when a session begins."""
    new_sessions = getattr(huggingface_hub.utils, "reset_sessions", lambda: None)

    def go() -> None:
        monkeypatch.setattr(client, "HF_HUB_OFFLINE", True)
        new_sessions()

    yield go
    new_sessions()


def test_offline_the_cached_state_is_used_and_nothing_is_asked(
    hub: FakeHub, repository: Repository, go_offline: Callable[[], None]
) -> None:
    online = RelationalLoss(NAME)
    asked = len(hub.requests)
    go_offline()
    for name in (NAME, f"{NAME}@{repository.refs['main']}"):
        assert RelationalLoss(name).info()["files"] == online.info()["files"]
        assert RelationalLoss(name).info()["revision"] == repository.refs["main"]
    assert len(hub.requests) == asked
    with pytest.raises(ConnectionError, match="offline mode is on"):
        RelationalLoss(f"{NAME}@v9")


def test_offline_without_a_cache_is_one_clear_error(
    hub: FakeHub, repository: Repository, go_offline: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    go_offline()
    with pytest.raises(ConnectionError, match=rf"{NAME} from the Hub: offline mode is on \(HF_HUB_OFFLINE\)"):
        RelationalLoss(NAME)
    assert main(["info", "--weights", NAME]) == 1
    message = capsys.readouterr().err
    assert message.startswith("relqa info: error: weights 'me/mine': not bundled") and message.count("\n") == 1
    assert "no folder of that name, and me/mine from the Hub: offline mode is on" in message
    assert hub.requests == []
    assert RelationalLoss().info()["revision"] is None


def test_offline_with_half_a_cache_is_one_clear_error(
    repository: Repository, cache: Path, go_offline: Callable[[], None]
) -> None:
    RelationalLoss(NAME)
    (path,) = cache.rglob("snapshots/*/scorer.safetensors")
    path.unlink()
    go_offline()
    with pytest.raises((ConnectionError, ValueError), match=NAME):
        RelationalLoss(NAME)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_network_that_is_down_is_a_connection_error_unless_the_cache_helps(
    hub: FakeHub, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    online = RelationalLoss(NAME)
    monkeypatch.setattr(client, "ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    assert RelationalLoss(NAME).info() == online.info()
    with pytest.raises(ConnectionError, match="me/other from the Hub: the Hub cannot be reached"):
        RelationalLoss("me/other")


# --- to the Hub ---


def test_what_is_pushed_is_what_is_saved_and_comes_back(
    loss_fn: RelationalLoss, hub: FakeHub, saved: Path, make_pair: PairMaker
) -> None:
    address = loss_fn.push_to_hub(NAME, token=TOKEN)
    repository = hub.repositories[NAME]
    assert address == f"{hub.endpoint}/{NAME}/commit/{repository.refs['main']}"
    assert not repository.private
    assert {name: content for name, content in repository.head().items() if name != ".gitattributes"} == contents(saved)
    assert torch.equal(RelationalLoss(NAME)(*make_pair()), loss_fn(*make_pair()))
    assert len(hub.asked("POST", "/commit/")) == 1


def test_a_push_goes_on_a_branch_and_leaves_main_alone(
    loss_fn: RelationalLoss, hub: FakeHub, repository: Repository
) -> None:
    main_before = repository.refs["main"]
    other = changed(loss_fn)
    for _ in range(2):
        other.push_to_hub(NAME, token=TOKEN, revision="draft", commit_message="Another gain")
    assert repository.refs["main"] == main_before
    draft = RelationalLoss(f"{NAME}@draft")
    assert torch.equal(draft.scorer.gain, other.scorer.gain)


def test_a_new_repository_is_private_on_request(loss_fn: RelationalLoss, hub: FakeHub) -> None:
    loss_fn.push_to_hub("me/secret", private=True, token=TOKEN)
    assert hub.repositories["me/secret"].private


def test_a_figure_of_earlier_weights_goes_with_them(
    loss_fn: RelationalLoss, hub: FakeHub, repository: Repository
) -> None:
    repository.commit(repository.head() | {"failures.webp": b"figure", "notes.txt": b"the owner's"})
    plain = copy.deepcopy(loss_fn)
    plain.card_figure = None
    plain.push_to_hub(NAME, token=TOKEN)
    assert "failures.webp" not in repository.head() and repository.head()["notes.txt"] == b"the owner's"


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/preupload/"), ("POST", "objects/batch"), ("PUT", "/storage/"), ("POST", "/commit/")]
)
def test_a_push_that_fails_changes_nothing_and_can_be_repeated(
    loss_fn: RelationalLoss, hub: FakeHub, repository: Repository, method: str, path: str
) -> None:
    before = copy.deepcopy((repository.refs, repository.commits))
    hub.refuse_where(method, path, 418)
    with pytest.raises(OSError, match=f"{NAME} to the Hub: HTTP 418, on purpose"):
        changed(loss_fn).push_to_hub(NAME, token=TOKEN)
    assert (repository.refs, repository.commits) == before
    assert RelationalLoss(NAME).info()["files"] == loss_fn.info()["files"]
    hub.refuse = lambda request: None
    changed(loss_fn).push_to_hub(NAME, token=TOKEN)
    assert RelationalLoss(NAME).info()["files"] != loss_fn.info()["files"]


@pytest.mark.parametrize(
    ("name", "token", "message"),
    [
        (NAME, None, r"me/mine to the Hub: refused \(HTTP 401"),
        (NAME, "hf_of_last_year", r"me/mine to the Hub: refused \(HTTP 401"),
        ("you/yours", TOKEN, "you/yours to the Hub: refused .*rights to create"),
    ],
    ids=["no token", "wrong token", "another owner"],
)
def test_a_push_without_the_right_to_is_a_permission_error(
    loss_fn: RelationalLoss, hub: FakeHub, name: str, token: str | None, message: str
) -> None:
    with pytest.raises(PermissionError, match=message):
        loss_fn.push_to_hub(name, token=token)
    assert hub.repositories == {}


@pytest.mark.parametrize("name", ["mine", "me/mine@v1", "a/b/c", ""])
def test_a_push_to_what_is_no_repository_name_asks_nothing(loss_fn: RelationalLoss, hub: FakeHub, name: str) -> None:
    with pytest.raises(ValueError, match=f"repo_id must be owner/name on the Hub, .*got '{name}'"):
        loss_fn.push_to_hub(name, token=TOKEN)
    assert hub.requests == []


# --- names ---


@pytest.mark.parametrize("name", ["relqa-v1", "me/mine@v1", "./weights", Path("me/mine")], ids=str)
def test_a_revision_of_something_else_is_refused(hub: FakeHub, name: str | Path) -> None:
    with pytest.raises(ValueError, match=r"a revision goes with owner/name on the Hub, got .* and 'v2'"):
        RelationalLoss.from_pretrained(name, revision="v2")
    assert hub.requests == []


def test_a_folder_that_is_there_has_no_revision(
    hub: FakeHub, repository: Repository, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    RelationalLoss(saved).save_pretrained(NAME)
    with pytest.raises(ValueError, match="a revision goes with owner/name on the Hub"):
        RelationalLoss.from_pretrained(NAME, revision="v2")
    assert hub.requests == []


def test_a_folder_wins_over_the_hub_and_a_path_is_never_a_name_there(
    hub: FakeHub, repository: Repository, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="unknown weights 'me/mine'"):
        RelationalLoss(Path(NAME))
    RelationalLoss(saved).save_pretrained(NAME)
    assert RelationalLoss(NAME).info()["revision"] is None
    assert hub.requests == []


# --- as a user has it: environment variables and processes of their own ---


def run_python(code: str, **environment: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={key: value for key, value in os.environ.items() if not key.startswith("HF_")} | environment,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_push_load_and_offline_with_nothing_but_the_environment(tmp_path: Path) -> None:
    begin = "import json; from relqa_loss import RelationalLoss; "
    push = "address = RelationalLoss().push_to_hub('me/mine'); "
    load = "info = RelationalLoss('me/mine').info(); "
    with serving() as hub:
        home = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
        address, info = run_python(f"{begin}{push}{load}print(json.dumps([address, info]))", HF_TOKEN=TOKEN, **home)
        assert info["revision"] == hub.repositories[NAME].refs["main"] and address.endswith(info["revision"])
    # The server is gone.
    assert run_python(f"{begin}{load}print(json.dumps(info))", HF_HUB_OFFLINE="1", **home) == info
