"""Downloads, by the hub's real client from a real server on loopback that behaves well, badly, or not at all."""

import errno
import json
import os
import socket
import subprocess
import sys
import threading
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import certifi
import huggingface_hub
import pytest
import torch

import mrsynth.io.store as weights
from mrsynth.card import Card, ManifestEntry
from mrsynth.contrasts import STANDARD
from mrsynth.errors import WeightsError
from mrsynth.io import hub
from mrsynth.io.checkpoint import Checkpoint, write_checkpoint
from mrsynth.tasks.checkpoints.run import fetch

REPOSITORY = "authors/published"
FILE = "models/cwdm_T1n_best.pt"
BODY = bytes(range(256)) * 400
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
ENTRY = ManifestEntry(
    name="official",
    method="cwdm",
    contrasts=STANDARD,
    licence="MIT",
    repository=REPOSITORY,
    pattern="(?<![a-z0-9])(t1n|t1)(?![a-z0-9])",
)


class Hub(ThreadingHTTPServer):
    """What a hub says about one model repository, and the ways in which it may fail.

    files     path in the repository -> bytes
    status    part of an address -> (HTTP status, X-Error-Code)
    hangs     parts of addresses, as "HEAD /authors", that are never answered
    cuts      the lengths at which the next bodies break off
    ranges    whether it can go on from the middle of a file
    cdn       whether the bytes come from another host
    facts     headers that it lies about
    sha       the commit that it lies about
    endless   whether files never end
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = {FILE: BODY, "README.md": b"a model"}
        self.status, self.hangs, self.cuts, self.seen = {}, [], [], []
        self.ranges, self.cdn, self.slow, self.announced, self.page = True, False, False, {}, None
        self.facts, self.sha, self.endless = {}, None, False
        self.closing = threading.Event()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def commit(self):
        return sha256(json.dumps({k: v.hex() for k, v in self.files.items()}).encode()).hexdigest()[:40]

    def asked(self, method, part):
        return [headers for m, path, headers in self.seen if m == method and part in path]


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def log_message(self, *_):
        pass

    def answer(self, body):
        what = f"{self.command} {self.path}"
        self.server.seen.append((self.command, self.path, dict(self.headers)))
        if any(part in what for part in self.server.hangs):
            self.server.closing.wait(30)
            return
        for part, (status, code) in self.server.status.items():
            if part in what:
                self.head(status, {"X-Error-Code": code, "Content-Length": 0})
                return
        path = unquote(urlsplit(self.path).path)
        if path == f"/api/models/{REPOSITORY}":
            self.description()
        elif path.startswith(f"/{REPOSITORY}/resolve/{self.server.commit}/"):
            self.file(path.split(f"{self.server.commit}/")[1], body)
        elif path.startswith("/cdn/"):
            self.content(path.removeprefix("/cdn/"), {})
        else:
            self.head(404, {"X-Error-Code": "RepoNotFound", "Content-Length": 0})

    def description(self):
        siblings = [
            {"rfilename": name, "size": len(data), "blobId": "0" * 40, "lfs": self.large(name, data)}
            for name, data in self.server.files.items()
        ]
        page = {"id": REPOSITORY, "sha": self.server.sha or self.server.commit, "siblings": siblings}
        content = self.server.page or json.dumps(page).encode()
        self.head(200, {"Content-Type": "application/json", "Content-Length": len(content)})
        self.wfile.write(content)

    def large(self, name, data):
        if not name.endswith((".pt", ".safetensors")):
            return None
        announced = self.server.announced.get(name) or sha256(data).hexdigest()
        return {"sha256": announced, "size": len(data), "pointerSize": 130}

    def file(self, name, body):
        data = self.server.files[name]
        facts = {"X-Repo-Commit": self.server.commit, "ETag": f'"{sha256(data).hexdigest()}"'}
        facts |= self.server.facts
        if self.server.cdn:
            facts |= {"X-Linked-Etag": facts["ETag"], "X-Linked-Size": len(data), "Content-Length": 0}
            self.head(302, facts | {"Location": f"http://localhost:{self.server.server_port}/cdn/{name}"})
        elif body:
            self.content(name, facts)
        else:
            self.head(200, facts | {"Content-Length": len(data)})

    def content(self, name, facts):
        data = self.server.files[name]
        begin = 0
        if "Range" in self.headers and self.server.ranges:
            begin = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            facts = facts | {"Content-Range": f"bytes {begin}-{len(data) - 1}/{len(data)}"}
        length = {} if self.server.endless else {"Content-Length": len(data) - begin}
        self.head(206 if begin else 200, facts | length)
        while self.server.endless:
            self.wfile.write(bytes(20_000))
        end = self.server.cuts.pop(0) if self.server.cuts else len(data)
        for start in range(begin, end, 20_000):
            self.wfile.write(data[start : min(end, start + 20_000)])
            if self.server.slow:
                self.server.closing.wait(0.05)

    def head(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    """One certificate in place of all, which each client reads anew."""
    every, end = Path(certifi.where()).read_text(), "-----END CERTIFICATE-----\n"
    path = tmp_path_factory.mktemp("certificates") / "one.pem"
    path.write_text(every.partition(end)[0] + end)
    return path


@pytest.fixture
def server(tmp_path, monkeypatch, authority):
    """A hub on loopback that the client takes for the real one; its waits between attempts cost no time."""
    for name in (*PROXIES, "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "MRSYNTH_WEIGHTS_DIR"):
        monkeypatch.delenv(name, raising=False)
    made = Hub()
    monkeypatch.setenv("HF_ENDPOINT", made.address + "/")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    monkeypatch.setenv("HF_TOKEN", "hf_a_secret_of_the_user")
    monkeypatch.setenv("MRSYNTH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("time.sleep", lambda _: None)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    huggingface_hub.close_session()  # a client made earlier remembers the proxies of then
    yield made
    huggingface_hub.close_session()
    made.closing.set()
    made.shutdown()
    made.server_close()
    thread.join()


def kept(folder):
    """Every body below a folder that could be taken for a whole one; older clients keep parts, to go on with."""
    return [p for p in folder.rglob("*") if p.suffix != ".incomplete" and p.is_file() and p.stat().st_size > 1000]


# What is fetched -----------------------------------------------------------------------------------------------------


def test_the_published_file_is_downloaded_once(server, tmp_path):
    steps = []
    found = hub.download(ENTRY, lambda *step: steps.append(step))

    assert found.path.read_bytes() == BODY and found.path.is_relative_to(tmp_path / "hf" / "hub")
    assert (found.file, found.revision, found.size) == (FILE, server.commit, len(BODY))
    assert found.sha256 == sha256(BODY).hexdigest()
    assert steps and all(what == "downloading official, MB" and 0 <= n <= total for what, n, total in steps)

    server.seen.clear()
    assert hub.download(ENTRY) == found
    assert [path.split("?")[0] for _, path, _ in server.seen] == [f"/api/models/{REPOSITORY}"]


def test_nobody_is_told_who_asks(server):
    """No token, no list of what is installed, no address beside the repository's, and the settings come back."""
    before = vars(huggingface_hub.constants).copy()
    hub.download(ENTRY)

    assert all(REPOSITORY in path for _, path, _ in server.seen)
    for _, _, headers in server.seen:
        assert "hf_a_secret" not in str(headers) and "authorization" not in {name.lower() for name in headers}
        assert "torch" not in str(headers)
    assert vars(huggingface_hub.constants) == before


def test_large_files_come_from_another_host(server):
    server.cdn = True

    assert hub.download(ENTRY).path.read_bytes() == BODY
    assert server.asked("GET", "/cdn/")


def test_the_environment_is_read_by_a_fresh_process(server, tmp_path):
    program = (
        "import sys; from mrsynth.card import ManifestEntry; from mrsynth.io import hub\n"
        "assert 'huggingface_hub' not in sys.modules\n"
        f"print(hub.download(ManifestEntry.model_validate_json({ENTRY.model_dump_json()!r})).path)"
    )
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "elsewhere")}
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, env=environment, capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")
    assert Path(done.stdout.strip()).read_bytes() == BODY and (tmp_path / "elsewhere") in Path(done.stdout).parents
    assert "torch" not in str(server.seen) and "agent" not in str([path for _, path, _ in server.seen])


OFFICIAL = {e.name: e for e in weights.manifest() if e.repository}
STYLES = {
    "cwdm_{}_1200000.pt": {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f"},
    "{}/model.pt": {"t1": "t1", "t1ce": "t1ce", "t2": "t2", "flair": "flair"},
    "BraTS-{}.safetensors": {"t1": "T1", "t1ce": "T1Gd", "t2": "T2", "flair": "FLAIR"},
}


@pytest.mark.parametrize("style", STYLES)
def test_the_manifest_finds_the_network_of_each_contrast(style):
    files = {contrast: style.format(name) for contrast, name in STYLES[style].items()}
    listed = [*files.values(), "README.md", "t1.txt", "config_t1n.json", "optimiser.pt"]

    assert set(OFFICIAL) == {f"cwdm-official-{contrast}" for contrast in files}
    for contrast, file in files.items():
        assert hub.matching(OFFICIAL[f"cwdm-official-{contrast}"], listed) == file


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["xt1.pt", "t1ce.pt", "t12.pt"], r"no file can be meant; expected .*Files seen: t12\.pt, t1ce\.pt, xt1\.pt"),
        (["t1.txt", "t1.bin"], r"Files seen: t1\.bin, t1\.txt\."),
        ([], "Files seen: none"),
        (["a/t1.pt", "t1n.PT"], r"2 files can be meant \(a/t1\.pt, t1n\.PT\).*mrsynth weights import"),
        ([f"{i:02}.pt" for i in range(30)], r"19\.pt and 10 more"),
    ],
)
def test_none_or_several_files_are_refused(files, said):
    with pytest.raises(WeightsError, match=said):
        hub.matching(ENTRY, files)


def test_the_files_seen_on_the_hub_are_told(server):
    server.files["t1/other.pt"] = b"x"
    with pytest.raises(WeightsError, match=rf"official: in {REPOSITORY} 2 files can be meant \({FILE}, t1/other\.pt\)"):
        hub.download(ENTRY)


# What can go wrong on the way ----------------------------------------------------------------------------------------


def test_a_slow_server_is_waited_for(server, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    server.slow = True

    assert hub.download(ENTRY).sha256 == sha256(BODY).hexdigest()


def test_a_transfer_that_breaks_off_goes_on_where_it_was(server, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    server.cuts = [30_500, 70_000]

    assert hub.download(ENTRY).path.read_bytes() == BODY
    begun = [headers.get("Range") for headers in server.asked("GET", "/resolve/")]
    assert begun == [None, "bytes=30000-", "bytes=70000-"]


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
@pytest.mark.parametrize("chunk", [1000, 10_000_000])
def test_a_truncated_download_leaves_nothing_and_the_next_succeeds(server, tmp_path, monkeypatch, ranges, chunk):
    """Also where the client by itself would begin again without end: some bytes each time, and no way to go on."""
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", chunk)
    server.ranges, server.cuts = ranges, [50_000] * 1000
    with pytest.raises(WeightsError, match=r"official cannot be downloaded from .*the transfer broke off"):
        hub.download(ENTRY)
    assert kept(tmp_path / "hf") == []

    server.cuts = []
    assert hub.download(ENTRY).path.read_bytes() == BODY


@pytest.mark.parametrize("where", ["GET /api", f"HEAD /{REPOSITORY}", f"GET /{REPOSITORY}"])
def test_a_server_that_hangs_is_given_up(server, tmp_path, monkeypatch, where):
    server.hangs = [where]
    for name in (
        "constants.HF_HUB_ETAG_TIMEOUT",
        "constants.HF_HUB_DOWNLOAD_TIMEOUT",
        "file_download._ETAG_RETRY_TIMEOUT",
    ):
        monkeypatch.setattr(f"huggingface_hub.{name}", 0.2)
    with pytest.raises(WeightsError, match=r"does not answer in time\. Try again later; HF_HUB_DOWNLOAD_TIMEOUT"):
        hub.download(ENTRY)
    assert kept(tmp_path / "hf") == []


@pytest.mark.parametrize(
    ("where", "status", "code", "said"),
    [
        ("GET /api", 401, "", "refuses access .HTTP 401.*does not exist.*mrsynth weights import"),
        ("GET /api", 403, "GatedRepo", "refuses access .HTTP 403"),
        ("GET /api", 404, "RepoNotFound", r"the repository is not there \(HTTP 404\)"),
        ("HEAD /auth", 404, "EntryNotFound", r"the file was listed but is not there \(HTTP 404\)"),
        ("GET /auth", 404, "EntryNotFound", r"the file was listed but is not there \(HTTP 404\)"),
        ("GET /api", 429, "", "too many requests from here .*Wait"),
        ("HEAD /auth", 503, "", "HTTP 503, expected the file. Try again later"),
        ("GET /api", 400, "", "HTTP 400"),
    ],
)
def test_refusals_are_explained(server, where, status, code, said):
    server.status = {where: (status, code)}
    with pytest.raises(
        WeightsError, match=f"(?s)official cannot be downloaded from {REPOSITORY} at http://127.*{said}"
    ):
        hub.download(ENTRY)


@pytest.mark.parametrize("page", [b"<html>Welcome! Log in.</html>", b"[]", b"{}", b'{"id": "x"}'])
def test_what_is_no_hub_is_told_from_one(server, page):
    server.page = page
    with pytest.raises(WeightsError, match=r"HF_ENDPOINT|Files seen: none"):
        hub.download(ENTRY)


def test_what_is_no_repository_is_named(server):
    with pytest.raises(WeightsError, match="'a/b/c' is no repository's name"):
        hub.download(ENTRY.model_copy(update={"repository": "a/b/c"}))


def test_nobody_there(server, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    with pytest.raises(WeightsError, match=rf"127\.0\.0\.1:{port}: there is no connection to it\. Check the network"):
        hub.download(ENTRY)


def test_a_full_disk_and_a_cache_that_cannot_be_written(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match=r"cache .*file/hub cannot be written\. Set HF_HOME"):
        hub.download(ENTRY)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(hub, "transfer", full)
    with pytest.raises(WeightsError, match=r"the disk or your quota is full at .*Free some space"):
        hub.download(ENTRY)


def test_bytes_other_than_announced_are_refused_and_forgotten(server, tmp_path):
    server.announced[FILE] = "0" * 64
    with pytest.raises(WeightsError, match=rf"(?s)found: +{sha256(BODY).hexdigest()}.*expected: 0{{64}}.*try again"):
        hub.download(ENTRY)
    assert kept(tmp_path / "hf") == []

    server.announced.clear()
    assert hub.download(ENTRY).path.read_bytes() == BODY


# A server that wants more than to be asked ----------------------------------------------------------------------------


def below(folder):
    """Every file below a folder that the cache's own bookkeeping did not put there."""
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and ".locks" not in p.parts}


HOSTILE = [
    "{victim}",
    "/{victim}",
    "../../../../victim.txt",
    "..",
    ".",
    "a/b",
    "a\\b",
    "%2e%2e/x",
    "C:x",
    " ",
    "x" * 200,
]


@pytest.mark.parametrize("header", ["ETag", "X-Linked-Etag", "X-Repo-Commit"])
@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("mark", ["", 'W/"'])
def test_no_header_is_made_a_path(server, tmp_path, header, text, mark):
    """Neither an existing file of the user nor a new one: what is no plain name is refused before the transfer."""
    if mark and header == "X-Repo-Commit":
        return
    victim = tmp_path / "victim.txt"
    victim.write_text("the user's own")
    server.facts = {header: mark + text.format(victim=victim) + mark[-1:]}
    before = below(tmp_path)
    with pytest.raises(WeightsError, match=r"was not believed: the (ETag|commit) is .*Check HF_ENDPOINT"):
        hub.download(ENTRY)
    assert below(tmp_path) == before


def test_a_header_of_an_answer_that_says_no_is_made_no_path_either(server, tmp_path):
    server.status = {f"HEAD /{REPOSITORY}": (404, "EntryNotFound")}
    server.facts = {"X-Repo-Commit": "../../../../made"}
    Answer.head, head = lambda self, status, headers: head(self, status, headers | server.facts), Answer.head
    try:
        with pytest.raises(WeightsError, match="was not believed: the commit"):
            hub.download(ENTRY)
    finally:
        Answer.head = head
    assert not (tmp_path / "made").exists() and below(tmp_path) == {}


@pytest.mark.parametrize("text", [*HOSTILE, "main"])
def test_no_commit_of_a_listing_is_made_a_path(server, tmp_path, text):
    server.sha = text.format(victim=tmp_path / "victim.txt")
    for download in (lambda: hub.download(ENTRY), lambda: hub.download_files(REPOSITORY, list, THEN)):
        with pytest.raises(WeightsError, match="was not believed: the commit"):
            download()
    assert below(tmp_path) == {}


@pytest.mark.parametrize(
    "name", ["/t1.pt", "../t1.pt", "a/../../t1.pt", "a//t1.pt", "..\\t1.pt", "C:\\t1.pt", "t1\x1b[2J.pt"]
)
def test_no_name_of_a_listing_leads_out_of_the_cache(server, tmp_path, name):
    server.files = {name: BODY}
    for download in (lambda: hub.download(ENTRY), lambda: hub.download_files(REPOSITORY, list, THEN)):
        with pytest.raises(WeightsError, match="was not believed: the name of a file"):
            download()
    assert below(tmp_path) == {}


def test_what_lay_in_the_cache_under_another_name_is_not_deleted(server, tmp_path):
    """A server that calls the content of another file of this repository the one that it announces."""
    server.files = {FILE: BODY, "vocab.txt": b"v" * 2000}
    hub.download_files(REPOSITORY, lambda _: ["vocab.txt"], THEN)
    (vocabulary,) = kept(tmp_path / "hf" / "hub" / "models--authors--published" / "blobs")
    server.facts = {"ETag": vocabulary.name}
    with pytest.raises(WeightsError, match="is not what the hub announced"):
        hub.download(ENTRY)
    assert vocabulary.read_bytes() == b"v" * 2000


def test_a_link_in_the_cache_that_leads_out_of_it_is_neither_used_nor_deleted(server, tmp_path):
    found = hub.download(ENTRY)
    (tmp_path / "mine.pt").write_bytes(b"mine")
    found.path.unlink()
    found.path.symlink_to(tmp_path / "mine.pt")
    with pytest.raises(WeightsError, match=r"outside the cache .*Nothing was deleted"):
        hub.download(ENTRY)
    assert (tmp_path / "mine.pt").read_bytes() == b"mine" and found.path.is_symlink()


def test_no_answer_is_endless_or_unpacks_into_more(server, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)
    server.endless = True
    with pytest.raises(WeightsError, match=rf"the length of a file is 'more than the {len(BODY)} bytes announced'"):
        hub.download(ENTRY)
    assert all(p.stat().st_size <= len(BODY) + 20_000 for p in below(tmp_path))
    server.endless, server.facts = False, {"Content-Encoding": "gzip"}
    with pytest.raises(WeightsError, match="the content-encoding is 'gzip'"):
        hub.download(ENTRY)

    monkeypatch.setattr("mrsynth.io.hub_answers.LARGEST_ANSWER", 100_000)
    server.page = b" " * 200_000 + b"{}"
    with pytest.raises(WeightsError, match="the length of the answer"):
        hub.download(ENTRY)


# Offline -------------------------------------------------------------------------------------------------------------


def no_socket(*_, **__):
    raise AssertionError("a socket was opened")


def test_offline_opens_no_socket(server, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("socket.socket", no_socket)
    with pytest.raises(WeightsError, match=rf"HF_HUB_OFFLINE is set, and .*holds no file of {REPOSITORY}.*Unset"):
        hub.download(ENTRY)


def test_offline_takes_what_the_cache_has(server, monkeypatch):
    earlier = hub.download(ENTRY)
    monkeypatch.setenv("HF_HUB_OFFLINE", "true")
    monkeypatch.setattr("socket.socket", no_socket)

    assert hub.download(ENTRY) == earlier
    with pytest.raises(WeightsError, match="holds no file of"):
        hub.download(ENTRY.model_copy(update={"pattern": "flair"}))


def test_a_client_that_was_started_offline_says_so(server, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"huggingface_hub was started offline\. Unset HF_HUB_OFFLINE"):
        hub.download(ENTRY)


# Several files -------------------------------------------------------------------------------------------------------

PARTS = {"weights.safetensors": BODY, "vocab.txt": b"a\nb\n", "images/picture.png": b"x" * 2000}
THEN = "give the folder to the next command"


def both(files):
    """weights.safetensors and vocab.txt, which must be there."""
    if lacking := [name for name in ("weights.safetensors", "vocab.txt") if name not in set(files)]:
        raise WeightsError(f"There is no {lacking[0]}.")
    return ["weights.safetensors", "vocab.txt"]


def test_the_files_that_are_wanted_lie_in_one_folder_of_one_commit(server, monkeypatch):
    server.files, steps = dict(PARTS), []
    folder = hub.download_files(REPOSITORY, both, THEN, lambda *step: steps.append(step))

    assert folder.name == server.commit and {p.name for p in folder.iterdir()} == {"weights.safetensors", "vocab.txt"}
    assert (folder / "weights.safetensors").read_bytes() == BODY
    assert steps and all(what == "downloading published, MB" for what, _, _ in steps)

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("socket.socket", no_socket)
    assert hub.download_files(REPOSITORY, both, THEN) == folder
    (folder / "vocab.txt").unlink()
    with pytest.raises(WeightsError, match=r"HF_HUB_OFFLINE is set.*does not hold it whole\. There is no vocab\.txt"):
        hub.download_files(REPOSITORY, both, THEN)
    with pytest.raises(WeightsError, match=r"other cannot be downloaded: HF_HUB_OFFLINE is set.*does not hold it\."):
        hub.download_files("authors/other", both, THEN)


def test_a_repository_without_them_and_bytes_other_than_announced_are_refused(server, tmp_path):
    with pytest.raises(WeightsError, match=r"There is no weights\.safetensors"):
        hub.download_files(REPOSITORY, both, THEN)
    server.files, server.announced = dict(PARTS), {"weights.safetensors": "0" * 64}
    with pytest.raises(WeightsError, match=r"(?s)weights\.safetensors of .* is not what the hub announced.*deleted"):
        hub.download_files(REPOSITORY, both, THEN)
    assert kept(tmp_path / "hf") == []


def test_where_access_is_refused_it_says_what_to_do_with_them(server):
    server.status = {"GET /api": (401, "")}
    with pytest.raises(WeightsError, match=rf"published cannot be downloaded from .*HTTP 401.*and {THEN}\."):
        hub.download_files(REPOSITORY, both, THEN)


# Into the store ------------------------------------------------------------------------------------------------------


def test_the_first_download_is_the_one_expected_ever_after(server, tmp_path, monkeypatch):
    """From the hub into the store; then the authors change the file."""
    card = Card(name="ours", method="cwdm", contrasts=STANDARD, licence="MIT")
    for number in (1.0, 2.0):
        path = tmp_path / f"{number}.safetensors"
        write_checkpoint(path, Checkpoint(card, {}, {}, {"a": torch.full((300,), number)}))
    first, second = ((tmp_path / f"{n}.safetensors").read_bytes() for n in (1.0, 2.0))
    server.files = {"t1.safetensors": first}
    monkeypatch.setattr(weights, "manifest", lambda: [ENTRY])

    stored = fetch("official")
    assert stored.read_bytes() == first and stored == tmp_path / "home" / "weights" / "official.safetensors"
    assert weights.resolve("official").path == stored
    asked = len(server.seen)
    assert fetch("official") == stored and len(server.seen) == asked

    stored.unlink()
    server.files = {"t1.safetensors": second}
    hashes = rf"{sha256(second).hexdigest()}\n.*{sha256(first).hexdigest()}"
    with pytest.raises(WeightsError, match=rf"(?s)not the file fetched before.*{hashes}.*delete the entry 'official'"):
        fetch("official")
    assert not stored.exists()

    (stored.parent / "fetched.yaml").unlink()
    assert fetch("official").read_bytes() == second
