// Answers the page's forms in place. Without this file they are plain GET forms.
//
// Names, classes and messages are foreign text: they reach the page as text nodes and never as markup. Nothing is
// read from a form by property, since a feature may be called `action` or `elements` and would stand in for it.

const CLASSES_SHOWN = 10;
const TIMEOUT_MS = 35_000;

/** An element with text or elements in it. */
function el(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

/** A probability in four digits, never rounded to what it is not. */
function shown(p) {
  if (p > 0 && p < 0.0001) return "< 0.0001";
  if (p < 1 && p > 0.9999) return "> 0.9999";
  return p.toFixed(4);
}

/** A text of JavaScript's with single quotes, in which JSON stays legible. */
function literal(text) {
  return `'${text.replaceAll("\\", "\\\\").replaceAll("'", "\\'")}'`;
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

class Trial {
  constructor(root) {
    this.root = root;
    this.fields = [...root.querySelectorAll("[data-feature]")];
    this.picker = root.querySelector("[data-picker]");
    this.verdict = root.querySelector(".verdict");
    this.result = root.querySelector(".result");
    this.calls = [...root.querySelectorAll("[data-template]")];
    this.pending = null;

    // The server checks the values and says what is wrong with which: one judge, one wording.
    root.querySelector("button[type=submit]").formNoValidate = true;
    root.querySelector(".answer").hidden = false;
    root.addEventListener("submit", (event) => {
      event.preventDefault();
      this.predict();
    });
    root.addEventListener("input", (event) => {
      if (this.fields.includes(event.target)) this.blame(event.target, null);
      this.refresh();
    });
    for (const call of this.calls) {
      const button = call.closest(".call").querySelector("[data-copy]");
      button.hidden = false;
      button.addEventListener("click", () => copy(call, button));
    }
    this.refresh();
  }

  url() {
    const url = new URL(this.root.dataset.predict, document.baseURI);
    if (this.picker) url.searchParams.set("version", this.picker.value);
    return url.href;
  }

  /** The record as JSON, or with other names for the truth values as Python; an empty field is left out. */
  body(truths = { true: "true", false: "false" }) {
    const record = [];
    for (const field of this.fields) {
      const isNumber = field.type === "number";
      const isOptional = isNumber || field.dataset.kind === "text";
      if (isOptional && field.value === "" && (isNumber || !field.required)) continue;
      let value = JSON.stringify(isNumber ? field.valueAsNumber : field.value);
      // As it stands: a number here would round what is above 2^53.
      if (field.dataset.kind === "integer" && /^-?\d+$/.test(field.value)) value = BigInt(field.value).toString();
      if (field.dataset.kind === "truth") value = truths[field.value];
      record.push(`${JSON.stringify(field.dataset.feature)}:${value}`);
    }
    return `[{${record.join(",")}}]`;
  }

  refresh() {
    for (const field of this.fields) {
      if (field.type !== "number") continue;
      const value = field.valueAsNumber;
      const outside = value < Number(field.dataset.min) || value > Number(field.dataset.max);
      this.beside(field, "hint").hidden = !outside;
    }
    const url = new URL(this.url());
    const values = { url: url.href, records: this.body(), row: this.row(), version: this.picker?.value ?? "" };
    values.python = this.body({ true: "True", false: "False" });
    // tritonclient wants neither the scheme nor a slash at the end.
    for (const field of this.fields) values[`tensor${field.dataset.tensor}`] ??= this.tensor(field.dataset.tensor);
    values.host = `${url.host}${new URL(".", document.baseURI).pathname}`.replace(/\/$/, "");
    const styles = { sh: quoted, js: literal, json: JSON.stringify };
    const filled = (slot, name, style) => (name in values ? (styles[style] ?? String)(values[name]) : slot);
    for (const call of this.calls) {
      call.textContent = call.dataset.template.replace(/\{\{(\w+)(?:\|(\w+))?\}\}/g, filled);
    }
  }

  /** The row as the model gets it: categories by their place, defaults for what is left out. */
  row() {
    const value = (field) => (field.type === "number" ? field.value || (field.dataset.default ?? "0") : field.selectedIndex);
    return `[${this.fields.map(value).join(", ")}]`;
  }

  /** What goes to one of several inputs, as Python writes it. */
  tensor(place) {
    const cell = (field) => {
      const { kind } = field.dataset;
      const value = field.value === "" ? (field.dataset.default ?? "") : field.value;
      if (kind === "truth") return value === "true" ? "True" : "False";
      if (kind === "category") return field.selectedIndex;
      if (kind === "name" || kind === "text") return JSON.stringify(value);
      return value === "" ? "0" : value;
    };
    return `[${this.fields.filter((field) => field.dataset.tensor === place).map(cell).join(", ")}]`;
  }

  beside(field, className) {
    return field.closest(".field").querySelector(`.${className}`);
  }

  /** Shows `fault` beside the field, or that there is none. */
  blame(field, fault) {
    const place = this.beside(field, "fault");
    place.textContent = fault ?? "";
    place.hidden = fault === null;
    if (fault === null) field.removeAttribute("aria-invalid");
    else field.setAttribute("aria-invalid", "true");
  }

  async predict() {
    this.pending?.abort();
    this.result.removeAttribute("aria-busy");
    const pending = (this.pending = new AbortController());
    for (const field of this.fields) this.blame(field, null);
    const unreadable = this.fields.filter((field) => field.validity.badInput);
    if (unreadable.length > 0) {
      for (const field of unreadable) this.blame(field, "This is not a number.");
      this.fail("Not sent: a value is not a number.");
      unreadable[0].focus();
      return;
    }
    this.result.setAttribute("aria-busy", "true");
    const begun = performance.now();
    let response, text;
    try {
      response = await fetch(this.url(), {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: this.body(),
        signal: AbortSignal.any([pending.signal, AbortSignal.timeout(TIMEOUT_MS)]),
      });
      text = await response.text();
    } catch (error) {
      // Another prediction was asked for meanwhile, and its answer is the one to show.
      if (pending.signal.aborted) return;
      this.result.removeAttribute("aria-busy");
      const late = error.name === "TimeoutError";
      this.fail(late ? "The server did not answer in time." : "The server cannot be reached.");
      return;
    }
    this.result.removeAttribute("aria-busy");
    this.show(response, text, performance.now() - begun);
  }

  show(response, text, tookMs) {
    const took = `${tookMs.toFixed(tookMs < 100 ? 1 : 0)} ms`;
    const facts = { "round trip": took, "request id": response.headers.get("x-request-id") };
    let answer;
    try {
      answer = JSON.parse(text);
    } catch {
      answer = null;
    }
    if (response.ok && Array.isArray(answer?.label)) this.accept(answer, facts);
    else if (response.ok && Array.isArray(answer?.prediction)) this.acceptValues(answer, text, facts);
    else if (!response.ok && typeof answer?.error === "string") this.refuse(response.status, answer, facts);
    else this.fail(`Status ${response.status}, but not from this server: something on the way to it answered.`, facts);
  }

  accept(answer, facts) {
    const [label] = answer.label;
    const [predicted] = answer.prediction;
    const [probability] = answer.probability;
    const asked = this.picker?.value ?? this.root.dataset.version;
    const known = JSON.parse(this.root.dataset.classes);
    const same = known.length === probability.length && known[predicted] === label;
    const name = (i) => (i === predicted ? label : same ? known[i] : `class ${i}`);

    let rows = probability.map((p, i) => ({ p, i }));
    if (rows.length > CLASSES_SHOWN) rows = rows.sort((a, b) => b.p - a.p).slice(0, CLASSES_SHOWN);
    const list = el("ul", "bars");
    for (const { p, i } of rows) {
      const bar = el("span", "bar");
      bar.style.setProperty("--p", p);
      bar.setAttribute("aria-hidden", "true");
      const parts = [el("span", "class", name(i)), bar, el("span", "p", shown(p))];
      list.append(el("li", i === predicted ? "predicted" : "", ...parts));
    }
    const parts = [list];
    const others = probability.length - rows.length;
    if (others > 0) parts.push(el("p", "muted", `and ${others} less probable ${others === 1 ? "class" : "classes"}`));
    if (asked && answer.version !== asked) {
      const changed = `Version ${answer.version} answered, and this page shows ${asked}: reload it.`;
      parts.push(el("p", "notice", changed));
    }
    this.verdict.className = "verdict";
    this.verdict.replaceChildren(el("strong", "", label), ` with probability ${shown(probability[predicted])}`);
    const origin = { model: `${answer.model} ${answer.version}`, commit: answer.commit?.slice(0, 10) };
    this.result.replaceChildren(...parts, details({ ...origin, ...facts }));
  }

  /** The answer of a model that is no classifier: the text of each output, since a number here would round integers. */
  acceptValues(answer, text, facts) {
    const outputs = answer.outputs ?? { prediction: answer.prediction };
    const shown = Object.entries(outputs).map(([name, [value]]) => {
      const exact = typeof value === "number" && !Number.isSafeInteger(value) && Number.isInteger(value);
      return [name, exact ? "see the whole answer" : JSON.stringify(value)];
    });
    this.verdict.className = "verdict";
    this.verdict.replaceChildren(el("strong", "", shown[0][1]));
    const origin = { model: `${answer.model} ${answer.version}`, commit: answer.commit?.slice(0, 10) };
    const whole = el("pre", "", el("code", "", text));
    this.result.replaceChildren(details(Object.fromEntries(shown)), whole, details({ ...origin, ...facts }));
  }

  refuse(status, answer, facts) {
    const rest = [];
    for (const { feature, expected, got } of answer.details ?? []) {
      const fault = `Expected ${expected}; got ${got}.`;
      const field = this.fields.find((field) => field.dataset.feature === feature);
      if (field) this.blame(field, fault);
      else rest.push(el("li", "", `${feature}: ${fault}`));
    }
    const blamed = this.fields.filter((field) => field.hasAttribute("aria-invalid"));
    const one = "One value was not taken; it is marked.";
    const many = `${blamed.length} values were not taken; they are marked.`;
    const message = blamed.length > 1 ? many : blamed.length === 1 ? one : answer.error;
    const list = rest.length > 0 ? [el("ul", "", ...rest)] : [];
    this.fail(message, { status: `${status} ${answer.code}`, ...facts }, list);
    blamed[0]?.focus();
  }

  fail(message, facts = {}, parts = []) {
    this.verdict.className = "verdict bad";
    this.verdict.textContent = message;
    this.result.replaceChildren(...parts, details(facts));
  }
}

/** Facts about an answer; those that there are not are left out. */
function details(facts) {
  const list = el("dl", "facts");
  for (const [name, value] of Object.entries(facts)) {
    if (value) list.append(el("div", "", el("dt", "", name), el("dd", "", value)));
  }
  return list;
}

/** Copies what `source` shows. The clipboard is there only in secure contexts; elsewhere the text is selected. */
async function copy(source, button) {
  let done = true;
  try {
    await navigator.clipboard.writeText(source.textContent);
  } catch {
    getSelection().selectAllChildren(source);
    done = document.execCommand("copy");
  }
  button.textContent = done ? "Copied" : "Selected";
  setTimeout(() => (button.textContent = "Copy"), 2000);
}

for (const root of document.querySelectorAll("[data-predict]")) new Trial(root);
