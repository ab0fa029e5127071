"use strict";
// The search page: asks the API and shows both variants. Texts from passages,
// questions and generated queries only ever become text nodes.

const HITS = 10;
const byId = (id) => document.getElementById(id);
const names = new Intl.DisplayNames(["en"], { type: "language" });
const nodes = { baseline: new Map(), augmented: new Map() };

let info = null; // what /api/info told
let asked = ""; // the question on the page
let isBusy = false; // one request is under way,
let isWaiting = false; // and things have changed since

// ---------------------------------------------------------------- the slider

// Useful weights of a sum lie near 0: the slider's middle is 1/8.
const toAlpha = (place) => Number(((place / 1000) ** 3).toPrecision(2));
const toPlace = (alpha) => Math.round(1000 * Math.cbrt(alpha));

let alpha = 0;

function setAlpha(value) {
  alpha = value;
  byId("weight").textContent = String(value);
}

// ---------------------------------------------------------------- centring

// Where the switch goes on if the server centres nothing by itself.
const USUAL_STRENGTH = 0.8;

// null without means: nothing is asked for then.
const strength = () =>
  info.center === null
    ? null
    : byId("centers").checked ? Number(byId("center").value) : 0;

function showStrength() {
  byId("strength").textContent = String(strength());
}

function showCentred(answer) {
  if (info.center === null) return;
  const whose = answer.language ? nameLanguage(answer.language) : "all languages";
  byId("centred").textContent = answer.center
    ? `less the mean question of ${whose}`
    : "questions as they are";
}

function startCentring() {
  byId("center").value = info.center || USUAL_STRENGTH;
  byId("centers").checked = info.center > 0;
  byId("centering").hidden = false;
  showStrength();
}

// --------------------------------------------------------------- what is found

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function makeText(tag, className, text) {
  const node = make(tag, className, text);
  node.dir = "auto";
  return node;
}

function nameLanguage(code) {
  try {
    return names.of(code);
  } catch {
    return code;
  }
}

function makeQueries(queries) {
  const details = make("details");
  const count = Object.values(queries).reduce((sum, q) => sum + q.length, 0);
  const noun = count === 1 ? "generated query" : "generated queries";
  details.append(make("summary", "", `${count} ${noun}`));
  for (const [code, texts] of Object.entries(queries)) {
    const list = make("ul");
    for (const text of texts) {
      const item = makeText("li", "", text);
      item.lang = code;
      list.append(item);
    }
    details.append(make("h3", "", nameLanguage(code)), list);
  }
  return count ? details : null;
}

function makeHit(id, passage) {
  const node = make("li", "hit");
  const head = make("div", "head");
  head.append(
    make("span", "place"),
    makeText("span", "title", passage.title || id),
    make("span", "move"),
    make("span", "score"),
  );
  node.append(head, makeText("p", "text", passage.text));
  const queries = makeQueries(passage.queries);
  if (queries) node.append(queries);
  return node;
}

function describeScore(hit) {
  const parts = [`question · passage ${hit.passage_score.toFixed(4)}`];
  if (hit.query_score !== null) {
    parts.push(`question · queries ${hit.query_score.toFixed(4)}`);
  }
  return parts.join("\n");
}

function describeMove(place, before) {
  if (before === undefined) return ["new", "up"];
  if (place === before) return ["", ""];
  const arrow = place < before ? "▲" : "▼";
  return [arrow + Math.abs(place - before), place < before ? "up" : "down"];
}

// Nodes are kept while alpha moves, so that what is open stays open.
function showSide(side, hits, passages, places) {
  const kept = nodes[side];
  const shown = hits.map((hit, at) => {
    const id = hit.passage_id;
    if (!kept.has(id)) kept.set(id, makeHit(id, passages[id]));
    const node = kept.get(id);
    node.querySelector(".place").textContent = at + 1;
    const score = node.querySelector(".score");
    score.textContent = hit.score.toFixed(4);
    score.title = describeScore(hit);
    const move = node.querySelector(".move");
    const [text, way] = places ? describeMove(at, places.get(id)) : ["", ""];
    move.textContent = text;
    move.className = `move ${way}`;
    return node;
  });
  byId(side).replaceChildren(...shown);
}

function show(answer, seconds) {
  if (answer.question !== asked) {
    asked = answer.question;
    nodes.baseline.clear();
    nodes.augmented.clear();
  }
  const places = new Map(answer.baseline.map((h, at) => [h.passage_id, at]));
  showSide("baseline", answer.baseline, answer.passages);
  if (answer.augmented) {
    showSide("augmented", answer.augmented, answer.passages, places);
  }
  showCentred(answer);
  byId("sides").hidden = false;
  byId("switch").hidden = !answer.augmented;
  tell(
    `${(1000 * seconds).toFixed(0)} ms here, ` +
      `${answer.milliseconds.toFixed(1)} ms on the server` +
      (answer.is_known ? ", known question" : ""),
  );
}

function tell(text, isBad = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("bad", isBad);
}

// ------------------------------------------------------------------ the API

async function request(question) {
  const body = { question, k: HITS };
  if (info.alpha !== null) body.alpha = alpha;
  if (info.center !== null) body.center = strength();
  const response = await fetch("/api/search", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

// Never more than one request at a time; the last wish is always met.
async function search() {
  const question = byId("question").value.trim();
  if (!question || !info) return;
  if (isBusy) {
    isWaiting = true;
    return;
  }
  isBusy = true;
  const started = performance.now();
  try {
    show(await request(question), (performance.now() - started) / 1000);
  } catch (error) {
    tell(error.message, true);
  }
  isBusy = false;
  if (isWaiting) {
    isWaiting = false;
    search();
  }
}

async function start() {
  const response = await fetch("/api/info");
  info = await response.json();
  if (!response.ok) throw new Error(info.error);
  const count = info.num_passages.toLocaleString("en");
  const how = info.is_exact ? "searched exactly" : "candidates from ScaNN";
  byId("about").textContent = `${count} passages, ${how}.`;
  if (info.alpha === null) {
    byId("sides").classList.add("alone");
    document.querySelector("section[data-side=augmented]").hidden = true;
  } else {
    byId("meaning").textContent =
      `weight of the ${info.reduction} of the generated queries`;
    byId("alpha").value = toPlace(info.alpha);
    setAlpha(info.alpha);
    byId("tuning").hidden = false;
  }
  if (info.center !== null) startCentring();
  tell("Ready.");
  search();
}

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  search();
});
byId("alpha").addEventListener("input", (event) => {
  setAlpha(toAlpha(event.target.value));
  search();
});
byId("reset").addEventListener("click", () => {
  byId("alpha").value = toPlace(info.alpha);
  setAlpha(info.alpha);
  search();
});
byId("center").addEventListener("input", () => {
  byId("centers").checked = true;
  showStrength();
  search();
});
byId("centers").addEventListener("change", () => {
  showStrength();
  search();
});
byId("switch").addEventListener("click", (event) => {
  const side = event.target.dataset.side;
  if (!side) return;
  byId("sides").dataset.shown = side;
  for (const button of byId("switch").children) {
    button.setAttribute("aria-pressed", String(button.dataset.side === side));
  }
});
start().catch((error) => tell(error.message, true));
