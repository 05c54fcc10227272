// Bundles the front ends into the Python package. The output is committed, so that installing
// tapml_nb needs no Node; a test builds it again and compares.
import { copyFile, readFile } from "node:fs/promises";
import * as esbuild from "esbuild";

const root = process.argv[2] ?? "../../tapml_nb";
const outdir = `${root}/widgets/static`;

const options = {
  bundle: true,
  format: "esm",
  target: "es2022",
  minify: true,
  legalComments: "none",
  charset: "utf8",
};

await esbuild.build({
  ...options,
  entryPoints: { workbench: "src/main.ts", style: "src/style.css" },
  outdir,
});

// What makes a report's page live stands in the page itself, licence and all.
const licence = await readFile("node_modules/uplot/LICENSE", "utf8");
for (const entry of ["src/report.ts", "src/style.css"]) {
  await esbuild.build({
    ...options,
    entryPoints: { report: entry },
    format: "iife",
    banner: { js: `/* uPlot:\n${licence} */` },
    outdir: `${root}/report/static`,
  });
}

// The target server hands this one out, so it is there also where the widgets are not.
await esbuild.build({
  ...options,
  entryPoints: { page: "src/page.ts" },
  outdir: `${root}/targets/server/static`,
});

// The one library in the bundle asks for its licence beside every copy.
await copyFile("node_modules/uplot/LICENSE", `${outdir}/uPlot.LICENSE.txt`);
