"use strict";

// The data is what asv_plugin/answer/page.py writes; asv_plugin/answer/cards.py describes a card and its rows.
// What is shown stands in the address, #machine=...&commit=...&model=...&workload=...&beside=machine@commit, or as
// asv's own pages write it, #benchmark?machine=...&p-model='...'. Text of others is only ever inserted as text.

const at = (id) => document.getElementById(id);
const unique = (list) => [...new Set(list)];
const size = (model) => model.split("_")[2] ?? model; // esm2_t36_3B_UR50D
const title = (card) => size(card.model) + ", " + card.workload;
const percent = (error) => error + " %";

function make(tag, attributes = {}, ...children) {
  const drawn = /^(svg|g|path|polyline|circle|rect|line|text|title)$/.test(tag);
  const element = document.createElementNS("http://www.w3.org/" + (drawn ? "2000/svg" : "1999/xhtml"), tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// "107k" or "1,230", with marks behind it, as a number; none where there is no number
function number(written) {
  const [, digits, suffix] = /^([\d.,]+)([kM]?)/.exec(written ?? "") ?? [];
  return digits ? parseFloat(digits.replaceAll(",", "")) * ({k: 1e3, M: 1e6}[suffix] ?? 1) : NaN;
}

function rounded(value) {
  return value >= 1e6 ? +(value / 1e6).toPrecision(3) + "M" : value >= 1e3 ? +(value / 1e3).toPrecision(3) + "k" : String(value);
}

// ---- what is asked for

function asked() {
  const query = new URLSearchParams(location.hash.replace(/^#([^?]*\?)?/, ""));
  const value = (name) => (query.get(name) ?? query.get("p-" + name) ?? "").replace(/^'(.*)'$/, "$1");
  return Object.fromEntries(["machine", "commit", "model", "workload", "beside"].map((name) => [name, value(name)]));
}

function address(changes) {
  const chosen = Object.entries({...asked(), ...changes}).filter(([, value]) => value);
  return "#" + new URLSearchParams(chosen);
}

// A machine and commit, and the card of the model and workload asked for: without one, the largest that has an advice
function find(data, name, hash, {model, workload}) {
  const machine = data.machines.find((each) => each.machine === name) ?? data.machines[0];
  const answers = (commit) => commit.cards.some((card) => card.best);
  const named = hash && machine.commits.find((each) => each.commit.startsWith(hash));
  const commit = named || machine.commits.find(answers) || machine.commits[0];
  const missing = [name && machine.machine !== name ? name : "", hash && !named ? hash : ""].filter(Boolean);
  const advised = commit.cards.filter((card) => card.best);
  const wanted = model || (advised.at(-1) ?? commit.cards.at(-1))?.model;
  const order = [workload, ...(workload ? [] : [data.usual, ...commit.cards.map((card) => card.workload)])];
  const cards = order.map((each) => commit.cards.find((card) => card.model === wanted && card.workload === each));
  return {machine, commit, missing, wanted: [wanted, order[0]], card: cards.find(Boolean)};
}

// ---- reading a card

const row = (card, metric) => card.rows.find((each) => each[0] === metric) ?? [metric, "", [], []];
const value = (card, metric, i) => number(row(card, metric)[2][i]);
const inOneUnit = (card, metric, i) => value(card, metric, i) * (row(card, metric)[1] === "GiB" ? 1024 : 1); // or MiB
const isOver = (data, card, i) => [data.names.error, data.names.massive].some((name) => value(card, name, i) > data.limit);

function numbersOf(data, card, i) {
  const {speed, error, massive, memory, energy} = data.names;
  const written = (metric, after = "") => { const [, unit, texts] = row(card, metric); return texts[i] && texts[i] !== "n/a" ? [texts[i] + (unit ? " " + unit : "") + after] : []; };
  const off = card.precisions[i] === "fp32" ? ["the reference"] : [...written(error, " of the distance"), ...written(massive, " with a massive channel")];
  const advised = card.precisions[i] !== card.best ? "" : card.recommended ? ", recommended" : ", fastest";
  return card.precisions[i].toUpperCase() + advised + ": " + [...written(speed, " tokens/s"), ...off, ...written(memory), ...written(energy, " per 1,000 tokens")].join("; ");
}

// ---- the picture: speed against fidelity

function picture(data, card, width, most) {
  const {speed, error, massive, memory} = data.names;
  const height = Math.min(330, Math.max(250, width * 0.5)), left = 44, right = width - 12, bottom = height - 38, top = 10;
  const errors = card.precisions.map((_, i) => value(card, error, i));
  const all = [...errors, ...card.precisions.map((_, i) => value(card, massive, i))].filter((each) => each > 0);
  const low = Math.floor(Math.log10(Math.min(0.1, ...all))), high = Math.ceil(Math.log10(Math.max(20, ...all)));
  const edge = left + 22, start = edge + 44;
  const x = (each) => each > 0 ? start + (right - start) * (Math.log10(each) - low) / (high - low) : edge;
  const step = [1, 2, 2.5, 5, 10].map((each) => each * 10 ** Math.floor(Math.log10(most / 4))).find((each) => each >= most / 4);
  const y = (each) => bottom - (bottom - top) * each / (most * 1.2);
  const svg = make("svg", {width, height, viewBox: "0 0 " + width + " " + height, role: "group", "aria-label": "Speed against fidelity of " + title(card) + ": tokens per second upwards, error to the right. The numbers are in the table below."});
  const text = (where, words, anchor = "middle") => make("text", {...where, "text-anchor": anchor, "aria-hidden": "true"}, words);

  const limit = x(data.limit);
  svg.append(make("rect", {class: "over", x: limit, y: top, width: right - limit, height: bottom - top}));
  svg.append(make("line", {class: "limit", x1: limit, x2: limit, y1: top, y2: bottom}), text({x: limit + 5, y: bottom - 6}, "limit " + percent(data.limit), "start"));
  svg.append(make("polyline", {class: "axis", points: [[left, top], [left, bottom], [right, bottom]].join(" ")}));
  for (let tick = 0; tick <= most * 1.2; tick += step) svg.append(text({x: left - 5, y: y(tick) + 4}, rounded(tick), "end"));
  for (let power = low; power <= high; power++) svg.append(text({x: x(10 ** power), y: bottom + 17}, percent(+(10 ** power).toPrecision(1)), power === high ? "end" : "middle"));
  svg.append(text({x: edge, y: bottom + 17}, "0"), text({x: right, y: bottom + 34}, "error over the distance between proteins", "end"), text({x: left + 5, y: top + 4}, "tokens/s", "start"));

  const largest = Math.max(...card.precisions.map((_, i) => value(card, memory, i) || 0));
  const points = card.precisions.map((name, i) => {
    const off = name === "fp32" ? 0 : errors[i];
    return {name, i, error: off, speed: value(card, speed, i), x: x(off), y: y(value(card, speed, i)), r: 3 + 8 * Math.sqrt((value(card, memory, i) || 0) / (largest || 1))};
  }).filter((point) => point.error >= 0 && point.speed > 0);

  // Nothing is both faster and more faithful than what is on the frontier
  const frontier = [...points].sort((a, b) => a.error - b.error || b.speed - a.speed).filter((point, i, before) => before.slice(0, i).every((each) => each.speed < point.speed));
  const stairs = frontier.flatMap((point, i) => i ? [[point.x, frontier[i - 1].y], [point.x, point.y]] : [[point.x, point.y]]);
  svg.append(make("polyline", {class: "frontier", points: stairs.join(" ")}));

  const readout = make("p", {class: "readout small"});
  const say = (point) => { readout.textContent = numbersOf(data, card, point.i); };
  const taken = points.map((point) => ({x0: point.x - point.r, x1: point.x + point.r, y0: point.y - point.r, y1: point.y + point.r}));
  for (const point of points) {
    const isBest = point.name === card.best, words = (isBest ? "✓ " : "") + point.name.toUpperCase();
    const far = value(card, massive, point.i);
    const g = make("g", {class: "point" + (isBest ? " best" : "") + (isOver(data, card, point.i) ? " out" : ""), tabindex: 0, role: "img", "aria-label": numbersOf(data, card, point.i), "data-key": card.model + card.workload + point.name});
    if (far > 0 && far !== point.error) g.append(make("line", {class: "whisker", x1: point.x, x2: x(far), y1: point.y, y2: point.y}), make("line", {class: "whisker", x1: x(far), x2: x(far), y1: point.y - 4, y2: point.y + 4}));
    const shape = point.name === "fp32" ? make("rect", {x: point.x - point.r, y: point.y - point.r, width: 2 * point.r, height: 2 * point.r}) : make("circle", {cx: point.x, cy: point.y, r: point.r});
    g.append(make("circle", {class: "hit", cx: point.x, cy: point.y, r: 20}), shape, label(point, words, taken, right, top, bottom));
    for (const event of ["pointerenter", "focus", "click"]) g.addEventListener(event, () => say(point));
    svg.append(g);
  }
  const unknown = card.precisions.filter((name) => !points.some((point) => point.name === name)).map((name) => name.toUpperCase());
  if (points.length) say(points.find((point) => point.name === card.best) ?? points[0]);
  const parts = ["Area: peak memory. Hollow: over the limit. Dotted: the fastest for its error.", points.some((point) => value(card, massive, point.i) > 0) ? " Line to the right: with a massive channel." : "", unknown.length ? " Without fidelity: " + unknown.join(", ") + "." : ""];
  return make("figure", {}, svg, readout, make("figcaption", {}, ...parts));
}

// A point's name beside it, where it covers no other point and no other name: above, below, left, right, or higher
function label(point, words, taken, right, top, bottom) {
  const wide = 8 * words.length, gap = point.r + 4, middle = point.x - wide / 2;
  const places = [[middle, point.y - gap - 2], [middle, point.y + gap + 10], [point.x - gap - wide, point.y + 4], [point.x + gap, point.y + 4]];
  for (let higher = 1; higher < 12; higher++) places.push([middle, point.y - gap - 2 - 14 * higher], [point.x + 4, point.y - gap - 2 - 14 * higher]);
  const boxes = places.map(([x0, y]) => ({x0, x1: x0 + wide, y0: y - 11, y1: y + 2, y}));
  const fits = (box) => box.x0 > 46 && box.x1 <= right && box.y0 >= top && box.y1 <= bottom && taken.every((each) => box.x1 < each.x0 || box.x0 > each.x1 || box.y1 < each.y0 || box.y0 > each.y1);
  const box = boxes.find(fits) ?? boxes[0];
  taken.push(box);
  return make("text", {x: box.x0, y: box.y, "aria-hidden": "true"}, words);
}

// ---- bars, matrix, table, history

function bars(data, card, most) {
  const {speed, memory, energy} = data.names;
  return make("div", {class: "bars"}, ...[speed, memory, energy].filter((metric) => row(card, metric)[2].length).map((metric) => {
    const [, unit, texts, , gains] = row(card, metric);
    const items = card.precisions.map((name, i) => make("li", {class: name === card.best ? "best" : null},
      make("span", {}, name.toUpperCase()), make("span", {class: "bar", style: "width:" + (100 * inOneUnit(card, metric, i) / most[metric] || 0) + "%"}),
      make("span", {}, texts[i], ...(gains?.[i] ? [make("span", {class: "gain"}, gains[i])] : []))));
    return make("div", {}, make("h3", {}, metric + (unit ? ", " + unit : "")), make("ul", {}, ...items));
  }));
}

function matrix(view, shown) {
  const {cards} = view.commit;
  const models = unique(cards.map((card) => card.model)), workloads = unique(cards.map((card) => card.workload));
  const cell = (model, workload) => {
    const card = cards.find((each) => each.model === model && each.workload === workload);
    if (!card) return make("td", {}, make("span", {}, "–"));
    const gain = card.gain ? card.gain.toFixed(2) + "x" : "";
    const link = make("a", {href: address({model, workload}), "aria-current": card === shown ? "true" : null, "data-key": "matrix" + model + workload},
      make("span", {class: "hidden"}, title(card) + ": "), ...(card.best ? [make("b", {}, card.best.toUpperCase()), make("i", {}, gain)] : [make("i", {}, "no advice")]));
    link.addEventListener("click", () => { opened = true; });
    return make("td", {}, link);
  };
  return make("table", {class: "matrix"}, make("caption", {class: "small"}, "Precision and speedup over FP32, by workload and model"),
    make("thead", {}, make("tr", {}, make("td"), ...models.map((model) => make("th", {scope: "col"}, size(model))))),
    make("tbody", {}, ...workloads.map((workload) => make("tr", {}, make("th", {scope: "row"}, workload), ...models.map((model) => cell(model, workload))))));
}

// asv's own graph of a metric, for this machine, model and workload; what is in notes only has none
function graph(data, machine, card, metric) {
  const chosen = {machine: machine.machine, "p-model": "'" + card.model + "'", "p-workload": "'" + card.workload + "'"};
  return data.links[metric] + "?" + Object.entries(chosen).map(([key, each]) => key + "=" + encodeURIComponent(each)).join("&");
}

function table(data, {machine, card}, narrow) {
  const best = (i) => card.precisions[i] === card.best ? "best" : null;
  const head = make("tr", {}, ...(narrow ? [] : [make("th", {scope: "col"}, "Metric")]), ...card.precisions.map((name, i) => make("th", {scope: "col", class: best(i)}, (best(i) ? "✓ " : "") + name.toUpperCase())));
  const body = card.rows.flatMap(([metric, unit, texts, spreads]) => {
    const link = data.links[metric] ? make("a", {href: graph(data, machine, card, metric), "aria-label": metric + ", graph for " + title(card)}, metric) : metric;
    const about = (unit ? ", " + unit : "") + (spreads.length ? " ±" + Math.max(...spreads) + "%" : "");
    const name = make("th", narrow ? {scope: "rowgroup", colspan: card.precisions.length} : {scope: "row"}, link, make("span", {class: "muted"}, about));
    const cells = card.precisions.map((_, i) => make("td", {class: best(i)}, texts[i]));
    return narrow ? [make("tr", {}, name), make("tr", {}, ...cells)] : [make("tr", {}, name, ...cells)];
  });
  return make("table", {class: "numbers"}, make("caption", {class: "hidden"}, title(card) + ": each precision beside FP32"), make("thead", {}, head), make("tbody", {}, ...body));
}

function trends(data, card, here) {
  const order = [here, ...data.machines.filter((each) => each !== here)];
  return order.flatMap((machine) => {
    const commits = [...machine.commits].reverse();
    const same = commits.map((each) => each.cards.find((other) => other.model === card.model && other.workload === card.workload));
    if (same.filter(Boolean).length < 2) return [];
    const names = card.precisions.filter((name) => same.some((each) => each?.precisions.includes(name)));
    const lines = names.map((name) => trend(name, commits, same.map((each) => each ? row(each, data.names.speed)[2][each.precisions.indexOf(name)] : ""), same));
    return [make("h3", {}, title(card) + ": tokens/s on " + machine.machine + ", " + commits[0].date + " to " + commits.at(-1).date), make("div", {class: "history"}, ...lines)];
  });
}

function trend(name, commits, texts, same) {
  const speeds = texts.map(number), known = speeds.filter((each) => each > 0);
  const width = 190, height = 40, most = Math.max(...known), least = Math.min(most / 1.5, ...known);
  const place = (i) => [4 + (width - 8) * i / (commits.length - 1), height - 4 - (height - 10) * (speeds[i] - least) / (most - least)].map((each) => +each.toFixed(1));
  const written = texts.filter((_, i) => speeds[i] > 0);
  const svg = make("svg", {width, height, viewBox: "0 0 " + width + " " + height, role: "img", "aria-label": name.toUpperCase() + " by commit: from " + written[0] + " to " + written.at(-1)});
  // a commit without the cell breaks the line
  let line = [];
  speeds.forEach((speed, i) => {
    if (!(speed > 0)) { line = []; return; }
    line.push(place(i));
    if (line.length === 2) svg.append(make("polyline", {}));
    if (line.length > 1) svg.lastElementChild.setAttribute("points", line.join(" "));
  });
  speeds.forEach((speed, i) => {
    if (!(speed > 0)) return;
    const [cx, cy] = place(i), slower = same[i].worse?.some(([metric, precision]) => metric === "tokens/s" && precision === name);
    const point = slower ? make("path", {d: "M" + (cx - 5) + " " + (cy - 3) + "h10l-5 8z"}) : make("circle", {cx, cy, r: commits.length > 60 ? 1 : 2.5});
    point.append(make("title", {}, commits[i].commit.slice(0, 8) + ", " + commits[i].date + ": " + texts[i]));
    svg.append(point);
  });
  return make("div", {class: "trend"}, svg, make("span", {}, name.toUpperCase() + " " + written.at(-1)));
}

// The commits that made a model slower or larger, on every machine; each opens beside the commit before it
function worse(data, model) {
  const items = data.machines.flatMap((machine) => machine.commits.flatMap((commit) => {
    const found = commit.cards.filter((card) => card.model === model).flatMap((card) => (card.worse ?? []).map((each) => [card.workload, ...each]));
    return unique(found.map((each) => each[1])).map((metric) => {
      const of = found.filter((each) => each[1] === metric), [workload, , precision, times, since] = of[0];
      const link = make("a", {href: address({machine: machine.machine, commit: commit.commit.slice(0, 8), model, workload, beside: machine.machine + "@" + since})}, commit.commit.slice(0, 8));
      return make("li", {}, link, " on " + machine.machine + ": " + times + " times the " + metric + " (" + precision.toUpperCase() + ", " + workload + (of.length > 1 ? ", and " + (of.length - 1) + " more" : "") + ")");
    });
  }));
  return [make("h3", {}, "Commits that made " + size(model) + " slower or larger"), items.length ? make("ul", {class: "small worse"}, ...items) : make("p", {class: "small"}, "None that is recorded.")];
}

// What is shown, as files that are made here
function downloads({machine, commit, card}) {
  const rows = card.rows.flatMap(([metric, unit, texts, spreads, gains]) => card.precisions.map((precision, i) => ({
    machine: machine.machine, commit: commit.commit, model: card.model, workload: card.workload, metric, unit, precision,
    value: Number.isNaN(number(texts[i])) ? null : number(texts[i]), spread_percent: spreads[i] ?? null, over_fp32: gains?.[i] ? parseFloat(gains[i]) : null,
  })));
  // a spreadsheet would compute a text that begins like a formula
  const field = (each) => typeof each === "number" ? each : '"' + String(each ?? "").replace(/^[=+\-@\t\r]/, "'$&").replaceAll('"', '""') + '"';
  const csv = [Object.keys(rows[0]), ...rows.map(Object.values)].map((each) => each.map(field).join(",")).join("\r\n") + "\r\n";
  const name = [size(card.model), card.workload, commit.commit.slice(0, 8)].join("-");
  const link = (kind, type, content) => make("a", {download: name + "." + kind.toLowerCase(), href: "data:" + type + ";charset=utf-8," + encodeURIComponent(content)}, kind);
  return make("p", {class: "small"}, "These numbers as ", link("CSV", "text/csv", csv), " and ", link("JSON", "application/json", JSON.stringify(rows, null, 1)));
}

// ---- the page

function list(heading, lines) {
  return lines?.length ? [make("h3", {}, heading), make("ul", {class: "small"}, ...lines.map((line) => make("li", {}, line)))] : [];
}

function show(data, view, width, most, isAlone) {
  const {machine, commit, card, wanted} = view;
  const wide = width >= 720;
  const where = isAlone ? commit.device : machine.machine + ", commit " + commit.commit.slice(0, 8);
  const heading = make("h2", {}, (card ? title(card) : size(wanted[0] ?? "ESM-2") + (wanted[1] ? ", " + wanted[1] : "")) + " ", make("span", {class: "muted"}, "on " + where));
  const notes = [commit.failed && "failed cells", commit.changed && "embeddings that changed", commit.doubtful && "cells measured on a busy GPU"].filter(Boolean);
  const parts = [heading, ...view.missing.map((each) => make("p", {class: "warn small"}, each + " is not recorded here: this is " + machine.machine + ", " + commit.commit.slice(0, 8) + "."))];
  if (!card) parts.push(make("p", {class: "advice"}, "No recommendation: nothing was measured for this choice."));
  else {
    parts.push(make("p", {class: card.best ? "advice" : "small"}, card.advice.replaceAll(" %", "\u00a0%")));
    // A sentence that rests on random weights is no recommendation, and must look like none
    if (card.best && !card.recommended) parts.push(make("p", {class: "warn small"}, "Random weights: speed and memory are right, fidelity is not ESM-2's own"));
  }
  if (notes.length) parts.push(make("p", {class: "warn small"}, "Listed below: " + notes.join(", ") + "."));
  const first = [];
  if (card && row(card, data.names.error)[2].length) first.push(picture(data, card, wide ? Math.floor((width - 24) * 5 / 8) : width, most[data.names.speed]));
  if (commit.cards.length) first.push(matrix(view, card));
  parts.push(make("div", {class: "first"}, ...first));
  if (card) {
    parts.push(bars(data, card, most), make("h3", {}, "All numbers of " + title(card)), table(data, view, !wide));
    parts.push(...(card.more ? [make("p", {class: "small"}, card.more)] : []), downloads(view));
  }
  parts.push(...list("Failed", commit.failed), ...list("Embeddings that changed since the last commit before", commit.changed), ...list("Measured while the GPU was busy", commit.doubtful));
  parts.push(make("h3", {}, "How it was measured"), make("p", {class: "small how"}, commit.device + " (" + machine.about + "), commit " + commit.commit.slice(0, 8) + " of " + commit.date + ", measured on " + commit.measured + (commit.how ? "; " + commit.how : "") + (card?.size ? "; " + card.size : "")));
  parts.push(...list("Not run on this machine (n/a)", commit.skipped));
  return make("section", {class: "view " + (wide ? "wide" : "narrow")}, ...parts);
}

let opened = false; // whether a cell of the matrix was chosen

function showAll(data) {
  const wish = asked();
  const split = wish.beside.lastIndexOf("@");
  const views = [find(data, wish.machine, wish.commit, wish)];
  if (wish.beside) views.push(find(data, wish.beside.slice(0, split), wish.beside.slice(split + 1), {model: wish.model || views[0].wanted[0], workload: wish.workload || views[0].card?.workload}));
  const [{machine, commit, card}] = views;
  const name = (each) => each.commit.slice(0, 8) + ", " + each.date + (each.changed ? ", changed" : "");
  at("machine").replaceChildren(...data.machines.map((each) => make("option", {value: each.machine}, each.machine)));
  at("machine").value = machine.machine;
  at("commit").replaceChildren(...machine.commits.map((each) => make("option", {value: each.commit.slice(0, 8)}, name(each))));
  at("commit").value = commit.commit.slice(0, 8);
  const others = data.machines.map((each) => make("optgroup", {label: each.machine}, ...each.commits.map((other) => make("option", {value: each.machine + "@" + other.commit.slice(0, 8)}, name(other)))));
  at("beside").replaceChildren(make("option", {value: ""}, "nothing"), ...others);
  at("beside").value = views[1] ? views[1].machine.machine + "@" + views[1].commit.commit.slice(0, 8) : "";

  // both have one scale
  const {speed, memory, energy} = data.names;
  const most = Object.fromEntries([speed, memory, energy].map((metric) => [metric, Math.max(...views.flatMap((view) => view.card?.precisions.map((_, i) => inOneUnit(view.card, metric, i)) ?? []).filter((each) => each > 0))]));
  const focused = document.activeElement?.dataset?.key;
  at("main").className = views.length > 1 ? "two" : "";
  const columns = views.length > 1 && matchMedia("(min-width: 62rem)").matches ? 2 : 1;
  const padding = matchMedia("(max-width: 40rem)").matches ? 18 : 34;
  const width = Math.max(200, Math.floor((at("main").clientWidth - 24 * (columns - 1)) / columns) - padding);
  const history = card ? [make("section", {class: "view over-time " + (at("main").clientWidth >= 720 ? "wide" : "narrow")}, ...trends(data, card, machine), ...worse(data, card.model))] : [];
  at("main").replaceChildren(...views.map((view) => show(data, view, width, most, views.length === 1)), ...history);
  at("said").textContent = card ? title(card) + " on " + commit.device + ": " + card.advice : "";
  if (focused) [...document.querySelectorAll("[data-key]")].find((each) => each.dataset.key === focused)?.focus({preventScroll: true});
  if (opened) document.querySelector("h2").scrollIntoView({block: "nearest"});
  opened = false;
}

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).text();
}

async function start() {
  const element = at("data");
  const data = JSON.parse(element.type === "application/json" ? element.textContent : await unpack(element.textContent));
  if (!data.machines.length) {
    at("main").append(make("p", {}, "Nothing is recorded yet: run make bench."));
    return;
  }
  // the workload that was measured most often: the one with the most models
  const workloads = data.machines.flatMap((machine) => machine.commits.flatMap((commit) => commit.cards.map((card) => card.workload)));
  const times = (workload) => workloads.filter((each) => each === workload).length;
  data.usual = unique(workloads).sort((a, b) => times(b) - times(a))[0];
  const go = (changes) => { location.hash = address(changes); };
  at("machine").addEventListener("change", () => go({machine: at("machine").value, commit: ""}));
  at("commit").addEventListener("change", () => go({machine: at("machine").value, commit: at("commit").value}));
  at("beside").addEventListener("change", () => go({beside: at("beside").value}));
  for (const event of ["hashchange", "resize"]) addEventListener(event, () => showAll(data));
  showAll(data);
}

start().catch((error) => {
  at("main").textContent = "This page could not show its data (" + error + "). make precision prints it.";
});
