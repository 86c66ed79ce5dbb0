"use strict";

// The data is what asv_plugin/answer/page.py writes; asv_plugin/answer/cards.py describes a card and its rows.
// What is shown stands in the address, #machine=...&commit=...&model=...&workload=...&beside=machine@commit, or as
// asv's own pages write it, #benchmark?machine=...&p-model='...'. Text of others is only ever inserted as text.

let data, names; // names: of the metrics that are drawn

const at = (id) => document.getElementById(id);
const unique = (list) => [...new Set(list)];
const short = (hash) => hash.slice(0, 8);
const size = (model) => model.split("_")[2] ?? model; // 3B of esm2_t36_3B_UR50D
const title = (card) => `${size(card.model)}, ${card.workload}`;
const upper = (precision) => precision.toUpperCase();

function make(tag, attributes = {}, ...children) {
  const isDrawn = /^(svg|g|path|polyline|circle|rect|line|text|title)$/.test(tag);
  const space = isDrawn ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml";
  const element = document.createElementNS(space, tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// A text whose names and numbers are not broken at their hyphens and units: ESM-2, 2026-12-01, 2.4 %
const whole = (text) => text.split(/(\S*\d\S*(?: %)?)/).map((part, i) => (i % 2 ? make("span", {class: "whole"}, part) : part));
const small = (text, more = "") => make("p", {class: `small ${more}`}, ...whole(text));

// "107k" or "1,230", perhaps with marks behind it, as a number; none where there is no number
function number(written) {
  const [, digits, suffix] = /^([\d.,]+)([kM]?)/.exec(written ?? "") ?? [];
  return digits ? parseFloat(digits.replaceAll(",", "")) * ({k: 1e3, M: 1e6}[suffix] ?? 1) : NaN;
}

function withSuffix(value) {
  if (value < 1e3) return String(value);
  return value < 1e6 ? +(value / 1e3).toPrecision(3) + "k" : +(value / 1e6).toPrecision(3) + "M";
}

// ---- reading a card: a number of its i-th precision

const row = (card, metric) => card.rows.find((each) => each[0] === metric) ?? [metric, "", [], []];
const value = (card, metric, i) => number(row(card, metric)[2][i]);
const inOneUnit = (card, metric, i) => value(card, metric, i) * (row(card, metric)[1] === "GiB" ? 1024 : 1); // else MiB
const isOver = (card, i) => [names.error, names.massive].some((metric) => value(card, metric, i) > data.limit);

function inWords(card, i) {
  const written = ([metric, after]) => {
    const [, unit, texts] = row(card, metric);
    return number(texts[i]) >= 0 ? [`${texts[i]}${unit && " "}${unit}${after}`] : [];
  };
  const errors = [
    [names.error, " of the distance"],
    [names.massive, " with a massive channel"],
  ].flatMap(written);
  const others = [
    [names.memory, ""],
    [names.energy, " per 1,000 tokens"],
  ].flatMap(written);
  const off = card.precisions[i] === "fp32" ? ["the reference"] : errors;
  const advised = card.precisions[i] !== card.best ? "" : card.recommended ? ", recommended" : ", fastest";
  return `${upper(card.precisions[i])}${advised}: ${[...written([names.speed, " tokens/s"]), ...off, ...others].join("; ")}`;
}

// ---- the address: what is asked for, and what is found

function asked() {
  const query = new URLSearchParams(location.hash.replace(/^#([^?]*\?)?/, ""));
  const of = (name) => (query.get(name) ?? query.get("p-" + name) ?? "").replace(/^'(.*)'$/, "$1");
  return Object.fromEntries(["machine", "commit", "model", "workload", "beside"].map((name) => [name, of(name)]));
}

function address(changes) {
  return "#" + new URLSearchParams(Object.entries({...asked(), ...changes}).filter(([, chosen]) => chosen));
}

// The card of a model and workload in a record. Where none are named: of the newest record that has an advice, the
// largest model with one, and the workload that was measured most often
function find(name, hash, model, workload) {
  const machine = data.machines.find((each) => each.machine === name) ?? data.machines[0];
  const named = hash && machine.commits.find((each) => each.commit.startsWith(hash));
  const commit = named || (machine.commits.find((each) => each.cards.some((card) => card.best)) ?? machine.commits[0]);
  const missing = [machine.machine !== name && name, !named && hash].filter(Boolean);
  const {cards} = commit;
  model ||= (cards.findLast((card) => card.best) ?? cards.at(-1))?.model;
  const workloads = workload ? [workload] : [data.usual, ...cards.map((card) => card.workload)];
  const found = workloads.map((each) => cards.find((card) => card.model === model && card.workload === each));
  return {machine, commit, missing, model, workload, card: found.find(Boolean)};
}

// ---- the picture: speed against fidelity

function picture(card, width, most) {
  const each = (metric) => card.precisions.map((_, i) => value(card, metric, i));
  const [speeds, errors, massive, memory] = [names.speed, names.error, names.massive, names.memory].map(each);
  const height = Math.min(330, Math.max(250, width / 2));
  const [left, right, top, bottom] = [44, width - 12, 10, height - 38];

  // x: the logarithm of the error; FP32, and what has none, at the edge. y: speed
  const [edge, start] = [left + 22, left + 66];
  const known = [...errors, ...massive].filter((error) => error > 0);
  const low = Math.floor(Math.log10(Math.min(0.1, ...known)));
  const high = Math.ceil(Math.log10(Math.max(20, ...known)));
  const x = (error) => (error > 0 ? start + ((right - start) * (Math.log10(error) - low)) / (high - low) : edge);
  const y = (speed) => bottom - ((bottom - top) * speed) / (1.2 * most);
  const power = 10 ** Math.floor(Math.log10(most / 4));
  const step = power * [1, 2, 2.5, 5, 10].find((times) => times * power >= most / 4);

  const about = `Speed against fidelity of ${title(card)}: tokens/s upwards, error to the right. The table has the numbers.`;
  const svg = make("svg", {width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": about});
  const write = (x, y, words, anchor) => svg.append(make("text", {x, y, "text-anchor": anchor, "aria-hidden": true}, words));
  const line = (name, ...points) => make("polyline", {class: name, points: points.join(" ")});
  const limit = x(data.limit);
  svg.append(make("rect", {class: "over", x: limit, y: top, width: right - limit, height: bottom - top}));
  svg.append(line("limit", [limit, top], [limit, bottom]), line("axis", [left, top], [left, bottom], [right, bottom]));
  write(limit + 5, bottom - 6, `limit ${data.limit} %`, "start");
  write(left + 5, top + 4, "tokens/s", "start");
  write(right, bottom + 34, "error over the distance between proteins", "end");
  write(edge, bottom + 17, "0", "middle");
  for (let tick = 0; tick <= 1.2 * most; tick += step) write(left - 5, y(tick) + 4, withSuffix(tick), "end");
  for (let decade = low; decade <= high; decade++) {
    write(x(10 ** decade), bottom + 17, `${+(10 ** decade).toPrecision(1)} %`, decade === high ? "end" : "middle");
  }

  const points = card.precisions.flatMap((name, i) => {
    const error = name === "fp32" ? 0 : errors[i];
    const r = 3 + 8 * Math.sqrt((memory[i] || 0) / Math.max(1, ...memory.filter((each) => each > 0)));
    return error >= 0 && speeds[i] > 0 ? [{name, i, error, speed: speeds[i], x: x(error), y: y(speeds[i]), r}] : [];
  });
  // Nothing is both faster and more faithful than what is on the frontier
  const frontier = [...points]
    .sort((one, other) => one.error - other.error || other.speed - one.speed)
    .filter((point, i, sorted) => sorted.slice(0, i).every((before) => before.speed < point.speed));
  svg.append(
    line(
      "frontier",
      ...frontier.flatMap((point, i) => [
        [point.x, frontier[Math.max(0, i - 1)].y],
        [point.x, point.y],
      ]),
    ),
  );

  const readout = small("", "readout");
  const say = (i) => readout.replaceChildren(...whole(inWords(card, i)));
  const taken = points.map(({x, y, r}) => ({left: x - r, right: x + r, top: y - r, bottom: y + r}));
  for (const point of points) {
    const {name, i, x: cx, y: cy, r} = point;
    const kind = `point ${name === card.best ? "best" : ""} ${isOver(card, i) ? "out" : ""}`;
    const g = make("g", {class: kind, tabindex: 0, role: "img", "aria-label": inWords(card, i), "data-key": `point ${name}`});
    if (massive[i] > 0) {
      const end = x(massive[i]);
      g.append(line("whisker", [cx, cy], [end, cy], [end, cy - 4], [end, cy + 4]));
    }
    g.append(make("circle", {class: "hit", cx, cy, r: 20}));
    g.append(name === "fp32" ? make("rect", {x: cx - r, y: cy - r, width: 2 * r, height: 2 * r}) : make("circle", {cx, cy, r}));
    g.append(label(point, (name === card.best ? "✓ " : "") + upper(name), taken, {left, right, top, bottom}));
    for (const event of ["pointerenter", "focus", "click"]) {
      g.addEventListener(event, () => say(i));
    }
    svg.append(g);
  }
  say((points.find(({name}) => name === card.best) ?? points[0])?.i ?? 0);
  const unknown = card.precisions.filter((name) => !points.some((point) => point.name === name));
  const legend = [
    "Area: peak memory. Hollow: over the limit. Dotted: the fastest for its error.",
    massive.some((error) => error > 0) ? "Line to the right: with a massive channel." : "",
    unknown.length ? `Without speed or fidelity: ${unknown.map(upper).join(", ")}.` : "",
  ];
  return make("figure", {}, svg, readout, make("figcaption", {}, legend.join(" ")));
}

// A point's name where it covers no other point and no other name: above, below, left, right, or higher
function label({x, y, r}, words, taken, frame) {
  const [wide, gap] = [8 * words.length, r + 4];
  const above = y - gap - 2;
  const places = [
    [x - wide / 2, above],
    [x - wide / 2, y + gap + 10],
    [x - gap - wide, y + 4],
    [x + gap, y + 4],
  ];
  for (let higher = 14; higher < 168; higher += 14) places.push([x - wide / 2, above - higher], [x + 4, above - higher]);
  const boxes = places.map(([x, y]) => ({x, y, left: x, right: x + wide, top: y - 11, bottom: y + 2}));
  const isFree = (box, other) =>
    box.right < other.left || box.left > other.right || box.bottom < other.top || box.top > other.bottom;
  const isInside = (box) =>
    box.left > frame.left && box.right <= frame.right && box.top >= frame.top && box.bottom <= frame.bottom;
  const box = boxes.find((box) => isInside(box) && taken.every((other) => isFree(box, other))) ?? boxes[0];
  taken.push(box);
  return make("text", {x: box.x, y: box.y, "aria-hidden": true}, words);
}

// ---- bars, matrix, table, downloads

function bars(card, most) {
  const chart = (metric) => {
    const [, unit, texts, , gains] = row(card, metric);
    if (!texts.length) return [];
    const items = card.precisions.map((name, i) => {
      const width = `width:${(100 * inOneUnit(card, metric, i)) / most[metric] || 0}%`;
      const gain = gains?.[i] ? [" ", make("span", {class: "gain"}, gains[i])] : [];
      const written = make("span", {}, texts[i], ...gain);
      const kind = {class: name === card.best ? "best" : null};
      return make("li", kind, make("span", {}, upper(name)), make("span", {class: "bar", style: width}), written);
    });
    return [make("div", {}, make("h3", {}, metric + (unit && `, ${unit}`)), make("ul", {}, ...items))];
  };
  return make("div", {class: "bars"}, ...[names.speed, names.memory, names.energy].flatMap(chart));
}

function matrix({cards}, shown) {
  const models = unique(cards.map((card) => card.model));
  const workloads = unique(cards.map((card) => card.workload));
  const cell = (model, workload) => {
    const card = cards.find((each) => each.model === model && each.workload === workload);
    if (!card) return make("td", {}, make("span", {}, "–"));
    const advice = card.best
      ? [make("b", {}, upper(card.best)), make("i", {}, `${card.gain.toFixed(2)}x`)]
      : [make("i", {}, "no advice")];
    const about = {href: address({model, workload}), "aria-current": card === shown || null, "data-key": `${model} ${workload}`};
    const link = make("a", about, make("span", {class: "hidden"}, `${title(card)}: `), ...advice);
    link.addEventListener("click", () => (isOpened = true));
    return make("td", {}, link);
  };
  const head = make("tr", {}, make("td"), ...models.map((model) => make("th", {scope: "col"}, size(model))));
  const body = workloads.map((each) =>
    make("tr", {}, make("th", {scope: "row"}, each), ...models.map((model) => cell(model, each))),
  );
  const caption = make("caption", {class: "small"}, "Precision and speedup over FP32, by workload and model");
  return make("table", {class: "matrix"}, caption, make("thead", {}, head), make("tbody", {}, ...body));
}

// asv's own graph of a metric for this machine, model and workload; what is in notes only has none
function graph(machine, card, metric) {
  const chosen = {machine, "p-model": `'${card.model}'`, "p-workload": `'${card.workload}'`};
  const query = Object.entries(chosen).map(([key, each]) => `${key}=${encodeURIComponent(each)}`);
  return `${data.links[metric]}?${query.join("&")}`;
}

function table({machine, card}, isWide) {
  const best = (i) => (card.precisions[i] === card.best ? "best" : null);
  const heads = card.precisions.map((name, i) => make("th", {scope: "col", class: best(i)}, (best(i) ? "✓ " : "") + upper(name)));
  const rows = card.rows.flatMap(([metric, unit, texts, spreads]) => {
    const about = {href: graph(machine.machine, card, metric), "aria-label": `${metric}, graph for ${title(card)}`};
    const link = data.links[metric] ? make("a", about, metric) : metric;
    const more = (unit && `, ${unit}`) + (spreads.length ? ` ±${Math.max(...spreads)}% at most` : "");
    const place = isWide ? {scope: "row"} : {scope: "rowgroup", colspan: texts.length};
    const name = make("th", place, link, make("span", {class: "muted"}, more));
    const cells = texts.map((text, i) => make("td", {class: best(i)}, text));
    return isWide ? [make("tr", {}, name, ...cells)] : [make("tr", {}, name), make("tr", {}, ...cells)];
  });
  const head = make("tr", {}, ...(isWide ? [make("th", {scope: "col"}, "Metric")] : []), ...heads);
  const caption = make("caption", {class: "hidden"}, `${title(card)}: each precision beside FP32`);
  return make("table", {class: "numbers"}, caption, make("thead", {}, head), make("tbody", {}, ...rows));
}

// The numbers of the table as files that are made here
function downloads({machine, commit, card}) {
  const {model, workload} = card;
  const rows = card.rows.flatMap(([metric, unit, texts, spreads, gains]) =>
    card.precisions.map((precision, i) => ({
      ...{machine: machine.machine, commit: commit.commit, model, workload, metric, unit, precision},
      value: Number.isNaN(number(texts[i])) ? null : number(texts[i]),
      spread_percent: spreads[i] ?? null,
      over_fp32: gains?.[i] ? parseFloat(gains[i]) : null,
    })),
  );
  // a spreadsheet would compute a text that begins like a formula
  const text = (each) =>
    `"${String(each ?? "")
      .replace(/^[=+\-@\t\r]/, "'$&")
      .replaceAll('"', '""')}"`;
  const lines = [Object.keys(rows[0]), ...rows.map(Object.values)].map((fields) =>
    fields.map((each) => (typeof each === "number" ? each : text(each))),
  );
  const name = `${size(model)}-${workload}-${short(commit.commit)}`;
  const link = (kind, type, content) =>
    make(
      "a",
      {download: `${name}.${kind.toLowerCase()}`, href: `data:${type};charset=utf-8,${encodeURIComponent(content)}`},
      kind,
    );
  const csv = link("CSV", "text/csv", lines.map((fields) => fields.join(",") + "\r\n").join(""));
  return make(
    "p",
    {class: "small"},
    "These numbers as ",
    csv,
    " and ",
    link("JSON", "application/json", JSON.stringify(rows, null, 1)),
  );
}

// ---- history

function trends(card, here) {
  return [here, ...data.machines.filter((each) => each !== here)].flatMap((machine) => {
    const points = [...machine.commits]
      .reverse()
      .map((commit) => ({
        commit,
        card: commit.cards.find((each) => each.model === card.model && each.workload === card.workload),
      }));
    if (points.filter((point) => point.card).length < 2) return [];
    const heading = `${title(card)}: tokens/s on ${machine.machine}, ${points[0].commit.date} to ${points.at(-1).commit.date}`;
    const precisions = unique([card, ...points.map((point) => point.card)].flatMap((each) => each?.precisions ?? []));
    const lines = precisions.flatMap((name) => trend(name, points));
    return [make("h3", {}, ...whole(heading)), make("div", {class: "history"}, ...lines)];
  });
}

function trend(name, points) {
  const texts = points.map(({card}) => (card ? row(card, names.speed)[2][card.precisions.indexOf(name)] : ""));
  const speeds = texts.map(number);
  const known = speeds.flatMap((speed, i) => (speed > 0 ? [i] : []));
  if (!known.length) return [];
  const [width, height] = [190, 40];
  const most = Math.max(...known.map((i) => speeds[i]));
  const least = Math.min(most / 1.5, ...known.map((i) => speeds[i]));
  const x = (i) => +(4 + ((width - 8) * i) / (points.length - 1)).toFixed(1);
  const y = (i) => +(height - 4 - ((height - 10) * (speeds[i] - least)) / (most - least)).toFixed(1);
  const [first, last] = [texts[known[0]], texts[known.at(-1)]];
  const about = `${upper(name)} by commit: from ${first} to ${last}`;
  const svg = make("svg", {width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": about});
  for (const i of known) {
    // a commit without the cell breaks the line
    if (speeds[i - 1] > 0) svg.append(make("line", {x1: x(i - 1), y1: y(i - 1), x2: x(i), y2: y(i)}));
  }
  for (const i of known) {
    const {commit, card} = points[i];
    const isSlower = card.worse?.some(([metric, precision]) => metric === names.speed && precision === name);
    const mark = isSlower
      ? make("path", {d: `M${x(i) - 5} ${y(i) - 3}h10l-5 8z`})
      : make("circle", {cx: x(i), cy: y(i), r: points.length > 60 ? 1 : 2.5});
    mark.append(make("title", {}, `${short(commit.commit)}, ${commit.date}: ${texts[i]}`));
    svg.append(mark);
  }
  return [make("div", {class: "trend"}, svg, make("span", {}, `${upper(name)} ${last}`))];
}

// The commits that made a model slower or larger, on every machine; each opens beside the commit before it
function worse(model) {
  const items = data.machines.flatMap(({machine, commits}) =>
    commits.flatMap((commit) => {
      const steps = commit.cards
        .filter((card) => card.model === model)
        .flatMap(({workload, worse = []}) => worse.map((step) => [workload, ...step]));
      return unique(steps.map(([, metric]) => metric)).map((metric) => {
        const same = steps.filter((step) => step[1] === metric);
        const [workload, , precision, times, since] = same[0];
        const where = {machine, commit: short(commit.commit), model, workload, beside: `${machine}@${since}`};
        const more = same.length > 1 ? `, and ${same.length - 1} more` : "";
        const said = ` on ${machine}: ${times} times the ${metric} (${upper(precision)}, ${workload}${more})`;
        return make("li", {}, make("a", {href: address(where)}, short(commit.commit)), ...whole(said));
      });
    }),
  );
  const heading = make("h3", {}, `Commits that made ${size(model)} slower or larger`);
  return [heading, items.length ? make("ul", {class: "small worse"}, ...items) : small("No recorded commit did.")];
}

// ---- the page

function list(heading, lines = []) {
  return lines.length
    ? [make("h3", {}, heading), make("ul", {class: "small"}, ...lines.map((line) => make("li", {}, ...whole(line))))]
    : [];
}

function section(view, width, most, isAlone) {
  const {machine, commit, card} = view;
  const isWide = width >= 720;
  const what = card ? title(card) : [size(view.model ?? "ESM-2"), view.workload].filter(Boolean).join(", ");
  const where = isAlone ? commit.device : `${machine.machine}, commit ${short(commit.commit)}`;
  const notes = [
    commit.failed && "failed cells",
    commit.changed && "embeddings that changed",
    commit.doubtful && "cells measured on a busy GPU",
  ].filter(Boolean);
  const instead = `is not recorded here: this is ${machine.machine}, ${short(commit.commit)}.`;
  const parts = [make("h2", {}, `${what} `, make("span", {class: "muted"}, `on ${where}`))];
  parts.push(...view.missing.map((name) => small(`${name} ${instead}`, "warn")));
  if (!card) parts.push(make("p", {class: "advice"}, "No recommendation: nothing was measured for this choice."));
  else if (!card.best) parts.push(small(card.advice));
  else {
    parts.push(make("p", {class: "advice"}, ...whole(card.advice)));
    // A sentence that rests on random weights is no recommendation, and must look like none
    const reservation = "Random weights: speed and memory are right, fidelity is not ESM-2's own";
    if (!card.recommended) parts.push(small(reservation, "warn"));
  }
  if (notes.length) parts.push(small(`Listed below: ${notes.join(", ")}.`, "warn"));

  const isDrawn = card && most[names.speed] > 0 && row(card, names.error)[2].length;
  const drawn = isDrawn ? [picture(card, isWide ? Math.floor((5 * (width - 24)) / 8) : width, most[names.speed])] : [];
  parts.push(make("div", {class: "first"}, ...drawn, ...(commit.cards.length ? [matrix(commit, card)] : [])));
  if (card) {
    parts.push(bars(card, most), make("h3", {}, `All numbers of ${title(card)}`), table(view, isWide));
    parts.push(...(card.more ? [small(card.more)] : []), downloads(view));
  }
  parts.push(...list("Failed", commit.failed));
  parts.push(...list("Embeddings that changed since the last commit before", commit.changed));
  parts.push(...list("Measured while the GPU was busy", commit.doubtful));
  const dates = `commit ${short(commit.commit)} of ${commit.date}, measured on ${commit.measured}`;
  const how = [`${commit.device} (${machine.about}), ${dates}`, commit.how, card?.size].filter(Boolean).join("; ");
  parts.push(make("h3", {}, "How it was measured"), small(how, "how"));
  parts.push(...list("Not run on this machine (n/a)", commit.skipped));
  return make("section", {class: `view ${isWide ? "wide" : "narrow"}`}, ...parts);
}

// An option and what it changes in the address; its text is its value, too
const option = (text, changes, selected) => Object.assign(make("option", {}, text), {changes, selected});

let isOpened = false; // whether a cell of the matrix was chosen

function show() {
  const {machine: name, commit: hash, model, workload, beside} = asked();
  const views = [find(name, hash, model, workload)];
  const [{machine, commit, card}] = views;
  const split = beside.lastIndexOf("@");
  if (beside) views.push(find(beside.slice(0, split), beside.slice(split + 1), views[0].model, workload || card?.workload));

  const said = (each) => `${short(each.commit)}, ${each.date}${each.changed ? ", changed" : ""}`;
  const machines = data.machines.map((each) => option(each.machine, {machine: each.machine, commit: ""}, each === machine));
  const here = (each) => option(said(each), {machine: machine.machine, commit: short(each.commit)}, each === commit);
  const groups = data.machines.map((each) => {
    const there = (other) => option(said(other), {beside: `${each.machine}@${short(other.commit)}`}, other === views[1]?.commit);
    return make("optgroup", {label: each.machine}, ...each.commits.map(there));
  });
  at("machine").replaceChildren(...machines);
  at("commit").replaceChildren(...machine.commits.map(here));
  at("beside").replaceChildren(option("nothing", {beside: ""}, !views[1]), ...groups);

  const all = (metric) => views.flatMap(({card}) => card?.precisions.map((_, i) => inOneUnit(card, metric, i)) ?? []);
  const largest = (metric) => Math.max(0, ...all(metric).filter((each) => each > 0)); // of both: they have one scale
  const most = Object.fromEntries([names.speed, names.memory, names.energy].map((metric) => [metric, largest(metric)]));
  const focused = document.activeElement?.dataset?.key;
  const main = at("main");
  main.className = views.length > 1 ? "two" : "";
  const columns = views.length > 1 && matchMedia("(min-width: 62rem)").matches ? 2 : 1;
  const padding = matchMedia("(max-width: 40rem)").matches ? 18 : 34; // with the border, as in the style sheet
  const width = Math.max(200, Math.floor((main.clientWidth - 24 * (columns - 1)) / columns) - padding);
  main.replaceChildren(...views.map((view) => section(view, width, most, views.length === 1)));
  if (card) {
    const kind = `view over-time ${main.clientWidth >= 720 ? "wide" : "narrow"}`;
    main.append(make("section", {class: kind}, ...trends(card, machine), ...worse(card.model)));
  }
  at("said").textContent = card ? `${title(card)} on ${commit.device}: ${card.advice}` : "";
  [...document.querySelectorAll("[data-key]")].find((each) => each.dataset.key === focused)?.focus({preventScroll: true});
  if (isOpened) document.querySelector("h2").scrollIntoView({block: "nearest"});
  isOpened = false;
}

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).text();
}

async function start() {
  const {type, textContent} = at("data");
  data = JSON.parse(type === "application/json" ? textContent : await unpack(textContent));
  names = data.names;
  if (!data.machines.length) {
    at("main").append(make("p", {}, "Nothing is recorded yet: run make bench."));
    return;
  }
  const cards = data.machines.flatMap((machine) => machine.commits.flatMap((commit) => commit.cards));
  const times = (workload) => cards.filter((card) => card.workload === workload).length;
  data.usual = unique(cards.map((card) => card.workload)).sort((one, other) => times(other) - times(one))[0];
  for (const select of document.querySelectorAll("select")) {
    select.addEventListener("change", () => (location.hash = address(select.selectedOptions[0].changes)));
  }
  for (const event of ["hashchange", "resize"]) addEventListener(event, show);
  show();
}

start().catch((error) => {
  at("main").textContent = `This page could not show its data (${error}). make precision prints it.`;
});
