// Bundles the front ends into the Python package. The output is committed, so that installing
// tapml_nb needs no Node; a test builds it again and compares.
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
