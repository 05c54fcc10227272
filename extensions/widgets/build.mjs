// Bundles the front ends into the Python package. The output is committed, so that installing
// tapml_nb needs no Node; a test builds it again and compares.
import { copyFile } from "node:fs/promises";
import * as esbuild from "esbuild";

const outdir = process.argv[2] ?? "../../tapml_nb/widgets/static";

await esbuild.build({
  entryPoints: { workbench: "src/main.ts", style: "src/style.css" },
  outdir,
  bundle: true,
  format: "esm",
  target: "es2022",
  minify: true,
  legalComments: "none",
  charset: "utf8",
});

// The one library in the bundle asks for its licence beside every copy.
await copyFile("node_modules/uplot/LICENSE", `${outdir}/uPlot.LICENSE.txt`);
