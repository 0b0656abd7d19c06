// Holds custom resources and dashboards against the types that their makers publish: node custom.mjs CASES.json
//
// A case has a name and either an `object` (a custom resource) or a `dashboard`. Prints one line of JSON per case: the
// problems found. Two looks at each: the published validators know patterns and ranges, and let unknown fields pass;
// TypeScript's compiler knows every field, and no pattern.

import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";

const modules = process.env.MANIFESTS_NODE;
const require = createRequire(join(modules, "package.json"));
const ts = require("typescript");
const PACKAGES = {
  "argoproj.io": "argo-cd",
  "source.toolkit.fluxcd.io": "flux-cd",
  "kustomize.toolkit.fluxcd.io": "flux-cd",
  "notification.toolkit.fluxcd.io": "flux-cd",
  "gateway.networking.k8s.io": "gateway-api",
  "networking.gke.io": "gke",
  "networking.istio.io": "istio",
  "security.istio.io": "istio",
  "keda.sh": "keda",
  "monitoring.coreos.com": "prometheus-operator",
};

const cases = JSON.parse(readFileSync(process.argv[2], "utf8"));
const problems = new Map(cases.map((one) => [one.name, []]));
// JSON has no enums: where a type wants one, its text will do.
const PLAIN =
  "type Plain<T> = 0 extends 1 & T ? T : T extends string ? `${T}` : T extends number | boolean | null | undefined ? T :" +
  " T extends (infer U)[] ? Plain<U>[] : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;";
const lines = [PLAIN];
const owners = [undefined];
const add = (owner, text) => {
  lines.push(text);
  owners.push(owner);
};

for (const one of cases) {
  if (one.dashboard) {
    // Panels one by one: a row is another type, and a fault is then told of its panel.
    const { panels, ...rest } = one.dashboard;
    // What an annotation asks is its data source's own, and the schema leaves it out.
    for (const annotation of rest.annotations.list) for (const own of ["expr", "titleFormat", "textFormat", "step"]) delete annotation[own];
    const i = owners.length;
    add(one.name, `import type { Dashboard as D${i}, Panel as P${i}, RowPanel as R${i} } from "@grafana/schema";`);
    add(one.name, `export const d${i}: Plain<D${i}> = ${JSON.stringify(rest)};`);
    for (const panel of panels) {
      const type = panel.type === "row" ? `R${i}` : `P${i}`;
      add(one.name, `export const p${owners.length}: Plain<${type}> = ${JSON.stringify(panel)};`);
    }
    continue;
  }
  const [group, version] = one.object.apiVersion.split("/");
  const kind = one.object.kind;
  const path = `@kubernetes-models/${PACKAGES[group]}/${group}/${version}/${kind}`;
  try {
    const file = ["mjs", "js"].map((end) => join(modules, "node_modules", `${path}.${end}`)).find(existsSync);
    const Model = (await import(pathToFileURL(file).href))[kind];
    new Model(structuredClone(one.object)).validate();
  } catch (error) {
    problems.get(one.name).push(String(error.message ?? error));
  }
  const i = owners.length;
  add(one.name, `import type { I${kind} as I${i} } from "${path}"; export const o${i}: I${i} = ${JSON.stringify(one.object)};`);
}

const file = join(modules, "cases.ts");
writeFileSync(file, lines.join("\n"));
const program = ts.createProgram([file], {
  noEmit: true,
  strict: true,
  skipLibCheck: true,
  types: [],
  target: ts.ScriptTarget.ES2022,
  module: ts.ModuleKind.NodeNext,
  moduleResolution: ts.ModuleResolutionKind.NodeNext,
});
for (const found of ts.getPreEmitDiagnostics(program)) {
  const text = ts.flattenDiagnosticMessageText(found.messageText, "\n");
  const line = found.file ? found.file.getLineAndCharacterOfPosition(found.start).line : 0;
  if (found.file && found.file.fileName !== file) throw new Error(`${found.file.fileName}: ${text}`);
  problems.get(owners[line]).push(text);
}
console.log(JSON.stringify(Object.fromEntries(problems)));
