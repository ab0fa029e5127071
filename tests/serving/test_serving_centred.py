"""The search page with centred questions: scores, languages, the slider."""

import numpy as np
import pytest
from test_serving import (
  QUESTIONS,
  _ask,
  _expected,
  _post,
  _request,
  _serve,
  _shown,
  _wait_for_text,
  browser,
  world,
)

from xqg_jax.augmentation.centering import (
  CenterSettings,
)
from xqg_jax.augmentation.language_means import (
  measure_means,
  read_means,
)
from xqg_jax.data.languages import identify_language
from xqg_jax.data.passage_lookup import read_shown_passages
from xqg_jax.data.runs import read_run
from xqg_jax.errors import InputError
from xqg_jax.serving.live_search import LiveSearch
from xqg_jax.serving.products import Products, rank_passages
from xqg_jax.serving.service import SearchService
from xqg_jax.stages.center import center
from xqg_jax.stages.encode import encode
from xqg_jax.stages.index import build_index
from xqg_jax.stages.search import search
from xqg_jax.stages.search_query import ask

pytestmark = pytest.mark.usefixtures("quick_compiler")
__all__ = ["browser", "world"]  # fixtures


@pytest.fixture(scope="module")
def means(world):
  center(
    world / "encoder",
    {"fi": ["river town", "old hill"], "ru": ["blue lake queen"]},
    output_dir=world / "means",
  )
  return world / "means"


def _open_live(world, means, index="mean_index", **settings):
  return LiveSearch(
    index=world / index,
    checkpoint_path=world / "encoder",
    centering=CenterSettings(means=means, **settings),
  )


@pytest.fixture(scope="module")
def port(world, means):
  shown = read_shown_passages(
    [f"p{i}" for i in range(40)], passages=world / "passages.jsonl"
  )
  with _open_live(world, means, strength=0.5) as live:
    service = SearchService(live, shown)
    with _serve(service.answer_batch, service.describe()) as port:
      yield port


def test_products_of_a_centred_question_by_hand():
  offset = Products(
    np.arange(2), np.float32([1, 2]), np.float32([4, 0]), mean_score=0.5
  )
  found = Products(
    np.arange(2), np.float32([3, 3]), np.float32([1, 5]), 1.0, offset
  )
  centred = found.center(0.5)
  assert centred.passage_scores.tolist() == [2.5, 2]
  assert centred.query_scores.tolist() == [-1, 5]
  assert centred.mean_score == 0.75
  # 0.75 (2.5 - 0.75) + 0.25 (-1), and 0.75 (2 - 0.75) + 0.25 * 5
  hits = rank_passages(centred, alpha=0.25, k=2)
  assert [(hit.row, hit.score) for hit in hits] == [(1, 2.1875), (0, 1.0625)]
  assert found.center(0.0) is found


@pytest.mark.parametrize("strength", [0.5, 1.5])
@pytest.mark.parametrize(
  ("index", "side"),
  [("mean_index", "augmented"), ("plain_index", "baseline")],
)
def test_the_api_gives_what_the_stage_search_finds(
  world, means, port, tmp_path, strength, index, side
):
  found = search(
    index=world / index,
    questions=world / "questions.jsonl",
    checkpoint_path=world / "encoder",
    output_dir=tmp_path / "found",
    centering=CenterSettings(strength=strength, means=means),
  )
  run = read_run(found / "run.trec")
  for number, question in enumerate(QUESTIONS):
    body = {"question": question, "k": 40, "language": "fi", "center": strength}
    status, answer = _post(port, body)
    assert (status, answer["center"], answer["language"]) == (
      200,
      strength,
      "fi",
    )
    scores = {hit["passage_id"]: hit["score"] for hit in answer[side]}
    assert scores == pytest.approx(run[str(number)], abs=1e-5)


def test_the_servers_own_strength_is_the_default(port):
  body = {"question": QUESTIONS[0], "language": "fi"}
  own, asked = _post(port, body)[1], _post(port, body | {"center": 0.5})[1]
  assert own["center"] == 0.5
  assert own["baseline"] == asked["baseline"]
  plain = _post(port, body | {"center": 0.0})[1]
  assert plain["baseline"][0]["score"] != own["baseline"][0]["score"]


def test_languages_are_given_identified_or_all(world, port, means):
  pytest.importorskip("py3langid")
  identified = identify_language(QUESTIONS[0], ["fi", "ru"])
  body = {"question": QUESTIONS[0], "k": 1}
  absent, given, other = (
    _post(port, body | {"center": 1.0} | more)[1]
    for more in ({}, {"language": identified}, {"language": "sw"})
  )
  assert absent["language"] == identified
  assert absent["baseline"] == given["baseline"]
  # A language without a mean loses the mean over all.
  assert other["language"] is None
  overall = world / "overall"
  overall.mkdir()
  mean = read_means(means).overall
  measure_means(mean[None], ["sw"]).write(overall)
  with _open_live(world, overall, index="plain_index") as live:
    (products,) = live.find([QUESTIONS[0]], ["sw"])
  expected = rank_passages(products.center(1.0), alpha=None, k=1)[0].score
  assert other["baseline"][0]["score"] == pytest.approx(expected, abs=1e-6)


def test_by_all_no_language_matters(world, means):
  with _open_live(world, means, strength=1.0, by="all") as live:
    one, two = live.find([QUESTIONS[0]] * 2, ["fi", "ru"])
  assert one.language is two.language is None
  np.testing.assert_array_equal(
    one.center(1.0).passage_scores, two.center(1.0).passage_scores
  )


def test_without_means_nothing_can_be_centred(world):
  encode(
    checkpoint_path=world / "encoder",
    passages=world / "passages.jsonl",
    output_dir=world / "bare",
  )
  build_index(embeddings=world / "bare", output_dir=world / "bare_index")
  with LiveSearch(
    index=world / "bare_index", checkpoint_path=world / "encoder"
  ) as live:
    assert live.centering.means is None
    service = SearchService(live, {})
    assert service.describe()["center"] is None
    assert service.describe()["languages"] == []
    with _serve(service.answer_batch, service.describe()) as port:
      status, answer = _post(port, {"question": "river", "center": 0.8})
  assert status == 422
  assert answer["error"] == "no means to centre questions by are known here"


@pytest.mark.parametrize(
  ("body", "words"),
  [
    ({"center": 2.5}, "center: Input should be less than or equal to 2"),
    ({"center": -1}, "center: Input should be greater than or equal to 0"),
    ({"language": "finnish"}, "language: String should have at most 3"),
    ({"language": "x"}, "language: Value error, unknown language 'x'"),
  ],
)
def test_bad_settings_are_refused_in_one_line(port, body, words):
  status, answer = _post(port, {"question": "river", **body})
  assert status == 422
  assert answer["error"].startswith(words)


def test_means_of_another_encoder_are_refused(world, tmp_path):
  vectors = np.ones((1, 16), np.float32)
  measure_means(vectors, ["fi"], encoder_fingerprint="f" * 64).write(tmp_path)
  with pytest.raises(InputError, match="means are of another encoder"):
    _open_live(world, tmp_path)


def test_scann_proposes_for_the_centred_question_too(world, means):
  if not (world / "scann_index").exists():
    build_index(
      embeddings=world / "store",
      output_dir=world / "scann_index",
      kind="scann",
      k=5,
    )
  exact = _open_live(world, means, index="plain_index", strength=1.0)
  scann = _open_live(world, means, index="scann_index", strength=1.0)
  with exact, scann:
    found = [
      rank_passages(live.find([q], ["fi"])[0].center(1.0), alpha=None, k=3)
      for q in QUESTIONS
      for live in (exact, scann)
    ]
  for one, other in zip(found[::2], found[1::2], strict=True):
    assert [hit.row for hit in one] == [hit.row for hit in other]


def test_search_query_prints_the_centred_scores(world, means, port, capsys):
  ask(
    query=QUESTIONS[0],
    index=world / "plain_index",
    checkpoint_path=world / "encoder",
    passages=world / "passages.jsonl",
    k=1,
    language="ru",
    centering=CenterSettings(strength=1.0, means=means),
  )
  printed = capsys.readouterr()
  body = {"question": QUESTIONS[0], "k": 1, "center": 1.0, "language": "ru"}
  (hit,) = _post(port, body)[1]["baseline"]
  assert f"{hit['score']:.4f}" in printed.out
  assert "centred by the mean of ru" in printed.err


def test_the_openapi_schema_knows_the_settings(port):
  schema = _request(port, "GET", "/openapi.json")[2].decode()
  assert '"center"' in schema
  assert '"language"' in schema


@pytest.mark.slow
def test_the_pages_switch_and_slider(browser, port):
  page = browser.new_page(viewport={"width": 1200, "height": 900})
  page.goto(f"http://127.0.0.1:{port}/")
  _wait_for_text(page, "#strength", "0.5")
  assert page.is_checked("#centers")
  _ask(page, QUESTIONS[0])

  def expect(strength):
    body = {"question": QUESTIONS[0], "center": strength}
    answer = _post(port, body)[1]
    score = f"{answer['baseline'][0]['score']:.4f}"
    _wait_for_text(page, "#baseline .score", score)
    assert _shown(page, "baseline") == _expected(answer, "baseline")
    assert _shown(page, "augmented") == _expected(answer, "augmented")

  expect(0.5)
  assert "less the mean question of" in page.text_content("#centred")
  page.uncheck("#centers")
  expect(0.0)
  assert page.text_content("#strength") == "0"
  page.eval_on_selector(
    "#center",
    "node => { node.value = 1.5; node.dispatchEvent(new Event('input')) }",
  )
  expect(1.5)
  assert page.is_checked("#centers")
  page.close()
