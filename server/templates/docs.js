// Sends the requests of the reference and shows their answers. Without this file they can be read and copied.
//
// What is shown is text and never markup: bodies and answers are foreign.

const TIMEOUT_MS = 35_000;

class Trial {
  constructor(form) {
    this.form = form;
    this.examples = form.querySelector("[data-examples]");
    this.query = form.querySelector("input[data-query]");
    this.body = form.querySelector("textarea[data-body]");
    this.kind = form.querySelector("label [data-kind]");
    this.verdict = form.querySelector(".verdict");
    this.answer = form.querySelector("[data-answer]");
    this.pending = null;
    form.hidden = false;
    this.examples.addEventListener("change", () => this.fill());
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    this.fill();
  }

  fill() {
    const { query, kind, body } = this.examples.selectedOptions[0].dataset;
    if (this.query) this.query.value = query;
    if (this.body) this.body.value = body;
    if (this.kind) this.kind.textContent = kind;
  }

  async send() {
    this.pending?.abort();
    const pending = (this.pending = new AbortController());
    const method = this.form.dataset.method;
    const url = new URL(this.form.dataset.ask, document.baseURI);
    if (this.query) url.search = this.query.value;
    const options = { method, signal: AbortSignal.any([pending.signal, AbortSignal.timeout(TIMEOUT_MS)]) };
    if (this.body) {
      options.body = this.body.value;
      // An example without a body has no type either.
      if (this.kind.textContent) options.headers = { "content-type": this.kind.textContent };
    }
    this.say("…", false);
    const begun = performance.now();
    let response, text;
    try {
      response = await fetch(url, options);
      text = await response.text();
    } catch (error) {
      if (pending.signal.aborted) return;
      this.answer.hidden = true;
      const late = error.name === "TimeoutError";
      this.say(late ? "The server did not answer in time." : "The server cannot be reached.", true);
      return;
    }
    this.say(`${response.status} in ${(performance.now() - begun).toFixed(1)} ms`, !response.ok);
    this.answer.hidden = false;
    this.answer.querySelector("code").textContent = pretty(text);
  }

  say(text, bad) {
    this.verdict.className = bad ? "verdict bad" : "verdict";
    this.verdict.textContent = text;
  }
}

/** JSON with its structure to be seen; anything else as it is. */
function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

for (const form of document.querySelectorAll("[data-ask]")) new Trial(form);

// A link to an operation opens it.
function open() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) target.open = true;
}
addEventListener("hashchange", open);
open();
