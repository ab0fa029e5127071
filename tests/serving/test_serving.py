"""The search page: its values, its limits, and the page in a real browser."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time

import numpy as np
import pytest

from tests.helpers.tiny_dual_encoder import make_texts, write_checkpoint
from xqg_jax.augmentation.views import open_view
from xqg_jax.data.passage_lookup import read_shown_passages
from xqg_jax.data.runs import read_run
from xqg_jax.errors import InputError, NativeError
from xqg_jax.serving import app as serving_app
from xqg_jax.serving.live_search import LiveSearch
from xqg_jax.serving.products import rank_passages
from xqg_jax.serving.request_limits import Limits
from xqg_jax.serving.service import SearchRequest, SearchService
from xqg_jax.serving.worker import Busy, QuestionWorker
from xqg_jax.stages import serve
from xqg_jax.stages.augment import augment
from xqg_jax.stages.encode import encode
from xqg_jax.stages.index import build_index
from xqg_jax.stages.search import search
from xqg_jax.store.store import open_store

pytestmark = pytest.mark.usefixtures("quick_compiler")

MARKUP = '<img src=x onerror="document.title=1"></script><script>alert(1)'
NUM_PASSAGES = 40
QUESTIONS = ["river town king", "blue lake", "new queen of the old hill"]


def _write_lines(path, rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return path


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """A store, a view of it with both reductions, and an index of each."""
  root = tmp_path_factory.mktemp("world")
  texts = make_texts(NUM_PASSAGES, longest=12)
  rows = [
    {"docid": f"p{i}", "text": text, "title": f"Town {i}"}
    for i, text in enumerate(texts)
  ]
  rows[7]["title"], rows[7]["text"] = f"T {MARKUP}", f"{MARKUP} {texts[7]}"
  _write_lines(root / "passages.jsonl", rows)
  queries = make_texts(3 * NUM_PASSAGES, longest=5, seed=1)
  # Every fourth passage has no queries.
  rows = [
    {
      "docid": f"p{i}",
      "generated_queries": {
        "fi": queries[3 * i : 3 * i + 1 + i % 2],
        "ru": [f"{MARKUP} {queries[3 * i + 2]}"],
      },
    }
    for i in range(NUM_PASSAGES)
    if i % 4
  ]
  _write_lines(root / "queries.jsonl", rows)
  _write_lines(
    root / "questions.jsonl",
    [
      {"id": str(i), "question": q, "lang": "fi"}
      for i, q in enumerate(QUESTIONS)
    ],
  )
  write_checkpoint(root / "encoder")
  encode(
    checkpoint_path=root / "encoder",
    passages=root / "passages.jsonl",
    generated_queries=root / "queries.jsonl",
    output_dir=root / "store",
  )
  build_index(embeddings=root / "store", output_dir=root / "plain_index")
  for name, settings in (
    ("mean", {"reduction": "mean", "alpha": 0.3}),
    ("centred", {"reduction": "sum", "alpha": 0.3, "remove_mean": True}),
  ):
    augment(store=root / "store", output_dir=root / name, **settings)
    build_index(embeddings=root / name, output_dir=root / f"{name}_index")
  return root


def _open_live(world, index="mean_index", **arguments):
  return LiveSearch(
    index=world / index, checkpoint_path=world / "encoder", **arguments
  )


@contextlib.contextmanager
def _serve(answer_batch, description, *, answer_seconds=10.0, **limits):
  """A real server on a free port, in a thread; yields the port."""
  with (
    QuestionWorker(answer_batch, max_batch=8, max_waiting=16) as worker,
    serving_app.open_socket("127.0.0.1", 0) as listener,
  ):
    app = serving_app.make_app(
      worker,
      description,
      limits=Limits(**limits),
      answer_seconds=answer_seconds,
      version="0",
    )
    server = serving_app.make_server(app)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
      yield listener.getsockname()[1]
    finally:
      server.should_exit = True
      thread.join()


@pytest.fixture(scope="module")
def service(world):
  shown = read_shown_passages(
    [f"p{i}" for i in range(NUM_PASSAGES)],
    passages=world / "passages.jsonl",
    generated_queries=world / "queries.jsonl",
  )
  with _open_live(world) as live:
    yield SearchService(live, shown)


@pytest.fixture(scope="module")
def port(service):
  with _serve(service.answer_batch, service.describe()) as port:
    yield port


def _request(port, method, path, body=None, **headers):
  connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
  with contextlib.closing(connection):
    connection.request(method, path, body=body, headers=headers)
    response = connection.getresponse()
    return response.status, response.headers, response.read()


def _post(port, value, **headers):
  body = value if isinstance(value, bytes) else json.dumps(value).encode()
  headers = {"content-type": "application/json", **headers}
  status, _, answer = _request(port, "POST", "/api/search", body, **headers)
  return status, json.loads(answer)


@pytest.mark.parametrize("path", ["/", "/api/info", "/api/search", "/nowhere"])
def test_head_is_answered_without_a_body(port, path):
  request = f"HEAD {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"
  with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
    connection.sendall(request.encode())
    head = connection.recv(65536).decode()
    connection.sendall(request.encode())  # the connection is still in step
    again = connection.recv(65536).decode()
  status = {"/": 200, "/api/info": 200, "/api/search": 405, "/nowhere": 404}
  for answer in (head, again):
    assert answer.startswith(f"HTTP/1.1 {status[path]} ")
    assert answer.endswith("\r\n\r\n")


# --------------------------------------------------------------------- values


def _search_run(world, index, folder, k):
  found = search(
    index=world / index,
    questions=world / "questions.jsonl",
    checkpoint_path=world / "encoder",
    output_dir=folder,
    k=k,
  )
  embeddings = np.load(found / "question_embeddings.npy", allow_pickle=False)
  return read_run(found / "run.trec"), embeddings


def test_the_api_gives_what_the_stage_search_finds(world, port, tmp_path):
  baseline, _ = _search_run(world, "plain_index", tmp_path / "base", 10)
  augmented, _ = _search_run(world, "mean_index", tmp_path / "mean", 10)
  for at, question in enumerate(QUESTIONS):
    status, answer = _post(port, {"question": question, "k": 10})
    assert status == 200
    assert answer["alpha"] == 0.3
    for name, run in (("baseline", baseline), ("augmented", augmented)):
      expected = run[str(at)]
      assert [hit["passage_id"] for hit in answer[name]] == list(expected)
      np.testing.assert_allclose(
        [hit["score"] for hit in answer[name]],
        list(expected.values()),
        atol=2e-6,
      )


@pytest.mark.parametrize("name", ["mean", "centred"])
@pytest.mark.parametrize("alpha", [0.0, 0.05, 0.6, 1.0])
def test_any_alpha_gives_the_scores_of_its_view(
  world, name, alpha, tmp_path, live_searches
):
  live = live_searches[name]
  settings = live.augmentation.to_json() | {"alpha": alpha}
  augment(store=world / "store", output_dir=tmp_path / "view", **settings)
  view = open_view(tmp_path / "view")
  ((_, vectors),) = view.blocks(NUM_PASSAGES)
  answers = SearchService(live, live_searches["shown"]).answer_batch(
    [SearchRequest(question, alpha, NUM_PASSAGES) for question in QUESTIONS]
  )
  embeddings = live._encoder.encode(QUESTIONS)
  for embedding, answer in zip(embeddings, answers, strict=True):
    expected = vectors @ embedding
    found = {h["passage_id"]: h["score"] for h in answer["augmented"]}
    np.testing.assert_allclose(
      [found[f"p{i}"] for i in range(NUM_PASSAGES)], expected, atol=2e-6
    )
    scores = list(found.values())
    assert scores == sorted(scores, reverse=True)
    for hit in answer["augmented"]:
      alone = hit["passage_score"] - answer["mean_score"]
      again = (1 - alpha) * alone + alpha * hit["query_score"]
      assert hit["score"] == pytest.approx(again, abs=2e-6)


@pytest.fixture(scope="module")
def live_searches(world, service):
  with _open_live(world, "centred_index") as centred:
    yield {
      "mean": service._live,
      "centred": centred,
      "shown": service._shown,
    }


def test_a_question_asked_again_is_not_encoded(port):
  question = "a question of its own"
  assert not _post(port, {"question": question})[1]["is_known"]
  first = _post(port, {"question": question, "alpha": 0.9})[1]
  assert first["is_known"]
  assert first["alpha"] == 0.9


def test_many_questions_at_once_are_answered_as_one_by_one(port, service):
  questions = make_texts(16, longest=9, seed=5)
  answers = [None] * len(questions)

  def ask(at):
    answers[at] = _post(port, {"question": questions[at], "alpha": 0.1, "k": 5})

  threads = [
    threading.Thread(target=ask, args=(at,)) for at in range(len(questions))
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  for question, (status, answer) in zip(questions, answers, strict=True):
    assert status == 200
    (products,) = service._live.find([question])
    for hit, expected in zip(
      answer["augmented"],
      rank_passages(products, alpha=0.1, k=5),
      strict=True,
    ):
      assert hit["passage_id"] == f"p{expected.row}"
      assert hit["score"] == pytest.approx(expected.score, abs=2e-6)


def test_a_store_without_queries_has_a_baseline_only(world, tmp_path):
  shutil.copytree(world / "store", tmp_path / "store")
  manifest = json.loads((tmp_path / "store" / "manifest.json").read_text())
  manifest["groups"] = []
  (tmp_path / "store" / "manifest.json").write_text(json.dumps(manifest))
  build_index(embeddings=tmp_path / "store", output_dir=tmp_path / "index")
  shown = read_shown_passages(["p1"], passages=world / "passages.jsonl")
  with LiveSearch(
    index=tmp_path / "index", checkpoint_path=world / "encoder"
  ) as live:
    alone = SearchService(live, dict.fromkeys(live.passage_ids, shown["p1"]))
    (answer,) = alone.answer_batch([SearchRequest("x", 0.5, 1)])
  assert alone.describe()["alpha"] is None
  assert answer["alpha"] is answer["augmented"] is None
  assert answer["baseline"][0]["query_score"] is None


def test_scann_proposes_and_both_products_decide(world, tmp_path):
  passages = [
    {"docid": f"p{i}", "text": text, "title": ""}
    for i, text in enumerate(make_texts(400, longest=30, seed=9))
  ]
  queries = [
    {"docid": f"p{i}", "generated_queries": {"fi": [text]}}
    for i, text in enumerate(make_texts(400, longest=6, seed=10))
  ]
  encode(
    checkpoint_path=world / "encoder",
    passages=_write_lines(tmp_path / "passages.jsonl", passages),
    generated_queries=_write_lines(tmp_path / "queries.jsonl", queries),
    output_dir=tmp_path / "store",
  )
  augment(store=tmp_path / "store", output_dir=tmp_path / "view", alpha=0.5)
  for name in ("store", "view"):
    build_index(
      embeddings=tmp_path / name,
      output_dir=tmp_path / f"{name}_index",
      num_leaves=4,
      num_tuning_queries=32,
    )
  build_index(
    embeddings=tmp_path / "view", output_dir=tmp_path / "exact", kind="exact"
  )
  both = [_open_live_of(tmp_path, world, "view_index", "store_index")]
  both.append(_open_live_of(tmp_path, world, "exact", None))
  with both[0] as proposed, both[1] as exact:
    assert (proposed.is_exact, exact.is_exact) == (False, True)
    for question in QUESTIONS:
      (some,), (every,) = proposed.find([question]), exact.find([question])
      assert 200 <= len(some.rows) < 400 == len(every.rows)
      for alpha in (None, 0.5):
        rows = [
          {hit.row for hit in rank_passages(products, alpha=alpha, k=10)}
          for products in (some, every)
        ]
        assert len(rows[0] & rows[1]) >= 9
      np.testing.assert_allclose(
        some.query_scores, every.query_scores[some.rows], atol=1e-6
      )


def _open_live_of(folder, world, index, baseline):
  return LiveSearch(
    index=folder / index,
    checkpoint_path=world / "encoder",
    baseline_index=None if baseline is None else folder / baseline,
  )


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
  ("value", "status", "words"),
  [
    ({"question": ""}, 422, "question: String should have at least 1"),
    ({"question": "  \n"}, 422, "the question is empty"),
    ({"question": "x" * 2001}, 422, "at most 2000 characters"),
    ({"question": 7}, 422, "question: Input should be a valid string"),
    ({"question": "\ud800"}, 422, "question: "),
    ({}, 422, "question: Field required"),
    ({"question": "x", "alpha": 1.01}, 422, "alpha: Input should be less"),
    ({"question": "x", "alpha": -0.1}, 422, "alpha: Input should be greater"),
    (b'{"question": "x", "alpha": NaN}', 422, "alpha: "),
    ({"question": "x", "alpha": "0.1"}, 422, "alpha: Input should be a valid"),
    ({"question": "x", "k": 0}, 422, "k: Input should be greater"),
    ({"question": "x", "k": 101}, 422, "k: Input should be less"),
    ({"question": "x", "where": "y"}, 422, "where: Extra inputs"),
    (b"[" * 8000, 422, ""),
    (b"\xff\xfe", 422, ""),
    ({"question": "x" * 1_000_000}, 413, "larger than 16,384 bytes"),
    (b"x" * 1_000_000, 413, "larger than 16,384 bytes"),
  ],
  ids=range(17),
)
def test_bad_questions_are_refused_in_one_line(port, value, status, words):
  found, answer = _post(port, value)
  assert found in (status, 400)
  assert words in answer["error"]
  assert set(answer) == {"error"}
  assert "\n" not in answer["error"]
  assert _post(port, {"question": "still there?"})[0] == 200


def test_k_above_the_number_of_passages_gives_all_of_them(port):
  status, answer = _post(port, {"question": "lake", "k": 100})
  assert status == 200
  for side in ("baseline", "augmented"):
    ids = {hit["passage_id"] for hit in answer[side]}
    assert ids == {f"p{i}" for i in range(NUM_PASSAGES)}


def test_markup_stays_text(port):
  status, answer = _post(port, {"question": MARKUP, "k": 100})
  assert status == 200
  assert answer["question"] == MARKUP
  assert answer["passages"]["p7"]["title"] == f"T {MARKUP}"
  status, headers, _ = _request(port, "GET", f"/{MARKUP.replace(' ', '%20')}")
  assert (status, headers["content-type"]) == (404, "application/json")


@pytest.mark.parametrize(
  "path",
  [
    "/nothing",
    "/api",
    "/api/search/x",
    "/docs",
    "/redoc",
    "/../serving.py",
    "/../../etc/passwd",
    "/..%2f..%2fetc%2fpasswd",
    "/page.js/../serving.py",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/page.css%00.py",
    "//etc/passwd",
  ],
)
def test_no_path_leads_elsewhere(port, path):
  status, headers, body = _request(port, "GET", path)
  assert status == 404
  assert json.loads(body) == {"error": "not found"}
  assert headers["content-security-policy"]


def test_only_the_methods_and_types_of_the_api_are_taken(port):
  assert _request(port, "GET", "/api/search")[0] == 405
  body = b'{"question": "x"}'
  for kind in ("text/plain", "application/x-www-form-urlencoded"):
    status, _, _ = _request(
      port, "POST", "/api/search", body, **{"content-type": kind}
    )
    assert status == 422  # so no page elsewhere can ask without being let to


def test_every_answer_carries_security_headers(port):
  for method, path in (("GET", "/"), ("GET", "/x"), ("POST", "/api/search")):
    _, headers, _ = _request(port, method, path)
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert "server" not in headers


def test_another_host_name_is_refused(port):
  for host in ("evil.example", "evil.localhost", "[::2]", "", "localhost:x"):
    status, headers, _ = _request(port, "GET", "/", host=host)
    assert (status, headers["x-frame-options"]) == (400, "DENY")
  for host in ("localhost", "LOCALHOST", "127.0.0.1", "[::1]"):
    assert _request(port, "GET", "/", host=f"{host}:{port}")[0] == 200
    assert _request(port, "GET", "/", host=host)[0] == 200


def test_the_openapi_schema_describes_both_sides(port):
  schema = json.loads(_request(port, "GET", "/openapi.json")[2])
  assert set(schema["paths"]) == {"/api/info", "/api/search"}
  fields = schema["components"]["schemas"]["Question"]["properties"]
  assert fields["k"]["maximum"] == 100
  assert set(schema["components"]["schemas"]["Answer"]["properties"]) == set(
    _post(port, {"question": "x"})[1]
  )


def test_the_page_has_no_inline_script_or_style(port):
  page = _request(port, "GET", "/")[2].decode()
  assert "<style" not in page
  assert "style=" not in page
  assert page.count("<script") == page.count('<script src="/page.js"') == 1
  assert " on" not in page.split("<body>")[0]
  assert "://" not in page


# ----------------------------------------------------------------- time, load


def test_slow_answers_and_full_queues_end_in_errors(service):
  is_free = threading.Event()

  def wait(requests):
    is_free.wait(20)
    return [{"answer": request.k} for request in requests]

  with _serve(wait, service.describe(), answer_seconds=0.2) as port:
    assert _post(port, {"question": "x"}) == (
      504,
      {"error": "the answer took too long"},
    )
    is_free.set()
    assert _post(port, {"question": "x", "k": 3}) == (200, {"answer": 3})


def test_a_full_queue_turns_questions_away():
  is_free = threading.Event()
  with QuestionWorker(
    lambda r: is_free.wait(20) and r, max_batch=2, max_waiting=2
  ) as worker:
    futures = [worker.submit(0)]
    while worker._waiting.qsize():  # taken by the thread
      time.sleep(0.001)
    futures += [worker.submit(1), worker.submit(2)]
    with pytest.raises(Busy):
      worker.submit(3)
    futures[1].cancel()
    is_free.set()
    assert [futures[0].result(), futures[2].result()] == [0, 2]


def test_one_failing_question_does_not_take_others_with_it(service):
  is_free = threading.Event()

  def fail(requests):
    is_free.wait(20)
    if any(request.question == "bad" for request in requests):
      raise NativeError("ScaNN is gone")
    return [{"n": request.k} for request in requests]

  with QuestionWorker(fail, max_batch=8, max_waiting=8) as worker:
    names = ("first", "good", "bad", "good")
    futures = [worker.submit(SearchRequest(n, None, 1)) for n in names]
    is_free.set()
    assert futures[1].result() == futures[3].result() == {"n": 1}
    with pytest.raises(NativeError):
      futures[2].result()
  with _serve(fail, service.describe()) as port:
    status, answer = _post(port, {"question": "bad"})
    assert (status, answer) == (503, {"error": "ScaNN is gone"})


def test_a_body_that_never_ends_times_out(service):
  limits = {"body_seconds": 0.2}
  with _serve(service.answer_batch, service.describe(), **limits) as port:
    status, _, body = _request(
      port,
      "POST",
      "/api/search",
      b"{",
      **{"content-length": "50", "content-type": "application/json"},
    )
    assert status == 408
    assert b"too long to arrive" in body


# -------------------------------------------------------------------- opening


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"checkpoint_path": "other"}, "vectors of another encoder"),
    ({"index": "absent"}, "no finished index here"),
    ({"baseline_index": "mean_index"}, "not of the same store"),
    ({"passages": "few.jsonl"}, "39 passages of the index are not in it"),
    ({"passages": "absent.jsonl"}, "no such file"),
    ({"port": 70000}, "cannot listen on 127.0.0.1:70000"),
    ({"answer_seconds": 0.0}, "answer_seconds is 0"),
    ({"answer_seconds": float("nan")}, "answer_seconds is nan"),
  ],
  ids=lambda value: next(iter(value), "") if isinstance(value, dict) else "",
)
def test_what_does_not_belong_together_is_refused(world, change, words):
  if not (world / "other").exists():
    shutil.copytree(world / "encoder", world / "other")
    config = json.loads((world / "encoder" / "dual_encoder.json").read_text())
    config["query_prefix"] = "another: "
    (world / "other" / "dual_encoder.json").write_text(json.dumps(config))
    (world / "few.jsonl").write_text(
      '{"docid": "p3", "title": "", "text": "x"}\n'
    )
  paths = {
    "index": "mean_index",
    "checkpoint_path": "encoder",
    "passages": "passages.jsonl",
  }
  arguments = {
    name: world / value if isinstance(value, str) else value
    for name, value in {**paths, **change}.items()
  }
  with pytest.raises(InputError, match=words):
    serve.serve(**{"port": 0, **arguments})


def _copy(world, tmp_path):
  names = ("store", "mean", "mean_index")
  for name in names:
    shutil.copytree(world / name, tmp_path / name)
  return tmp_path


def test_an_index_of_another_store_is_refused(world, tmp_path):
  root = _copy(world, tmp_path)
  shutil.rmtree(root / "mean")
  settings = {"reduction": "mean", "alpha": 0.31}
  augment(store=root / "store", output_dir=root / "mean", **settings)
  with pytest.raises(InputError, match="not those that were indexed"):
    LiveSearch(index=root / "mean_index", checkpoint_path=world / "encoder")


def test_a_flipped_byte_and_a_missing_asset_are_found(world, tmp_path):
  root = _copy(world, tmp_path)
  checkpoint = world / "encoder"
  arrays = (root / "store").glob("shard-*/query_sums/c/**/*")
  array = next(path for path in sorted(arrays) if path.is_file())
  content = array.read_bytes()
  array.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
  with pytest.raises(InputError, match="query_sums"):
    LiveSearch(index=root / "mean_index", checkpoint_path=checkpoint)
  array.write_bytes(content)
  (root / "mean_index" / "passage_ids.txt").unlink()
  with pytest.raises(InputError, match="is missing"):
    LiveSearch(index=root / "mean_index", checkpoint_path=checkpoint)


def test_an_empty_index_is_refused(world, tmp_path):
  root = _copy(world, tmp_path)
  manifest = json.loads((root / "store" / "manifest.json").read_text())
  manifest |= {"num_passages": 0, "shards": []}
  (root / "store" / "manifest.json").write_text(json.dumps(manifest))
  view = json.loads((root / "mean" / "view.json").read_text())
  view["store_fingerprint"] = open_store(root / "store").fingerprint
  (root / "mean" / "view.json").write_text(json.dumps(view))
  index = json.loads((root / "mean_index" / "manifest.json").read_text())
  index["embeddings_fingerprint"] = open_view(root / "mean").fingerprint
  (root / "mean_index" / "manifest.json").write_text(json.dumps(index))
  with pytest.raises(InputError, match="the index is empty"):
    LiveSearch(index=root / "mean_index", checkpoint_path=world / "encoder")


def test_a_missing_page_file_is_told_at_the_start(service, monkeypatch):
  monkeypatch.setitem(
    serving_app._PAGE_FILES, "/", ("absent.html", "text/html")
  )
  with QuestionWorker(list, max_batch=1, max_waiting=1) as worker:
    with pytest.raises(InputError, match="file of the search page is missing"):
      serving_app.make_app(
        worker,
        service.describe(),
        limits=Limits(),
        answer_seconds=1.0,
        version="0",
      )


def test_without_the_extra_one_line_says_how_to_get_it(monkeypatch):
  monkeypatch.setitem(sys.modules, "fastapi", None)
  monkeypatch.delitem(sys.modules, "xqg_jax.serving.app")
  monkeypatch.delattr("xqg_jax.serving.app")
  with pytest.raises(InputError, match=r"pip install 'xqg_jax\[serve\]'"):
    serve.serve(index="x", checkpoint_path="x", passages="x")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_stage_stops_gracefully(world, number, monkeypatch):
  """In this process: the signal comes while a question is being answered."""
  statuses = []
  real = serving_app.make_server

  def make_server(app):
    server = real(app)

    def ask():
      while not server.started:
        time.sleep(0.01)
      (listener,) = server.servers[0].sockets
      port = listener.getsockname()[1]
      threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
      statuses.append(_post(port, {"question": "slow"})[0])

    threading.Thread(target=ask).start()
    return server

  answer = SearchService.answer_batch

  def answer_slowly(self, requests):
    time.sleep(0.4)
    return answer(self, requests)

  monkeypatch.setattr(serving_app, "make_server", make_server)
  monkeypatch.setattr(SearchService, "answer_batch", answer_slowly)
  before = signal.getsignal(number)
  serve.serve(
    index=world / "mean_index",
    checkpoint_path=world / "encoder",
    passages=world / "passages.jsonl",
    port=0,
  )
  assert statuses == [200]
  assert signal.getsignal(number) == before


# ------------------------------------------------------------------ a browser


@pytest.fixture(scope="module")
def browser():
  api = pytest.importorskip("playwright.sync_api")
  names = ("chromium", "chromium-browser", "google-chrome", "chrome")
  path = next(filter(None, map(shutil.which, names)), None)
  if path is None:
    pytest.skip("no Chromium is installed")
  with api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(
      executable_path=path, args=["--no-sandbox"]
    )
    yield browser
    browser.close()


@pytest.fixture
def page(browser, port):
  page = browser.new_page(viewport={"width": 1200, "height": 900})
  page.errors = []
  page.on("pageerror", lambda error: page.errors.append(str(error)))
  page.on("console", lambda m: m.type == "error" and page.errors.append(m.text))
  page.goto(f"http://127.0.0.1:{port}/")
  _wait_for_text(page, "#weight", "0.3")
  yield page
  page.close()


def _wait_for_text(page, selector, text):
  # Not `wait_for_function`, which evaluates text: the page forbids that.
  api = pytest.importorskip("playwright.sync_api")
  api.expect(page.locator(selector).first).to_have_text(text)


def _ask(page, question):
  page.fill("#question", question)
  page.press("#question", "Enter")
  page.wait_for_selector("#sides:not([hidden])")


def _shown(page, side):
  return page.eval_on_selector_all(
    f"#{side} .hit",
    "nodes => nodes.map(n => [n.querySelector('.title').textContent,"
    " n.querySelector('.score').textContent])",
  )


def _expected(answer, side):
  return [
    [answer["passages"][h["passage_id"]]["title"], f"{h['score']:.4f}"]
    for h in answer[side]
  ]


@pytest.mark.slow
def test_the_page_shows_what_the_api_says(page, port):
  _ask(page, QUESTIONS[0])
  answer = _post(port, {"question": QUESTIONS[0]})[1]
  for side in ("baseline", "augmented"):
    assert _shown(page, side) == _expected(answer, side)
  assert "ms on the server" in page.text_content("#status")
  assert "40 passages" in page.text_content("#about")
  before = _shown(page, "baseline")
  page.eval_on_selector(
    "#alpha",
    "node => { node.value = 900; node.dispatchEvent(new Event('input')) }",
  )
  answer = _post(port, {"question": QUESTIONS[0], "alpha": 0.73})[1]
  score = f"{answer['augmented'][0]['score']:.4f}"
  _wait_for_text(page, "#augmented .score", score)
  assert page.text_content("#weight") == "0.73"
  assert _shown(page, "augmented") == _expected(answer, "augmented")
  assert _shown(page, "baseline") == before
  assert page.errors == []


@pytest.mark.slow
def test_the_page_runs_no_markup(page, port):
  question = f"{MARKUP} town"
  _ask(page, question)
  answer = _post(port, {"question": question})[1]
  assert _shown(page, "augmented") == _expected(answer, "augmented")
  page.eval_on_selector_all(
    "details", "nodes => nodes.forEach(n => { n.open = true })"
  )
  texts = page.eval_on_selector_all(
    "details li", "nodes => nodes.map(n => n.textContent)"
  )
  assert any(text.startswith(MARKUP) for text in texts)
  assert page.locator("main img, main script").count() == 0
  assert page.title().startswith("xqg")
  assert page.errors == []


@pytest.mark.slow
def test_the_page_at_a_phones_width_shows_one_variant(page):
  page.set_viewport_size({"width": 390, "height": 844})
  _ask(page, QUESTIONS[1])
  assert page.is_visible("#augmented")
  assert not page.is_visible("#baseline")
  page.click("#switch button[data-side=baseline]")
  assert page.is_visible("#baseline")
  assert not page.is_visible("#augmented")
  width = page.evaluate("document.documentElement.scrollWidth")
  assert width <= 390
