// Runs the tests that need no browser: esbuild makes modules of them that Node can read.
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { run } from "node:test";
import { spec } from "node:test/reporters";
import * as esbuild from "esbuild";

const names = (await readdir("tests")).filter((name) => name.endsWith(".test.ts"));
// Below here, so that packages are found; ignored by git.
const outdir = await mkdtemp("node_modules/.tests-");
await esbuild.build({
  entryPoints: names.map((name) => `tests/${name}`),
  bundle: true,
  format: "esm",
  platform: "node",
  packages: "external",
  sourcemap: "inline",
  outdir,
  outExtension: { ".js": ".mjs" },
});
const files = names.map((name) => `${outdir}/${name.replace(/ts$/, "mjs")}`);
process.env.NODE_NO_WARNINGS = "1"; // its clock for tests is experimental
run({ files, concurrency: true })
  .on("test:fail", () => (process.exitCode = 1))
  .on("end", () => rm(outdir, { recursive: true }))
  .compose(spec)
  .pipe(process.stdout);
