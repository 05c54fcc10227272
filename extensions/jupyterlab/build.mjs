// Makes the prebuilt extension in `labextension/`. It is committed, so that installing needs no
// Node; a test builds it again and compares.
//
// JupyterLab loads an extension as a container of webpack's module federation: an object with
// `init`, which is given the modules that all extensions share, and `get`, which gives one of its
// own. That is little enough to be written down here, and esbuild does the rest. What belongs to
// JupyterLab is taken from it and never bundled.
import { copyFile, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import * as esbuild from "../widgets/node_modules/esbuild/lib/main.js";

const out = process.argv[2] ?? "labextension";
const host = /^@(jupyterlab|lumino)\//;

const { name, version, description, license, jupyterlab } = JSON.parse(
  await readFile("package.json", "utf8"),
);

const options = { bundle: true, minify: true, charset: "utf8", legalComments: "none" };
const { outputFiles, metafile } = await esbuild.build({
  ...options,
  entryPoints: ["src/index.ts"],
  format: "cjs",
  target: "es2022",
  metafile: true,
  write: false,
  plugins: [
    {
      name: "host",
      setup: (build) => build.onResolve({ filter: host }, ({ path }) => ({ path, external: true })),
    },
  ],
});
const [output] = Object.values(metafile.outputs);
const shared = [...new Set(output.imports.map(({ path }) => path))].sort();

const container = `(window._JUPYTERLAB ??= {})[${JSON.stringify(name)}] = (() => {
  let scope;
  let made;
  const take = async (name) => {
    const offers = Object.values(scope[name] ?? {});
    const offer = offers.find((one) => one.loaded) ?? offers[0];
    if (!offer) throw new Error("JupyterLab does not share " + name);
    return [name, (await offer.get())()];
  };
  const make = async () => {
    const given = Object.fromEntries(await Promise.all(${JSON.stringify(shared)}.map(take)));
    const module = { exports: {} };
    ((module, require) => {
${outputFiles[0].text}})(module, (name) => given[name]);
    return () => module.exports;
  };
  return { init: (given) => void (scope = given), get: () => (made ??= make()) };
})();
`;

await rm(out, { recursive: true, force: true });
const schemas = `${out}/schemas/${name}`;
await mkdir(schemas, { recursive: true });
await mkdir(`${out}/static`);
await writeFile(`${out}/static/container.js`, container);
await esbuild.build({
  ...options,
  entryPoints: { style: "style/style.css" },
  outdir: `${out}/static`,
});
const described = { name, version, description, license };
const built = { load: "static/container.js", extension: "./extension" };
const json = (value) => `${JSON.stringify(value, null, 2)}\n`;
await writeFile(
  `${out}/package.json`,
  json({ ...described, jupyterlab: { ...jupyterlab, _build: built } }),
);
await writeFile(`${schemas}/package.json.orig`, json({ ...described, jupyterlab }));
await copyFile("schema/plugin.json", `${schemas}/plugin.json`);
await copyFile("install.json", `${out}/install.json`);
