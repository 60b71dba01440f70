import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from opsin.commands.explore.security import POLICY, LoopbackOnly
from opsin.commands.explore.server import _bound

HOST = "127.0.0.1:7860"


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()

    @app.get("/{path:path}")
    @app.post("/{path:path}")
    def everything(path: str) -> str:
        return "allowed"

    app.add_middleware(LoopbackOnly)
    return TestClient(app, base_url=f"http://{HOST}")


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "[::1]:7860", "127.0.0.1"])
def test_requests_from_loopback_are_allowed(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:7860", "192.168.1.7:7860", "", "0.0.0.0:7860"]
)
def test_other_host_names_are_refused(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"host": host}).status_code == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:7860", "http://127.0.0.1:9"])
def test_other_pages_cannot_post(client: TestClient, origin: str) -> None:
    headers = {"host": HOST, "origin": origin}
    assert client.post("/gradio_api/queue/join", headers=headers).status_code == 403
    assert client.post("/gradio_api/queue/join", headers={**headers, "origin": f"http://{HOST}"}).status_code == 200


@pytest.mark.parametrize(
    "address",
    [
        "/",
        "/config",
        "/assets/index-abc.js",
        "/gradio_api/queue/data?session_hash=x",
        "/gradio_api/upload",
        "/gradio_api/heartbeat/abc123",
        "/gradio_api/file=/tmp/own/picture.png",
        "/report/2026-11-23/run",
    ],
)
def test_paths_that_the_page_needs_are_allowed(client: TestClient, address: str) -> None:
    assert client.get(address).status_code == 200


@pytest.mark.parametrize(
    "address",
    [
        "/gradio_api/proxy=http://example.com/",
        "/gradio_api/file=https://example.com/x.png",
        "/gradio_api/file=/tmp/own/%2e%2e/%2e%2e/etc/passwd",
        "/assets/%2e%2e/%2e%2e/secret",
        "/assets/..%2f..%2fsecret",
        "/report/..%5c..%5csecret",
        "/gradio_api/call/anything",
        "/gradio_api/api/anything",
        "/gradio_api/vibe-code",
        "/gradio_api/openapi.json",
        "/gradio_api/custom_component/1/client/component/x.js",
        "/monitoring",
        "/docs",
        "/login",
    ],
)
def test_other_paths_are_not_found(client: TestClient, address: str) -> None:
    assert client.get(address).status_code == 404


def test_the_browser_contacts_this_server_only(client: TestClient) -> None:
    headers = client.get("/").headers
    assert headers["content-security-policy"] == POLICY
    assert "http" not in POLICY.replace("'", "")
    assert headers["x-content-type-options"] == "nosniff"


def test_a_report_runs_no_script_and_sends_no_request(client: TestClient) -> None:
    policy = client.get("/report/run").headers["content-security-policy"]
    directives = dict(part.split(maxsplit=1) if " " in part else (part, "") for part in policy.split("; "))
    assert directives == {
        "sandbox": "",
        "default-src": "'none'",
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
    }


def test_the_server_listens_on_loopback_only() -> None:
    with _bound(0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
