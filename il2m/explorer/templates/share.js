// What the controls say is drawn, told in a sentence, and listed as numbers. All text from elsewhere (names of classes,
// runs and methods) reaches the page as text, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const { grid, runs } = data;
const { titles, origins } = data.classes;
const LAST = Math.max(...origins);
const [PAST, NEW, ALL, TRUTH] = ["#0072B2", "#D55E00", "#009E73", "#7F7F7F"];
const DOTTED = [2, 4], SOLID = [];
const GROUPS = { past: PAST, new: NEW, all: ALL };
const find = (id) => document.getElementById(id);
const form = find("controls");

const percent = (share, digits = 1) => (share === null ? "–" : `${(100 * share).toFixed(digits)} %`);
const decimal = (value) => (value === null || value === undefined ? "–" : value.toFixed(2).replace(/^-(0\.00)$/, "$1"));
const extent = (values) => {
  const known = values.filter((value) => Number.isFinite(value));
  const [low, high] = known.length ? [Math.min(...known), Math.max(...known)] : [0, 1];
  const room = 0.06 * (high - low || 1);
  return [low - room, high + room];
};
const states = (upTo) => Array.from({ length: upTo }, (_, place) => place + 1);
const label = (method) => data.methods[method].label;
const dashOf = (method) => ({ "--": [6, 4], ":": DOTTED })[data.methods[method].dash] ?? SOLID;

function make(tag, attributes = {}, ...content) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...content);
  return element;
}

const isOnScores = (method) => data.methods[method].score_kinds.includes("raw") && !data.methods[method].distances;
const unitOf = (method) => (isOnScores(method) ? "score" : data.methods[method].distances ? "negated distance" : "probability");

// What Eq. 1 multiplies a class's score by; null where it is undefined.
function ratioOf({ initial_means, current_means }, place) {
  const [when_new, now] = [initial_means[place], current_means[place]];
  return when_new > 0 && now > 0 ? when_new / now : null;
}

// Lines by state: of numbers (name -> values by state), the method's own, and FT's dotted beside them.
function linesOf(run, method, names, numbers) {
  const both = method === "FT" || !isOnScores(method) ? [method] : ["FT", method]; // other scales stand alone
  return both.flatMap((one) =>
    Object.entries(names).flatMap(([name, { title, colour }]) =>
      states(LAST)
        .map((state) => ({
          state, value: numbers(one)[name]?.[state - 1] ?? null, colour, strength: 1,
          line: one === method ? title : `${title}, FT`, dash: one === method ? SOLID : DOTTED,
        }))
        .filter((row) => row.value !== null)));
}

const blue = (part) => `color-mix(in srgb, ${PAST} ${Math.round(100 * part)}%, #9fb8c8)`;

function scoreLines(run, choice) {
  const together = { past: { title: "past classes", colour: PAST }, new: { title: "new classes", colour: NEW } };
  const apart = { new: together.new };
  for (const state of states(LAST - 1)) {
    apart[`from state ${state}`] = { title: `classes of state ${state}`, colour: blue(1 - (state - 1) / LAST) };
  }
  const names = choice.origin ? apart : together;
  return linesOf(run, choice.method, names, (method) => run["true-class scores"][method][LAST - 1][1]);
}

function accuracyLines(run, choice) {
  const strong = [choice.method, "FT", "IL2M"];
  return Object.entries(run.accuracy[choice.top]).filter(([method]) => method in data.methods).flatMap(([method, by]) =>
    by.map((value, place) => ({
      state: place + 1, value, line: label(method), colour: data.methods[method].colour,
      dash: dashOf(method),
      strength: strong.includes(method) ? 1 : 0.28,
    })));
}

function originBars(run, choice) {
  const at = (method) => run.predictions[method][choice.state - 1][1];
  const kinds = [["truth", at("FT").truth, 0], [label(choice.method), at(choice.method).predicted, 2]];
  if (choice.method !== "FT") kinds.splice(1, 0, ["FT", at("FT").predicted, 1]);
  return kinds.flatMap(([line, shares, place]) =>
    shares.map((value, index) => {
      const isNew = index + 1 === choice.state;
      const colour = place === 0 ? TRUTH : isNew ? NEW : PAST;
      const what = place === 0 ? line : `predicted as ${isNew ? "new" : "past"}, ${line}`;
      const dotted = place === 1;
      return {
        origin: index + 1, value, line: what, series: line, place, colour, fill: dotted ? "transparent" : colour,
        dash: dotted ? DOTTED : SOLID,
      };
    }));
}

function confusionCells(run, choice) {
  const [table, before] = [choice.method, "FT"].map((method) => run.states[method][choice.state - 1][1]);
  return states(choice.state).flatMap((predicted) =>
    table[`predicted ${predicted}`].map((value, index) => (
      { true: index + 1, predicted, value, FT: before[`predicted ${predicted}`][index] })));
}

function memoryPoints(run, choice) {
  const memory = run.memory[choice.state - 1];
  if (!memory) return [];
  return memory.initial_means.map((when_new, place) => {
    const now = memory.current_means[place], chosen = place === choice.label;
    return {
      when_new, now, ratio: ratioOf(memory, place), title: titles[place], place, origin: origins[place],
      colour: chosen ? NEW : PAST, strength: chosen ? 1 : 0.7, size: chosen ? 190 : 60, line: "",
    };
  }).filter((row) => row.origin < choice.state && row.when_new !== null && row.now !== null);
}

function classLines(run, choice) {
  const [place, origin] = [choice.label, origins[choice.label]];
  const numbers = (method) => ({ own: states(LAST).map((state) => (state < origin ? null : run.own[method][state - 1][place])) });
  return linesOf(run, choice.method, { own: { title: "its validation images", colour: PAST } }, numbers);
}

function point(run, choice, means, confidence, gate) {
  const found = run["what if"][choice.state - 2];
  const place = (means * grid.exponents.length + confidence) * grid.gates.length + gate;
  return Object.fromEntries(Object.keys(GROUPS).map((group) => [group, found[choice.top][group][place]]));
}
const [ONE, WHOLE_GATE] = [grid.exponents.indexOf(1), grid.gates.indexOf(1)];
const ownPoint = (run, choice) => point(run, choice, ONE, ONE, WHOLE_GATE);
const chosenPoint = (run, choice) => point(run, choice, choice.means, choice.confidence, choice.gate);

function bestPoint(run, choice) {
  const shares = run["what if"][choice.state - 2][choice.top].all;
  const place = shares.indexOf(Math.max(...shares)), gates = grid.gates.length, many = grid.exponents.length;
  const parts = [Math.floor(place / gates / many), Math.floor(place / gates) % many, place % gates];
  return { parts, shares: point(run, choice, ...parts) };
}

function whatIfRows(run, choice, factor) {
  if (!run["what if"].length) return [];
  const before = point(run, choice, 0, 0, WHOLE_GATE), own = ownPoint(run, choice);
  return Object.entries(GROUPS).filter(([group]) => before[group] !== null).flatMap(([group, colour]) => {
    const line = group === "all" ? "all images" : `images of ${group} classes`;
    const rows = grid.exponents.flatMap((exponent, place) => {
      const [means, confidence] = factor === "means" ? [place, choice.confidence] : [choice.means, place];
      const value = point(run, choice, means, confidence, choice.gate)[group];
      return [
        { kind: "line", line, exponent, value, colour, dash: SOLID },
        { kind: "line", line: `${line}, FT`, key: "fine-tuning", exponent, value: before[group], colour, dash: DOTTED },
      ];
    });
    const name = "IL2M's own choice";
    return [...rows, { kind: "own", line: `${line}, ${name}`, key: name, exponent: 1, value: own[group], colour }];
  });
}

const shared = (rowsByRun, name) => extent(rowsByRun.flat().map((row) => row[name]));
const byState = (rows, choice, all, y, numbers, [low, high] = shared(all, "value")) => (
  { figure: "by_state", rows, titles: { y }, signals: { state: choice.state, last: Math.max(LAST, 2), low, high, numbers } });

// The lowest and highest accuracy anywhere on the grid, of all runs: axes stay where they are while sliders move.
function whatIfRange(choice) {
  const found = runs.flatMap((run) => run["what if"].slice(choice.state - 2, choice.state - 1)).map((each) => each[choice.top]);
  const [low, high] = extent(found.flatMap((groups) => Object.values(groups).flat()));
  return { low: Math.max(0, low), high: Math.min(1, high) };
}

// A view: the controls it uses, what one sees in it, its figures of a run (with axes that all runs share), what is found
// (if the notebook's sentence was not kept), its tables of numbers, and the method whose undefined ratios are told.
const VIEWS = {
  "true-class scores": {
    uses: ["state", "method", "origin"],
    hint: "The mean score of each image's true class (the paper's Fig. 1). Past classes score below new ones after fine-tuning: this is the bias. A correction should bring the two lines together.",
    figures: (run, choice) => [byState(scoreLines(run, choice), choice, runs.map((each) => scoreLines(each, choice)), `mean true-class ${unitOf(choice.method)}`, ".2f")],
    tables: ([rows]) => [pivot(rows, ["line", "images of"], ["state", "state"], decimal)],
  },
  predictions: {
    uses: ["state", "method"],
    hint: "Where predictions go, by the state in which the predicted class was new, against where they should go. Too many go to the newest state.",
    figures: (run, choice) => [{
      figure: "predictions", rows: originBars(run, choice),
      signals: { high: shared(runs.map((each) => originBars(each, choice)), "value")[1] },
    }],
    tables: ([rows]) => [pivot(rows, ["series", "classes of"], ["origin", "state"], percent)],
  },
  states: {
    uses: ["state", "method"],
    hint: "Of the images whose class came in one state (row), how many are taken for classes of which state (column). The last column is the pull of the newest classes.",
    figures: (run, choice) => [{ figure: "confusion", rows: confusionCells(run, choice), signals: { labelled: choice.state <= 12 } }],
    tables: ([rows]) => [pivot(rows, ["true", "true state"], ["predicted", "taken for state"], percent)],
  },
  "one class": {
    uses: ["state", "method", "label"],
    hint: "First the second memory: a class below the diagonal scores lower now than when it was new, and Eq. 1 raises it by the ratio. Below, the mean score of the class on its own validation images, state by state. A click on a point chooses its class.",
    figures: (run, choice) => {
      const [low, high] = extent(runs.flatMap((each) => memoryPoints(each, choice)).flatMap((row) => [row.when_new, row.now]));
      const lines = classLines(run, choice), all = runs.map((each) => classLines(each, choice));
      return [{ figure: "class_means", rows: memoryPoints(run, choice), signals: { low, high } },
        byState(lines, choice, all, `mean ${unitOf(choice.method)} of this class`, ".2f")];
    },
    found: (run, choice) => {
      const [place, origin] = [choice.label, origins[choice.label]], name = `class ${titles[place]}`;
      if (origin > choice.state) return `${name} is learned at state ${origin}, after state ${choice.state}`;
      const [then, now] = [origin, choice.state].map((state) => run.own[choice.method][state - 1][place]);
      const memory = run.memory[choice.state - 1];
      const ratio = memory && isOnScores(choice.method) && origin < choice.state ? ratioOf(memory, place) : null;
      const told = ratio === null ? "" : `; in the second memory μ_P / μ_N = ${decimal(ratio)}`;
      return `${name}: mean ${unitOf(choice.method)} of its validation images ${decimal(then)} when new, ${decimal(now)} now${told}`;
    },
    tables: ([points, lines], run, choice) => [pivot(lines, ["line", `mean ${unitOf(choice.method)} of`], ["state", "state"], decimal), {
      head: ["class", "new at state", "μ_P", "μ_N", "μ_P / μ_N"],
      body: points.map((row) => [row.title, row.origin, ...[row.when_new, row.now, row.ratio].map(decimal)]),
    }],
    noteOf: (choice) => (choice.method in runs[0].notes && choice.method !== "FT" ? choice.method : "IL2M"),
  },
  accuracy: {
    uses: ["state", "method", "top"],
    hint: "Accuracy on all classes seen so far. The chosen method, fine-tuning and IL2M stand out; oracles, which know what no method may, are broken lines.",
    figures: (run, choice) => [byState(accuracyLines(run, choice), choice, runs.map((each) => accuracyLines(each, choice)), `top-${choice.top} accuracy`, ".1~%")],
    found: (run, choice) => {
      const [now, before] = [choice.method, "FT"].map((method) => run.accuracy[choice.top][method][choice.state - 1]);
      const than = choice.method === "FT" ? "" : `; FT: ${percent(before)}`;
      return `${label(choice.method)}: ${percent(now)}${than} (top-${choice.top}, state ${choice.state})`;
    },
    tables: ([rows]) => [pivot(rows, ["line", "method"], ["state", "state"], percent)],
  },
  "what if": {
    uses: ["state", "top", "means", "confidence", "gate", "reset"],
    lowest: 2,
    hint: "Accuracy had Eq. 1 other exponents: 0 switches a factor off, 1 is IL2M. With the gate on, images predicted as a past class are left alone; off, they are changed like the others. Dotted: fine-tuning. Diamonds: IL2M's own choice.",
    figures: (run, choice) => ["means", "confidence"].map((factor) => ({
      figure: "what_if", rows: whatIfRows(run, choice, factor), signals: { chosen: grid.exponents[choice[factor]], ...whatIfRange(choice) },
      titles: { x: `exponent of the ${factor === "means" ? "class means" : "confidence"}`, y: `top-${choice.top} accuracy` },
    })),
    found: (run, choice) => {
      if (!run["what if"].length) return LAST === 1 ? "no past classes yet" : "IL2M can't be computed of this run";
      const best = bestPoint(run, choice), [means, confidence] = best.parts.map((place) => grid.exponents[place]);
      return `all: ${percent(chosenPoint(run, choice).all)} with your choice, ${percent(ownPoint(run, choice).all)} with IL2M's own; `
        + `best ${percent(best.shares.all)} (class means ${means}, confidence ${confidence}, gate ${best.parts[2] === WHOLE_GATE ? "on" : "off"})`;
    },
    noteOf: () => "IL2M",
    tables: (_, run, choice) => (!run["what if"].length ? [] : [{
      head: ["exponents", "past", "new", "all"],
      body: Object.entries({
        "fine-tuning": point(run, choice, 0, 0, WHOLE_GATE), "IL2M's own choice": ownPoint(run, choice),
        "your choice": chosenPoint(run, choice), "best of the grid": bestPoint(run, choice).shares,
      }).map(([name, shares]) => [name, ...Object.values(shares).map((share) => percent(share, 2))]),
    }]),
  },
};

const drawn = { name: "", views: [] }; // the view that is on the page, and its Vega views by run and figure

function choiceNow() {
  const given = Object.fromEntries(new FormData(form));
  for (const name of ["state", "top", "label", "means", "confidence"]) given[name] = Number(given[name]);
  given.gate = grid.gates.indexOf(Number(given.gate));
  given.state = Math.max(given.state, Math.min(LAST, VIEWS[given.view].lowest ?? 1));
  return given;
}

function showControls(choice) {
  for (const control of form.querySelectorAll("[data-control]")) {
    control.hidden = !VIEWS[choice.view].uses.includes(control.dataset.control);
  }
  const told = {
    state: `${choice.state} of ${LAST}`, means: grid.exponents[choice.means], confidence: grid.exponents[choice.confidence],
  };
  for (const [name, value] of Object.entries(told)) {
    form.elements[name].parentElement.querySelector(".value").textContent = value;
    form.elements[name].setAttribute("aria-valuetext", value);
  }
  find("equation").hidden = choice.view !== "what if";
  find("means-exponent").textContent = told.means;
  find("confidence-exponent").textContent = told.confidence;
  find("gate-in-words").textContent = choice.gate === WHOLE_GATE ? "for images predicted as a new class" : "for all images";
}

function showWords(choice) {
  const view = VIEWS[choice.view], method = view.uses.includes("method") ? `${label(choice.method)}, ` : "";
  find("title").textContent = `${choice.view[0].toUpperCase()}${choice.view.slice(1)} (${method}state ${choice.state})`;
  find("hint").textContent = view.hint;
  const asked = view.noteOf ? view.noteOf(choice) : choice.method;
  const notes = runs.map((run) => [run.label, run.notes[asked]?.[choice.state - 1]]).filter(([, note]) => note);
  find("status").replaceChildren(...notes.map(([name, note]) => make("p", { class: "note" }, `${name}: ${note}`)));
}

const found = (run, choice) => {
  const view = VIEWS[choice.view];
  return view.found ? view.found(run, choice) : run[choice.view][choice.method][choice.state - 1][0];
};

function showLegend(figures) {
  const lines = new Map();
  for (const row of figures.flat().flatMap((each) => each.rows)) {
    const name = row.key ?? row.line;
    if (name && !lines.has(name)) lines.set(name, row);
  }
  const space = "http://www.w3.org/2000/svg";
  find("legend").replaceChildren(...[...lines].map(([name, row]) => {
    const picture = document.createElementNS(space, "svg"), stroke = document.createElementNS(space, "path");
    const looks = { d: row.kind === "own" ? "M13 1 L18 6 L13 11 L8 6 Z" : "M1 6 H25", stroke: row.key ? "currentColor" : row.colour, fill: "none" };
    looks["stroke-width"] = row.kind === "own" ? 2 : 3;
    looks["stroke-dasharray"] = (row.dash ?? []).join(" ");
    for (const [key, value] of Object.entries(looks)) stroke.setAttribute(key, value);
    picture.setAttribute("aria-hidden", "true");
    picture.append(stroke);
    return make("li", {}, picture, name);
  }));
}

// A table of rows: one line of it per value of ``down``, one column per value of ``across``.
function pivot(rows, [down, head], [across, what], show) {
  const heads = [...new Set(rows.map((row) => row[across]))].sort((a, b) => a - b), lines = new Map();
  for (const row of rows) lines.set(row[down], { ...lines.get(row[down]), [row[across]]: show(row.value) });
  const body = [...lines].map(([name, cells]) => [name, ...heads.map((each) => cells[each] ?? "")]);
  return { head: [head, ...heads.map((each) => `${what} ${each}`)], body };
}

function showNumbers(choice, figures) {
  const tables = runs.flatMap((run, place) => (
    VIEWS[choice.view].tables(figures[place].map((figure) => figure.rows), run, choice).map(({ head, body }) => make(
      "table", {}, make("caption", {}, run.label),
      make("thead", {}, make("tr", {}, ...head.map((text) => make("th", { scope: "col" }, text)))),
      make("tbody", {}, ...body.map(([name, ...cells]) => make(
        "tr", {}, make("th", { scope: "row" }, String(name)), ...cells.map((text) => make("td", {}, String(text)))))),
    ))));
  find("numbers").querySelector("div").replaceChildren(...tables);
}

async function embed({ figure, rows, signals, titles: axes = {} }, holder) {
  const { config, [figure]: kept } = data.figures, spec = structuredClone(kept);
  spec.data.values = rows;
  for (const param of spec.params) param.value = signals[param.name] ?? param.value;
  for (const [axis, title] of Object.entries(axes)) spec.encoding[axis].title = title;
  const { view } = await window.vegaEmbed(holder, spec, {
    ast: true, actions: false, config, defaultStyle: false, renderer: "svg", tooltip: { disableDefaultStyle: true },
  });
  view.addEventListener("click", (_, item) => {
    if (!item?.datum?.title) return; // no point of a class
    form.elements.label.value = item.datum.place;
    update();
  });
  return view;
}

async function draw(choice, figures) {
  const shape = [choice.view, choice.top, unitOf(choice.method), ...figures.map((of_run) => of_run.length)].join(" ");
  if (drawn.name !== shape) {
    drawn.views.flat().forEach((view) => view.finalize());
    const holders = figures.map((of_run, place) => {
      const children = of_run.map(() => make("div", { class: "figure", role: "img" }));
      const told = make("p", { class: "found" });
      return { children, section: make("div", { class: "run" }, make("h3", {}, runs[place].label), told, ...children) };
    });
    find("runs").replaceChildren(...holders.map((holder) => holder.section));
    drawn.views = await Promise.all(figures.map((of_run, run) => (
      Promise.all(of_run.map((figure, place) => embed(figure, holders[run].children[place]))))));
    drawn.name = shape;
  } else {
    await Promise.all(figures.flatMap((of_run, run) => of_run.map((figure, place) => {
      const view = drawn.views[run][place];
      for (const [name, value] of Object.entries(figure.signals)) view.signal(name, value);
      return view.data("rows", figure.rows).runAsync();
    })));
  }
  figures.forEach((of_run, run) => {
    const section = find("runs").children[run], sentence = found(runs[run], choice);
    section.querySelector(".found").textContent = sentence;
    section.querySelectorAll(".figure").forEach((holder, place) => {
      const axes = of_run.length > 1 ? ` (figure ${place + 1} of ${of_run.length})` : "";
      holder.setAttribute("aria-label", `${choice.view}, ${runs[run].label}${axes}: ${sentence}`);
    });
  });
}

let asked = null, working = false;
async function update() {
  asked = choiceNow();
  if (working) return; // it takes what is asked for last
  working = true;
  document.body.dataset.drawn = "no";
  while (asked) {
    const choice = asked, all = runs.map((run) => VIEWS[choice.view].figures(run, choice));
    const figures = all.map((of_run) => of_run.filter((figure) => figure.rows.length));
    asked = null;
    showControls(choice);
    showWords(choice);
    showLegend(figures);
    showNumbers(choice, all);
    await draw(choice, figures);
  }
  working = false;
  document.body.dataset.drawn = "yes";
}

function option(value, text) {
  return make("option", { value }, text);
}

function fillControls() {
  const { state, method, label: classes, means, confidence, gate } = form.elements;
  find("view").append(...Object.keys(VIEWS).map((name) => (
    make("label", {}, make("input", { type: "radio", name: "view", value: name }), make("span", {}, name)))));
  form.querySelector("input[name=view]").checked = true;
  [state.max, state.value] = [LAST, LAST];
  method.append(...Object.keys(data.methods).map((name) => option(name, label(name))));
  classes.append(...titles.map((title, place) => option(place, title)));
  for (const slider of [means, confidence]) [slider.max, slider.value] = [grid.exponents.length - 1, ONE];
  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.querySelector("button").addEventListener("click", () => {
    for (const slider of [means, confidence]) slider.value = ONE;
    gate.value = 1;
    update();
  });
}

function fillFacts() {
  const facts = {
    run: (about) => about.run, "data set": (about) => about.dataset, "states S": (about) => about.num_states,
    "classes per state": () => countsInWords(), "exemplars K": (about) => about.memory_size, head: (about) => about.head || null,
    distillation: (about) => (about.distillation === null ? null : about.distillation ? "on" : "off"),
    "class order": (about) => [about.class_order, about.order_seed === null ? null : `(order seed ${about.order_seed})`].filter(Boolean).join(" ") || null,
    "training seed": (about) => about.train_seed,
    "state digests": (about) => Object.entries(about.digests).map(([state, digest]) => `${state}: ${digest}`).join(" "),
  };
  const rows = Object.entries(facts).map(([name, tell]) => (
    make("tr", {}, make("th", { scope: "row" }, name), ...runs.map((run) => make("td", {}, String(tell(run.about) ?? "not told"))))));
  const head = make("tr", {}, make("td"), ...runs.map((run) => make("th", { scope: "col" }, run.label)));
  find("facts").append(make("thead", {}, head), make("tbody", {}, ...rows));
  const left = runs.flatMap((run) => Object.entries(run.about.left_out).map(([method, why]) => (
    make("li", {}, `${method}: ${run.label}: ${why}`))));
  if (left.length) {
    find("left-out").append(make("details", {}, make("summary", {}, "Methods left out"), make("ul", {}, ...left)));
  }
  const steps = runs.flatMap((run) => run["what if"].map((each) => each.step)), most = Math.max(1, ...steps);
  if (most > 1) find("sampled").textContent = ` They are of a part of the images: down to one in ${most}.`;
}

function countsInWords() {
  const counts = states(LAST).map((state) => origins.filter((origin) => origin === state).length);
  return new Set(counts).size === 1 ? counts[0] : counts.join(", ");
}

fillControls();
fillFacts();
window.explorer = { data, drawn, form, update };
await update();
