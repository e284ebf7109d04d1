"use strict";
// What is shown is `view`: a picture, and for each map its model, method, layer, class and arguments. The address holds it.
const by = id => document.getElementById(id);
const view = { picture: "", maps: [] };
const seen = new Map(), made = new Map(), cards = new Map(), judged = new Map();
const MOST_KEPT = 200;  // maps
let offer, pictures = [], asking = null, colours = {}, next = 0;

const key = (...parts) => JSON.stringify(parts);
const asked = map => ({ model: map.model, method: map.method, layer: map.layer, target: map.target, arguments: map.arguments });
const keyOf = map => key(view.picture, asked(map));
const lookOf = map => seen.get(key(view.picture, map.model));
const methodOf = map => offer.methods.find(m => m.name === map.method);

function element(kind, content = {}, ...children) {
  const made = Object.assign(document.createElement(kind), content);
  made.append(...children);
  return made;
}

function trouble(text) { by("trouble").textContent = text; }

async function answer(path, content, signal) {
  const body = content === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content) };
  const response = await fetch(path, { ...body, signal });
  if (!response.ok) throw new Error((await response.json()).error);
  return response;
}

// Calls `hear` for each line of JSON of an answer, as it comes; the state of its last line is known.
async function listen(path, content, last, hear, signal) {
  const response = await answer(path, content, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = "", ended = false; ;) {
    const { value, done } = await reader.read();
    if (done && ended) return;
    if (done) throw new Error("The answer was cut off; is the server still there?");
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const event of lines.map(line => JSON.parse(line))) { ended = event.state === last; hear(event); }
  }
}

// --- The address ------------------------------------------------------------------------------------------------------

function remember() {
  const words = new URLSearchParams([["picture", view.picture]]);
  for (const map of view.maps) words.append("map", JSON.stringify(asked(map)));
  history.replaceState(null, "", "#" + words);
}

function recall() {
  const words = new URLSearchParams(location.hash.slice(1));
  const maps = words.getAll("map").slice(0, offer.most).flatMap(text => {
    try {
      const found = JSON.parse(text);
      const known = offer.models.some(m => m.name === found.model) && offer.methods.some(m => m.name === found.method);
      const target = Number.isInteger(found.target) ? found.target : null;
      return known ? [{ model: found.model, method: found.method, layer: String(found.layer ?? ""), target, arguments: { ...found.arguments } }] : [];
    } catch { return []; }
  });
  return { picture: words.get("picture") || "", maps };
}

// --- Pictures ---------------------------------------------------------------------------------------------------------

// The pictures on which the first map's model decides rightly or wrongly, if only these are to be seen; and the chosen one.
function listed() {
  const wanted = by("judged").value, verdicts = view.maps.length && judged.get(view.maps[0].model);
  if (by("filter").hidden || !wanted || !verdicts) return pictures;
  return pictures.filter(p => p.id === view.picture || (p.id in verdicts && verdicts[p.id] === (wanted === "right")));
}

async function judge(signal) {
  const { model } = view.maps[0];
  by("filter").hidden = !offer.models.find(m => m.name === model).scenes;
  if (by("filter").hidden || !by("judged").value) return;
  if (!judged.has(model)) judged.set(model, await (await answer("api/right", { model }, signal)).json());
}

by("judged").addEventListener("change", () => refresh());

function showPictures() {
  const held = by("pictures").contains(document.activeElement);
  by("pictures").replaceChildren(...listed().map(photo => {
    const chosen = photo.id === view.picture;
    const button = element("button", { type: "button", title: photo.name, tabIndex: chosen ? 0 : -1 },
      element("img", { src: `api/pictures/${encodeURIComponent(photo.id)}`, alt: "" }));
    button.setAttribute("role", "radio");
    button.setAttribute("aria-checked", chosen);
    button.setAttribute("aria-label", photo.name);
    button.addEventListener("click", () => choosePicture(photo.id));
    return button;
  }));
  if (held) by("pictures").querySelector("[aria-checked=true]").focus();
}

function choosePicture(id, focus) {
  view.picture = id;
  const photo = pictures.find(p => p.id === id);
  const fits = name => photo.scene === offer.models.find(m => m.name === name).scenes;
  const other = offer.models.find(m => m.scenes === photo.scene);
  for (const map of view.maps)
    if (other && !fits(map.model)) Object.assign(map, { model: other.name, layer: "", target: null });
  showPictures();
  if (focus) by("pictures").querySelector("[aria-checked=true]").focus();
  refresh();
}

by("pictures").addEventListener("keydown", event => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const those = listed(), at = those.findIndex(p => p.id === view.picture);
  choosePicture(those[(at + step + those.length) % those.length].id, true);
});

async function add(files) {
  trouble("");
  let last = null;
  for (const file of files) {
    try {
      if (!file.type.startsWith("image/")) throw new Error(`${file.name} is no picture`);
      if (file.size > offer.largest) throw new Error(`${file.name} is larger than ${Math.round(offer.largest / 2 ** 20)} MiB`);
      const response = await fetch("api/pictures?" + new URLSearchParams({ name: file.name }),
        { method: "POST", headers: { "Content-Type": file.type }, body: file });
      const content = await response.json();
      if (!response.ok) throw new Error(content.error);
      last = content.id;
    } catch (error) { trouble(error.message); }
  }
  if (last === null) return;
  pictures = await (await answer("api/pictures")).json();
  choosePicture(last);
}

by("file").addEventListener("change", event => { add([...event.target.files]); event.target.value = ""; });
for (const kind of ["dragover", "drop", "dragleave"])
  document.addEventListener(kind, event => {
    event.preventDefault();
    document.body.classList.toggle("dragged", kind === "dragover");
    if (kind === "drop") add([...event.dataTransfer.files]);
  });

// --- Choices of one map -----------------------------------------------------------------------------------------------

function labelled(text, field) {
  field.id = `field-${next++}`;
  return element("div", {}, element("label", { htmlFor: field.id, textContent: text }), field);
}

function choice(box, name, groups, current, pick) {
  const select = element("select");
  for (const [group, options] of groups) {
    const into = group ? element("optgroup", { label: group }) : select;
    into.append(...options.map(([value, text]) => element("option", { value, textContent: text })));
    if (group && options.length) select.append(into);
  }
  select.value = current;
  select.addEventListener("change", () => { pick(select.value); refresh(); });
  box.append(labelled(name, select));
}

function layerChoice(box, map, look) {
  const method = methodOf(map), own = look.usual[map.method];
  const same = names => names.map(name => [name, name]);
  if (method.joins) return choice(box, "Layer", [["", [["", "all layers"]]]], "", () => {});
  const first = own.length ? `${own[own.length - 1]} (usual)` : "none of its kind";
  const usual = own.length > look.layers.length || !own.every(n => look.layers.includes(n)) ? own : look.layers;
  const others = look.others.filter(name => !usual.includes(name));
  const input = method.input ? [[offer.input, offer.input]] : [];
  choice(box, "Layer", [["", [["", first], ...input]], ["ends of stages", same(usual)], ["others", same(others)]],
    map.layer, value => { map.layer = value; });
}

function classChoice(box, map, look) {
  const [, best, score] = look.scores[0];
  const named = look.scores.map(([index, name, score]) => [String(index), `${name}: ${score.toFixed(2)}`]);
  choice(box, "Class", [["", [["", `${best}: ${score.toFixed(2)} (highest)`]]], ["by score", named]],
    map.target === null ? "" : String(map.target), value => { map.target = value === "" ? null : Number(value); });
}

function argumentChoices(box, map) {
  for (const [name, values] of Object.entries(methodOf(map).arguments)) {
    const words = name.replaceAll("_", " ");
    const set = value => { map.arguments = { ...map.arguments, [name]: value }; };
    const current = map.arguments[name] ?? (Array.isArray(values) ? values[0] : values);
    if (Array.isArray(values)) { choice(box, words, [["", values.map(v => [v, v])]], current, set); continue; }
    const field = element("input", { type: "number", min: 1, max: 100, value: current });
    field.addEventListener("change", () => { if (field.reportValidity() && field.value) { set(Number(field.value)); refresh(); } });
    box.append(labelled(words, field));
  }
}

function showChoices(map) {
  const { box } = cards.get(map), look = lookOf(map);
  if (!look) return;
  const held = [...box.querySelectorAll("select, input")].indexOf(document.activeElement);
  box.replaceChildren();
  if (offer.models.length > 1)
    choice(box, "Model", [["", offer.models.map(m => [m.name, m.name])]], map.model,
      value => Object.assign(map, { model: value, layer: "", target: null }));
  choice(box, "Method", [["", offer.methods.map(m => [m.name, m.name])]], map.method,
    value => Object.assign(map, { method: value, layer: keptLayer(value, map, look), arguments: {} }));
  layerChoice(box, map, look);
  classChoice(box, map, look);
  argumentChoices(box, map);
  if (held >= 0) (box.querySelectorAll("select, input")[held] || box.querySelector("select")).focus();
}

// A layer that was chosen stays where the other method has a map there, too.
function keptLayer(name, map, look) {
  const method = offer.methods.find(m => m.name === name);
  const kept = !method.joins && (map.layer === offer.input ? method.input : look.layers.includes(map.layer));
  return kept && (method.input || look.usual[name].includes(map.layer)) ? map.layer : "";
}

// --- Cards ------------------------------------------------------------------------------------------------------------

function showCards() {
  for (const [map, card] of cards) if (!view.maps.includes(map)) { card.item.remove(); cards.delete(map); }
  for (const map of view.maps) {
    if (cards.has(map)) continue;
    const item = by("card").content.cloneNode(true).firstElementChild, find = name => item.querySelector(name);
    const card = { item, canvas: find("canvas"), caption: find("figcaption"), box: find(".choices"), trust: find(".trust"), of: "" };
    find(".remove").addEventListener("click", () => {
      view.maps.splice(view.maps.indexOf(map), 1);
      refresh();
      by("more").focus();
    });
    find(".doubt").addEventListener("click", () => doubt(map));
    cards.set(map, card);
    by("cards").append(item);
  }
  view.maps.forEach((map, i) => cards.get(map).item.setAttribute("aria-label", `Map ${i + 1}`));
  by("more").hidden = view.maps.length >= offer.most;
  for (const { item } of cards.values()) item.querySelector(".remove").hidden = view.maps.length < 2;
}

function scaleOf(map, found) {
  if (!by("shared").checked) return found.data.scale;
  const own = view.maps.filter(m => m.method === map.method).map(m => made.get(keyOf(m))).filter(f => f && f.data);
  return Math.max(...own.map(f => f.data.scale));
}

function draw(map) {
  const { item, canvas, caption } = cards.get(map), found = made.get(keyOf(map)), look = lookOf(map);
  item.classList.toggle("waits", !found);
  item.classList.toggle("failed", Boolean(found && found.error));
  if (!found || !look) return;
  const picture = look.image, find = name => item.querySelector(name);
  canvas.classList.add("drawn");
  if (found.error) {
    canvas.width = picture.naturalWidth; canvas.height = picture.naturalHeight;
    canvas.getContext("2d").drawImage(picture, 0, 0);
    caption.textContent = found.error;
    for (const name of [".low", ".middle", ".high"]) find(name).textContent = "";
    find(".bar").style.background = "";
    canvas.setAttribute("aria-label", "the picture, without a map");
    return;
  }
  const scale = scaleOf(map, found), table = found.signed ? colours.signed : colours.positive;
  paint(canvas, found.data, { table, signed: found.signed, scale, opacity: by("opacity").value / 100 }, picture);
  find(".bar").style.background = gradient(table);
  find(".low").textContent = found.signed ? `${(-scale).toPrecision(3)} against` : "0";
  find(".middle").textContent = found.signed ? "0" : "";
  find(".high").textContent = scale.toPrecision(3) + (found.signed ? " for the class" : "");
  const flat = found.data.scale > 0 ? "" : ": zero everywhere";
  const what = `${map.method} at ${found.layer}, for ${found.class} (score ${found.score.toFixed(2)})`;
  caption.textContent = what + flat + (found.data.undefined ? ": undefined somewhere" : "");
  canvas.setAttribute("aria-label", caption.textContent);
}

function drawAll() { view.maps.forEach(draw); }

function progress(done, of, text) {
  const bar = by("progress");
  bar.hidden = done >= of;
  bar.max = of; bar.value = done;
  by("status").textContent = text;
}

async function look(map, signal) {
  const name = key(view.picture, map.model);
  if (seen.has(name)) return;
  const found = await (await answer("api/look", { picture: view.picture, model: map.model }, signal)).json();
  found.image = element("img", { src: found.picture });
  await found.image.decode();
  seen.set(name, found);
}

function verdict() {
  const photo = pictures.find(p => p.id === view.picture), map = view.maps[0], found = map && lookOf(map);
  if (!found) return;
  const labels = found.labels.length ? ` In it: ${found.labels.join(", ")}. Highest score: ${found.scores[0][1]}, ${found.right ? "which is right" : "which is wrong"}.` : "";
  const digits = !photo.scene && offer.models.find(m => m.name === map.model).scenes ? ` ${map.model} knows handwritten digits alone; start the page with a --model for photographs.` : "";
  by("verdict").textContent = photo.name + "." + labels + digits;
}

// Makes the maps that are shown and not there yet; what was asked before and not answered is given up.
async function refresh() {
  if (asking) asking.abort();
  const own = asking = new AbortController(), { signal } = own;
  remember();
  showCards();
  view.maps.forEach(map => { showChoices(map); showTrust(map, ""); });
  drawAll();
  trouble("");
  try {
    progress(0, 1, "Looking at the picture");
    for (const map of view.maps) { await look(map, signal); showChoices(map); }
    await judge(signal);
    showPictures();
    verdict();
    drawAll();
    const missing = view.maps.filter(map => !made.has(keyOf(map)));
    const of = missing.length, keys = missing.map(keyOf);
    if (of) await listen("api/maps", { picture: view.picture, maps: missing.map(asked) }, "ended", event => {
      if (event.state === "refused") throw new Error(event.error);
      if (event.state === "begun") progress(event.done, of, `Map ${event.done + 1} of ${of}: ${missing[event.map].method}`);
      if (event.state === "made" || event.state === "failed") {
        made.set(keys[event.map], event);
        if (made.size > MOST_KEPT) made.delete(made.keys().next().value);
        if (asking === own) drawAll();
      }
    }, signal);
    if (asking === own) progress(1, 1, view.maps.length === 1 ? "1 map" : `${view.maps.length} maps`);
  } catch (error) {
    if (signal.aborted) return;
    progress(1, 1, "");
    trouble(error.message);
  }
}

// --- Trust ------------------------------------------------------------------------------------------------------------

function showTrust(map, ...content) {
  const card = cards.get(map), name = keyOf(map);
  if (content[0] === "" && card.of === name) return;  // it still is of this map
  card.of = name;
  card.trust.replaceChildren(...content);
}

const two = (value, undefined_ = "one is flat") => value === null ? undefined_ : value.toFixed(2).replace(/^-(0\.00)$/, "$1");

async function doubt(map) {
  const name = keyOf(map), bar = element("progress", { max: 4, value: 0 }), told = element("span", { textContent: " asking" });
  bar.setAttribute("aria-label", "Questions that are answered");
  showTrust(map, bar, told);
  try {
    await listen("api/trust", { picture: view.picture, map: asked(map) }, "made", event => {
      if (keyOf(map) !== name) return;
      if (event.state === "refused") throw new Error(event.error);
      if (event.state === "begun") { bar.max = event.of; bar.value = event.done; told.textContent = ` ${event.what}`; return; }
      const null_ = `${two(event.null[0])} ± ${two(event.null[1])}`, sign = event.kept > 0 ? "+" : "", same = "the decision did not change";
      const rows = [
        ["Alike for another class", two(event.classes), null_],
        ["Alike on a random network", two(event.learned), null_],
        ["Removal, better than chance", sign + two(event.kept, same), event.chance === null ? same : `0.00 ± ${two(event.chance)}`],
      ];
      const row = cells => element("tr", {}, ...cells.map((text, i) => Object.assign(element(i ? "td" : "th", { textContent: text }), i ? {} : { scope: "row" })));
      const head = element("tr", {}, ...["question", "this map", "maps of chance"].map(text => element("th", { textContent: text, scope: "col" })));
      showTrust(map, element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows.map(row))), element("p", { textContent: event.sentence }));
    });
  } catch (error) { if (keyOf(map) === name) showTrust(map, element("p", { textContent: error.message })); }
}

// --- The rest ---------------------------------------------------------------------------------------------------------

by("more").addEventListener("click", () => {
  const last = view.maps[view.maps.length - 1], at = offer.methods.findIndex(m => m.name === last.method);
  const used = new Set(view.maps.map(m => m.method));
  const other = [...offer.methods.slice(at + 1), ...offer.methods].find(m => !used.has(m.name)) || offer.methods[at];
  const look = lookOf(last);
  view.maps.push({ ...last, method: other.name, layer: look ? keptLayer(other.name, last, look) : "", arguments: {} });
  refresh();
});

by("link").addEventListener("click", async () => {
  try { await navigator.clipboard.writeText(location.href); by("copied").textContent = "Copied."; }
  catch { by("copied").textContent = "The address of this page is the link."; }
});

for (const id of ["opacity", "shared"]) by(id).addEventListener("input", drawAll);
addEventListener("hashchange", () => start());

async function start() {
  const { picture, maps } = recall();
  const known = pictures.some(p => p.id === picture);
  const begins = offer.models[0], fits = pictures.find(p => p.scene === begins.scenes) || pictures[0];
  view.picture = known ? picture : fits.id;
  view.maps = maps.length ? maps : [{ model: begins.name, method: offer.first, layer: "", target: null, arguments: {} }];
  showPictures();
  await refresh();
  if (picture && !known) trouble("The link's picture is not here any more: drop it again, and its maps come back.");
}

(async () => {
  try {
    offer = await (await answer("api/offer")).json();
    pictures = await (await answer("api/pictures")).json();
    colours = { signed: bytes(offer.colours.signed), positive: bytes(offer.colours.positive) };
    await start();
  } catch (error) { trouble(error.message); }
})();
