"""The dashboard answers the requests of its own page on this machine only, and serves its own folder."""

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard import program
from tensorboard.plugins.projector import projector_plugin
from werkzeug.test import Client

from opsin.commands.dashboard import guarded_server, main

pytestmark = pytest.mark.filterwarnings("ignore:html5lib's sanitizer is deprecated:DeprecationWarning")

LOCAL = "127.0.0.1:6006"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that returns the application which the server gets for some flags."""
    program = importlib.import_module("tensorboard.program")  # tensorboard.program is a lazy copy of it
    monkeypatch.setattr(program, "create_port_scanning_werkzeug_server", lambda app, flags: app)

    def tensorboard(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"runs"]

    return lambda host=None, bind_all=False: Client(
        guarded_server(tensorboard, SimpleNamespace(host=host, bind_all=bind_all))
    )


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example:6006", "192.168.1.7:6006", "", "[::1", "0.0.0.0"]
)
def test_requests_with_the_host_name_of_another_site_are_refused(served: Any, host: str) -> None:
    answer = served().get("/data/runs", headers={"Host": host})
    assert answer.status_code == 403
    assert b"runs" not in answer.data
    for own in (LOCAL, "localhost:6006", "[::1]:6006"):
        assert served("localhost").get("/data/runs", headers={"Host": own}).data == b"runs"


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9"])
def test_other_pages_cannot_post(served: Any, origin: str) -> None:
    headers = {"Host": LOCAL, "Origin": origin}
    assert served().post("/", headers=headers).status_code == 403
    assert served().post("/", headers={**headers, "Origin": f"http://{LOCAL}"}).status_code == 200


def test_a_user_may_serve_other_machines(served: Any) -> None:
    for client in (served(bind_all=True), served("0.0.0.0")):
        assert client.get("/", headers={"Host": "workstation:6006"}).status_code == 200


@pytest.mark.parametrize("place", ["/etc/passwd", "../../secret", "~/.ssh/id_rsa", "link"])
def test_projector_settings_of_a_run_name_no_file_elsewhere(place: str, tmp_path: Path) -> None:
    run = tmp_path / "run" / "tensorboard"
    run.mkdir(parents=True)
    (tmp_path / "secret").touch()
    (run / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="outside the config directory"):
        projector_plugin._rel_to_abs_asset_path(place, str(run / "projector_config.pbtxt"))


@pytest.fixture
def flags(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The flags of each TensorBoard that is started, in a folder with two folders of runs."""
    started: list[Any] = []
    (in_tmp / "outputs").mkdir()
    (in_tmp / "6006").mkdir()
    monkeypatch.setattr(program.TensorBoard, "main", lambda self: started.append(self.flags) or 0)
    return started


@pytest.mark.parametrize(
    ("arguments", "folder", "expected"),
    [
        ("--port 6007", "outputs", {"port": 6007, "host": None}),
        ("outputs --port 6007", "outputs", {"port": 6007}),
        ("--port 6007 outputs --reload_interval 9", "outputs", {"port": 6007, "reload_interval": 9}),
        ("--port 6006 6006", "6006", {"port": 6006}),
        ("--bind_all --path_prefix /tb 6006 --port=0", "6006", {"bind_all": True, "path_prefix": "/tb", "port": 0}),
        ("--max_reload_threads 2 --host localhost", "outputs", {"max_reload_threads": 2, "host": "localhost"}),
        ("", "outputs", {"port": None}),
    ],
)
def test_flags_of_tensorboard_stand_before_and_after_the_folder(
    arguments: str, folder: str, expected: dict[str, Any], flags: list[Any]
) -> None:
    assert main(arguments.split()) == 0
    assert vars(flags[0]) | expected | {"logdir": folder} == vars(flags[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("runs", "runs is not a folder. Train a run first: opsin train writes to outputs"),
        ("--pages 5", "5 is not a folder. If it is the value of a flag, write --pages=5"),
        ("--logdir 6006", "--logdir: name the folder without the flag: opsin dashboard 6006"),
    ],
)
def test_a_wrong_folder_is_explained(
    arguments: str, message: str, flags: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments.split()) == 1
    assert capsys.readouterr().err.strip() == message
    assert flags == []


def test_an_unknown_flag_is_left_to_tensorboard(flags: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--pages=5"])
    assert "unrecognized arguments: --pages=5" in capsys.readouterr().err
